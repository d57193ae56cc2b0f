"""Client of a language model behind an OpenAI-compatible server.

Text leaves this machine only where that was allowed explicitly. The key comes from the environment (`ERC_LLM_API_KEY`,
else `OPENAI_API_KEY`) and is never shown or stored.

Input: an address, a model name, requests. Output: what is read of the responses, as they come.
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
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0  # seconds; as the client library's
_LONGEST_WAIT = 120.0  # seconds that a `Retry-After` may ask for; whoever looks on takes a longer one for a hang
_NO_PAGE = (404, 405, 501)  # with any other status a server may well have the page, but does not show it now
_IN_PASSING = (408, 409, 429)  # and all from 500 on
_SHOWN = 200  # characters of an answer that cannot be used

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """What a server is asked.

    Attributes:
        path: Below its address, such as `/chat/completions`.
        body: JSON that is posted there; None: the page is looked at.
        about: Whom it is about, for messages.
    """

    path: str
    body: Mapping[str, Any] | None
    about: str = ""


class _NoAnswer(Exception):
    """A try that failed: what came, whether it may go better another time, and seconds that the server asks to wait."""

    def __init__(self, what: str, in_passing: bool = True, wait: float = 0.0) -> None:
        super().__init__(what)
        self.in_passing = in_passing
        self.wait = wait


def _may_pass(error: BaseException) -> bool:
    """Whether the same request may be answered later, within the time that is waited for it."""
    return isinstance(error, _NoAnswer) and error.in_passing and error.wait <= _LONGEST_WAIT


def _wait_of(state: RetryCallState) -> float:
    """Seconds that the server asked to wait in its last answer."""
    error = state.outcome.exception() if state.outcome else None
    return error.wait if isinstance(error, _NoAnswer) else 0.0


class Endpoint:
    """A model that a server offers.

    Args:
        url: Its address, such as `http://127.0.0.1:8000/v1`.
        model: The name the server knows it by.
        allow_remote: Whether text may be sent to another machine.
        timeout: Seconds within which the whole of an answer must be there; counted anew when a request is sent again.
        retries: How often a request is sent again, ever later, that failed in passing (timeout, overload, broken
            connection) or was answered in a form that cannot be read. A server's `Retry-After` of up to two minutes is
            kept to; a longer one is a failure.
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
        # The library's time limit is for each piece of an answer anew, and its retries give up a long `Retry-After`.
        # What may not leave this machine must not leave it by a redirection or a proxy either.
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
        """An answer to each (system, user) prompt, with temperature 0.

        Args:
            prompts: What to ask.
            max_new_tokens: Most tokens of an answer.
            keep: Gets the index of a prompt and its answer as soon as it is there, also where another one fails.

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

        def take(i: int, text: str) -> None:
            answers[i] = text
            if keep:
                keep(i, text)

        self.each(requests, _words, take)
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
        """The JSON object that a GET finds; None where the server has no such page, or something else there.

        Args:
            path: Below the address.
            root: Below the address without its `/v1`.

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
        """What is read of the text of an answer, asked for again while that may help."""
        from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential

        async def ask() -> T:
            return self._read(await self._text(client, request), read)

        usual = wait_exponential(_FIRST_PAUSE, max=_LONGEST_PAUSE)  # doubles from one to the other
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
        """The text of an answer; that of a page which is not there is empty."""
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
            in_passing = status in _IN_PASSING or status >= 500
            what = f"status {status}, {self._shown(response.text)}"
            raise _NoAnswer(what, in_passing, _seconds(response.headers.get("Retry-After"))) from error
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
        then = "the same command goes on from there"
        if not error.in_passing:
            then = "but the server would refuse this again: mend what it says first"
        elif error.wait > _LONGEST_WAIT:
            then += f", in {error.wait:.0f} s: so long the server says to wait"
        said = " ".join(f"{what}: {error}; what was answered before is kept, {then}".split())
        return ModelError(self._without_key(said))

    def _shown(self, text: str) -> str:
        """The first characters of an answer, and plainly what it is where it is not JSON."""
        words = self._without_key(" ".join(text.split()))  # before it is cut, which could spare half the key
        start = "".join(c if c.isprintable() else "\ufffd" for c in words[:_SHOWN]) + "..." * (len(words) > _SHOWN)
        if not words:
            return "nothing at all"
        return start if _is_json(text) else f"{'HTML' if start[0] == '<' else 'text'} and not JSON: {start}"

    def _without_key(self, text: str) -> str:
        key = self._key.strip()
        return text.replace(key, "(the key)") if key and key != _NO_KEY else text


def _complete(work: Callable[[], Awaitable[T]]) -> T:
    """Do it in an event loop of its own: a notebook, for one, is inside of one already."""
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
    """How long a `Retry-After` asks to wait, in seconds or until a date; 0 where it says nothing that can be read."""
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
        raise ValueError("it answered with nothing")
    return text


def _key() -> str:
    """The key in the environment, which goes into a header.

    Raises:
        ConfigError: It cannot; the message does not show it.
    """
    for name in _KEYS:
        if key := os.environ.get(name, "").strip():
            if not (key.isascii() and key.isprintable()):
                raise ConfigError(f"{name}: holds a line break or a character that no key has; set it anew")
            return key
    return _NO_KEY


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
