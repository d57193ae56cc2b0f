"""A language model behind an OpenAI-compatible server.

In: an address, a model name, (system, user) texts. Out: answers, in order. Text leaves this machine only where that was
allowed explicitly. The key comes from the environment (`ERC_LLM_API_KEY`, else `OPENAI_API_KEY`) and is never shown or
stored. Knows nothing of what is asked.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import SplitResult, urlsplit

from erc_llm.errors import ConfigError, ModelError

_KEYS = ("ERC_LLM_API_KEY", "OPENAI_API_KEY")
_NO_KEY = "none"


class Endpoint:
    """A chat model that a server offers.

    Args:
        url: Its address, such as `http://127.0.0.1:8000/v1`.
        model: The name the server knows it by.
        allow_remote: Whether text may be sent to another machine.
        timeout: Seconds to wait for one answer.
        retries: How often a request that failed in passing (timeout, overload) is sent again, ever later.
        concurrency: Requests at once.

    Raises:
        ConfigError: The address is none, or another machine's without `allow_remote`.
        ModelError: The client library is missing.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        allow_remote: bool = False,
        timeout: float = 60.0,
        retries: int = 4,
        concurrency: int = 4,
    ) -> None:
        host = check_address(url)
        if not allow_remote and not _is_here(host):
            raise ConfigError(
                f"'{url}' is another machine, and text would be sent there; add --allow-remote if that is meant"
            )
        try:
            from openai import DefaultHttpxClient, OpenAI
        except ModuleNotFoundError as error:
            raise ModelError("a model server needs the client library: pip install 'erc-llm[endpoint]'") from error
        key = next((os.environ[name] for name in _KEYS if os.environ.get(name)), _NO_KEY)
        self.url = url
        self.model = model
        self._concurrency = concurrency
        self._key = key
        # What may not leave this machine must not leave it by a redirection or a proxy either.
        self._connect: Callable[[], Any] = lambda: OpenAI(
            base_url=url,
            api_key=key,
            timeout=timeout,
            max_retries=retries,
            http_client=DefaultHttpxClient(follow_redirects=allow_remote, trust_env=allow_remote),
        )

    def answer(self, prompts: Sequence[tuple[str, str]], max_new_tokens: int) -> list[str]:
        """An answer to each prompt, with temperature 0.

        Raises:
            ModelError: The server gave no usable answer, after all retries.
        """
        with self._connect() as client, ThreadPoolExecutor(self._concurrency) as pool:
            return list(pool.map(lambda prompt: self._ask(client, prompt[0], prompt[1], max_new_tokens), prompts))

    def _ask(self, client: Any, system: str, user: str, max_new_tokens: int) -> str:
        from openai import OpenAIError

        messages: Any = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        try:
            found = client.chat.completions.create(
                model=self.model, messages=messages, temperature=0.0, max_tokens=max_new_tokens
            )
            text = found.choices[0].message.content
        except (OpenAIError, AttributeError, LookupError, TypeError, ValueError) as error:
            said = str(error).replace(self._key, "(the key)") if self._key != _NO_KEY else str(error)
            raise ModelError(
                f"{self.url}: no usable answer from model '{self.model}': {type(error).__name__}: {said}; "
                "what was answered before is kept, the same command goes on from there"
            ) from error
        if not isinstance(text, str) or not text.strip():
            raise ModelError(
                f"{self.url}: model '{self.model}' answered with nothing; what was answered before is kept"
            )
        return text


def check_address(url: str) -> str:
    """The host of a server's address.

    Raises:
        ConfigError: It is no address, or may have a secret in it.
    """
    address = _address(url)
    if "@" in url or "?" in url:  # a secret may stand there, so the address is not shown
        raise ConfigError(f"the server's address must not hold a user, password or query; put the key into {_KEYS[0]}")
    if address is None or not address.hostname:
        raise ConfigError(f"{url!r}: no address of a server; expected one such as http://127.0.0.1:8000/v1")
    return address.hostname


def _address(url: str) -> SplitResult | None:
    """The parts of an address; None where it is none."""
    try:
        address = urlsplit(url)
        usable = address.scheme in ("http", "https") and address.hostname and (address.port is None or address.port)
    except ValueError:
        return None
    return address if usable and url.isprintable() and " " not in url else None


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
