"""Client of a language model behind an OpenAI-compatible server.

Text leaves this machine only if that was allowed explicitly. The key comes from the environment (`ERC_LLM_API_KEY`,
else `OPENAI_API_KEY`) and is never shown or stored.

Input: an address, a model name, requests. Output: the parsed responses, as they arrive.
Does not depend on: prompts, labels, where responses are kept.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import math
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from erc_llm.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from tenacity import RetryCallState

_KEYS = ("ERC_LLM_API_KEY", "OPENAI_API_KEY")
_NO_KEY = "none"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0  # seconds; the same as in the client library
_LONGEST_WAIT = 120.0  # seconds that a `Retry-After` may ask for; a longer wait would look like a hang
_NO_PAGE = (404, 405, 501)  # with any other status the page may exist, but is not available now
_TEMPORARY = (408, 409, 429)  # and all from 500 on
_SHOWN = 200  # characters of an unusable response that a message shows

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a server.

    Attributes:
        path: Path below the server's address, such as `/chat/completions`.
        body: JSON to post there; None: a GET request.
        about: The target that the request is about, for error messages.
    """

    path: str
    body: Mapping[str, Any] | None
    about: str = ""


class _NoAnswer(Exception):
    """A failed attempt: what was found, whether a retry may succeed, and seconds that the server asks to wait."""

    def __init__(self, what: str, temporary: bool = True, wait: float = 0.0) -> None:
        super().__init__(what)
        self.temporary = temporary
        self.wait = wait


def _may_pass(error: BaseException) -> bool:
    """Whether a retry may succeed within the longest wait."""
    return isinstance(error, _NoAnswer) and error.temporary and error.wait <= _LONGEST_WAIT


def _wait_of(state: RetryCallState) -> float:
    """Seconds that the server asked to wait in its last response."""
    error = state.outcome.exception() if state.outcome else None
    return error.wait if isinstance(error, _NoAnswer) else 0.0


