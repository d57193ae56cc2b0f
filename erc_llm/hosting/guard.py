"""The door of a server: what is refused before a route sees it.

It checks the key and the host, reads the request's body within a size and a time, and counts what was answered. A
server without a key answers only to requests that name this machine as their host, so a page in a browser cannot reach
it under another name (DNS rebinding). Where it has a page of its own, it refuses requests that another page makes a
browser send.

Input: an ASGI application. Output: an ASGI application.
Does not depend on: models, routes.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
_OPEN = "/healthz"  # needs no key: whoever watches the service has none


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Guard:
    """An ASGI application around another one.

    Attributes:
        inner: The application.
        key: Secret that clients must send; None: none, and only this machine may ask.
        body_bytes: Largest request.
        body_seconds: Time to send it.
        on_answer: Called with route, status and seconds of every request.
        own_page: Whether a browser may send requests from pages of this address only.
    """

    inner: Application
    key: str | None
    body_bytes: int
    body_seconds: float
    on_answer: Callable[[str, int, float], None]
    own_page: bool = False

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        began, status = time.perf_counter(), 499  # nothing was sent: the client has gone

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            headers = {name.lower(): value for name, value in scope["headers"]}
            self._check_host(scope["path"], headers)
            self._check_page(headers)
            body = await self._body(headers, receive)
            if body is not None:
                await self.inner(scope, _replay(body, receive), counted)
        except _Refused as refused:
            await _answer(counted, refused.status, str(refused))
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.on_answer(route, status, time.perf_counter() - began)

    def _check_page(self, headers: dict[bytes, bytes]) -> None:
        origin = headers.get(b"origin")
        if self.own_page and origin is not None and origin != b"http://" + headers.get(b"host", b""):
            raise _Refused(403, f"origin: found '{origin.decode('latin-1')}'; only the page of this address may ask")

    def _check_host(self, path: str, headers: dict[bytes, bytes]) -> None:
        if self.key is None:
            host = headers.get(b"host", b"").decode("latin-1")
            name = host if host.endswith("]") else host.rpartition(":")[0] or host
            if name not in LOOPBACK:
                raise _Refused(421, f"host: found '{host}'; without a key the service answers to localhost only")
            return
        sent = headers.get(b"authorization", b"").removeprefix(b"Bearer ") or headers.get(b"x-api-key", b"")
        if path != _OPEN and not secrets.compare_digest(sent, self.key.encode()):
            raise _Refused(401, "a key is needed: send `Authorization: Bearer KEY`")

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        """The whole body; None if the client has gone."""
        too_large = _Refused(413, f"the request is larger than {self.body_bytes:,} bytes; send less at a time")
        if (
            headers.get(b"content-length", b"0").isdigit()
            and int(headers.get(b"content-length", b"0")) > self.body_bytes
        ):
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > self.body_bytes:
                        raise too_large
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise _Refused(408, f"the request was not complete after {self.body_seconds:g} seconds") from None


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once, and then what really comes."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _answer(send: Send, status: int, message: str) -> None:
    body = json.dumps({"error": message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status in (408, 413):
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
