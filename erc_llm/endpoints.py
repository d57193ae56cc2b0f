"""A language model behind an OpenAI-compatible server.

In: an address, a model name, requests. Out: what is read of their answers, as they come. Text leaves this machine only
where that was allowed explicitly. The key comes from the environment (`ERC_LLM_API_KEY`, else `OPENAI_API_KEY`) and is
never shown or stored. Knows nothing of what is asked.
"""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from threading import Event, Lock
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from erc_llm.errors import ConfigError, ModelError

_KEYS = ("ERC_LLM_API_KEY", "OPENAI_API_KEY")
_NO_KEY = "none"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0  # seconds; as the client library's
# Of a server that may well have the page, but does not show it now or not to us. Any other status: it has none.
_REFUSED = (401, 403, 407, 408, 429, 502, 503, 504)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """What is posted: a path below the server's address, such as `/chat/completions`, and its JSON body."""

    path: str
    body: Mapping[str, Any]


class Endpoint:
    """A model that a server offers.

    Args:
        url: Its address, such as `http://127.0.0.1:8000/v1`.
        model: The name the server knows it by.
        allow_remote: Whether text may be sent to another machine.
        timeout: Seconds to wait for one answer.
        retries: How often a request is sent again, ever later, that failed in passing (timeout, overload, broken
            connection) or was answered in a form that cannot be read. A server's `Retry-After` is kept to.
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
        self._retries = retries
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
        """An answer to each (system, user) prompt, with temperature 0.

        Raises:
            ModelError: The server gave no usable answer, or one without words, after all retries.
        """
        answers: dict[int, str] = {}
        requests = [
            Request(
                "/chat/completions",
                {
                    "model": self.model,
                    "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}],
                    "temperature": 0.0,
                    "max_tokens": max_new_tokens,
                },
            )
            for system, user in prompts
        ]
        self.each(requests, _words, lambda i, text: answers.update({i: text}))
        return [answers[i] for i in range(len(prompts))]

    def each(self, requests: Sequence[Request], read: Callable[[Any], T], keep: Callable[[int, T], object]) -> None:
        """Send requests, several at once, and hand over what is read of each answer as soon as it is there.

        Args:
            requests: What to post.
            read: Makes something of an answer's JSON; raises a `ValueError` or a look-up's error where it cannot.
            keep: Gets the index of a request and what was read; one call at a time, in any order.

        Raises:
            ModelError: The server gave no usable answer to one of them, after all retries. What was under way then is
                still kept, the rest is not sent.
        """
        keeping, failed = Lock(), Event()

        def ask(client: Any, i: int) -> None:
            if failed.is_set():
                return
            try:
                found = self._ask(client, requests[i], read)
                with keeping:
                    keep(i, found)
            except BaseException:
                failed.set()
                raise

        with self._connect() as client, ThreadPoolExecutor(self._concurrency) as pool:
            jobs = [pool.submit(ask, client, i) for i in range(len(requests))]
            try:
                for job in as_completed(jobs):
                    job.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def look(self, path: str, *, root: bool = False) -> dict[str, Any] | None:
        """The JSON object that a GET finds; None where the server has no such page.

        Args:
            path: Below the address.
            root: Below the address without its `/v1`.

        Raises:
            ModelError: The server cannot be reached, is overloaded, or refuses the key.
        """
        from openai import APIStatusError, OpenAIError

        base = self.url.rstrip("/")
        address = (base.removesuffix("/v1") if root else base) + path
        with self._connect() as client:
            try:
                found = client.with_options(max_retries=min(self._retries, 1)).get(address, cast_to=object)
            except APIStatusError as error:
                if error.status_code in _REFUSED:
                    raise self._no_answer(error) from error
                return None
            except OpenAIError as error:
                raise self._no_answer(error) from error
            except ValueError:
                return None
        return found if isinstance(found, dict) else None

    def _ask(self, client: Any, request: Request, read: Callable[[Any], T]) -> T:
        from openai import OpenAIError

        for attempt in range(self._retries + 1):
            try:  # the client itself sends again what fails in passing
                return read(client.post(request.path, body=dict(request.body), cast_to=object))
            except OpenAIError as error:
                raise self._no_answer(error) from error
            except (AttributeError, LookupError, TypeError, ValueError) as error:
                if attempt == self._retries:
                    raise self._no_answer(error, "of another form than expected: ") from error
                time.sleep(min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE))
        raise AssertionError("unreachable")

    def _no_answer(self, error: Exception, what: str = "") -> ModelError:
        said = " ".join(str(error).split())
        if self._key != _NO_KEY:
            said = said.replace(self._key, "(the key)")
        return ModelError(
            f"{self.url}: no usable answer from model '{self.model}': {what}{type(error).__name__}: {said}; "
            "what was answered before is kept, the same command goes on from there"
        )


def _words(found: Any) -> str:
    text = found["choices"][0]["message"]["content"]
    if not isinstance(text, str) or not text.strip():
        raise ValueError("it answered with nothing")
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