class Endpoint:
    """A model behind a server.

    Args:
        url: The server's address, such as `http://127.0.0.1:8000/v1`.
        model: Name of the model on the server.
        allow_remote: Whether text may be sent to another machine.
        timeout: Seconds within which the whole response must arrive; counted again for each retry.
        retries: Number of retries, with growing pauses, after a temporary failure (timeout, overload, broken
            connection) or a response that cannot be parsed. A server's `Retry-After` of up to two minutes is respected;
            a longer one is a failure.
        concurrency: Number of requests at once.

    Raises:
        ConfigError: The address is not valid, or is another machine's without `allow_remote`.
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
            import tenacity  # noqa: F401
            from openai import AsyncOpenAI, DefaultAsyncHttpxClient
        except ModuleNotFoundError as error:
            raise ModelError("a model server needs the client library: pip install 'erc-llm[endpoint]'") from error
        key = _key()
        self.url = url
        self.model = model
        self._concurrency = concurrency
        self._retries = retries
        self._timeout = timeout
        self._key = key
        # The library's time limit holds for each piece of a response, and its retries ignore a long `Retry-After`.
        # Text that may not leave this machine must not leave it by a redirection or a proxy either.
        self._connect: Callable[[], Any] = lambda: AsyncOpenAI(
            base_url=url,
            api_key=key,
            timeout=None,
            max_retries=0,
            http_client=DefaultAsyncHttpxClient(follow_redirects=allow_remote, trust_env=allow_remote, timeout=None),
        )

    def answer(
        self,
        prompts: Sequence[tuple[str, str]],
        max_new_tokens: int,
        keep: Callable[[int, str], object] | None = None,
    ) -> list[str]:
        """Answers to (system, user) prompts, with temperature 0.

        Args:
            prompts: The prompts.
            max_new_tokens: Most tokens of an answer.
            keep: Called with the index of a prompt and its answer as soon as it arrives, even if another one fails.

        Raises:
            ModelError: The server gave no usable response, or an empty one, after all retries.
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

        def take(i: int, text: str) -> None:
            answers[i] = text
            if keep:
                keep(i, text)

        self.each(requests, _words, take)
        return [answers[i] for i in range(len(prompts))]

    def each(self, requests: Sequence[Request], read: Callable[[Any], T], keep: Callable[[int, T], object]) -> None:
        """Send requests, several at once, and pass on each parsed response as soon as it arrives.

        Args:
            requests: The requests to post.
            read: Parses the JSON of a response; raises a `ValueError` or `LookupError` if it has another form.
            keep: Called with the index of a request and its parsed response; one call at a time, in any order.

        Raises:
            ModelError: The server gave no usable response to a request after all retries. Responses to requests that
                were sent by then are still kept; the remaining requests are not sent.
        """
        waiting, failures = iter(enumerate(requests)), list[Exception]()

        async def work(client: Any) -> None:
            for i, request in waiting:
                try:
                    keep(i, await self._ask(client, request, lambda text: read(json.loads(text))))
                except Exception as error:
                    failures.append(error)
                if failures:
                    return

        async def work_together() -> None:
            async with self._connect() as client:
                await asyncio.gather(*(work(client) for _ in range(self._concurrency)))

        _complete(work_together)
        if failures:
            raise failures[0]

    def look(self, path: str, *, root: bool = False) -> dict[str, Any] | None:
        """The JSON object of a GET request; None if the server has no such page, or the page is no JSON object.

        Args:
            path: Path below the address.
            root: Use the address without its `/v1`.

        Raises:
            ModelError: The server cannot be reached, fails, is overloaded, or refuses the key, after all retries.
        """
        base = self.url.rstrip("/")
        request = Request((base.removesuffix("/v1") if root else base) + path, None)

        async def ask() -> dict[str, Any] | None:
            async with self._connect() as client:
                return await self._ask(client, request, _page)

        return _complete(ask)

    async def _ask(self, client: Any, request: Request, read: Callable[[str], T]) -> T:
        """The parsed response; the request is retried while that may succeed."""
        from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential

        async def ask() -> T:
            return self._read(await self._text(client, request), read)

        usual = wait_exponential(_FIRST_PAUSE, max=_LONGEST_PAUSE)  # doubles from the first pause to the longest
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._retries + 1),
            retry=retry_if_exception(_may_pass),
            wait=lambda state: max(_wait_of(state), usual(state)),
            reraise=True,
        )
        try:
            return await retrying(ask)
        except _NoAnswer as error:
            raise self._failed(request, error) from error

    async def _text(self, client: Any, request: Request) -> str:
        """The text of a response; empty for a page that does not exist."""
        from openai import APIStatusError, OpenAIError

        try:
            async with asyncio.timeout(self._timeout):
                if request.body is None:
                    return str(await client.get(request.path, cast_to=str))
                return str(await client.post(request.path, body=dict(request.body), cast_to=str))
        except TimeoutError as error:
            raise _NoAnswer(f"Timeout: not all of it was there within {self._timeout:g} s (--timeout)") from error
        except APIStatusError as error:
            status, response = error.status_code, error.response
            if request.body is None and status in _NO_PAGE:
                return ""
            temporary = status in _TEMPORARY or status >= 500
            what = f"status {status}, {self._shown(response.text)}"
            raise _NoAnswer(what, temporary, _seconds(response.headers.get("Retry-After"))) from error
        except (OpenAIError, ValueError) as error:
            cause = error.__cause__ or error
            raise _NoAnswer(f"no connection, or a broken one: {type(cause).__name__}: {cause}") from error

    def _read(self, text: str, read: Callable[[str], T]) -> T:
        try:
            return read(text)
        except json.JSONDecodeError as error:
            raise _NoAnswer(self._shown(text)) from error
        except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
            what = f"of another form than expected ({type(error).__name__}: {error}): {self._shown(text)}"
            raise _NoAnswer(what) from error

    def _failed(self, request: Request, error: _NoAnswer) -> ModelError:
        if request.body is None:
            what = f"{request.path}: no usable answer"
        else:
            about = f" about {request.about}" if request.about else ""
            what = f"{self.url}: no usable answer from model '{self.model}'{about}"
        then = "the same command continues from there"
        if not error.temporary:
            then = "but the server would refuse this again: correct what its message states first"
        elif error.wait > _LONGEST_WAIT:
            then += f", in {error.wait:.0f} s: the server asks to wait that long"
        message = " ".join(f"{what}: {error}; what was answered before is kept, {then}".split())
        return ModelError(self._without_key(message))

    def _shown(self, text: str) -> str:
        """The first characters of a response, with its kind if it is not JSON."""
        words = self._without_key(" ".join(text.split()))  # before the text is cut: a cut could leave half of the key
        start = "".join(c if c.isprintable() else "\ufffd" for c in words[:_SHOWN]) + "..." * (len(words) > _SHOWN)
        if not words:
            return "nothing at all"
        return start if _is_json(text) else f"{'HTML' if start[0] == '<' else 'text'} and not JSON: {start}"

    def _without_key(self, text: str) -> str:
        key = self._key.strip()
        return text.replace(key, "(the key)") if key and key != _NO_KEY else text


def _complete(work: Callable[[], Awaitable[T]]) -> T:
    """Run it in an event loop of its own, because a caller such as a notebook may already run in one."""
    from anyio.from_thread import start_blocking_portal

    with start_blocking_portal() as portal:
        return portal.call(work)


def _page(text: str) -> dict[str, Any] | None:
    found = json.loads(text) if _is_json(text) else None
    return found if isinstance(found, dict) else None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _seconds(retry_after: str | None) -> float:
    """Seconds that a `Retry-After` asks to wait, given as seconds or as a date; 0 if it cannot be parsed."""
    try:
        seconds = float(retry_after or 0)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after or "").timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0


def _words(found: Any) -> str:
    text = found["choices"][0]["message"]["content"]
    if not isinstance(text, str) or not text.strip():
        raise ValueError("the answer is empty")
    return text


def _key() -> str:
    """The key from the environment, which is sent in a header.

    Raises:
        ConfigError: The key cannot be sent in a header; the message does not show it.
    """
    for name in _KEYS:
        if key := os.environ.get(name, "").strip():
            if not (key.isascii() and key.isprintable()):
                raise ConfigError(f"{name}: holds a line break or a character that keys do not have; set it again")
            return key
    return _NO_KEY


def check_address(url: str) -> str:
    """The host of a server's address.

    Raises:
        ConfigError: The address is not valid, or may contain a secret.
    """
    address = _address(url)
    if "@" in url or "?" in url:  # these parts may hold a secret, so the address is not shown
        raise ConfigError(f"the server's address must not hold a user, password or query; put the key into {_KEYS[0]}")
    if address is None or not address.hostname:
        raise ConfigError(f"{url!r}: not the address of a server; expected one such as http://127.0.0.1:8000/v1")
    return address.hostname


def _address(url: str) -> SplitResult | None:
    """The parts of an address; None if it is not valid."""
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
