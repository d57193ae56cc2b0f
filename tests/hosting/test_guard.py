"""The door: which host names and which pages of a browser a server without a key answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from erc_llm.hosting.guard import Guard


def status(own_page: bool, **headers: str) -> int:
    """The status of a GET request with these headers."""
    sent: list[dict[str, Any]] = []

    async def inner(_: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/", "headers": [(k.encode(), v.encode()) for k, v in headers.items()]}
    asyncio.run(Guard(inner, None, 10, 1.0, lambda *_: None, own_page)(scope, receive, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "[::1]:8000"])
def test_this_machine_and_its_own_page_are_answered(host: str) -> None:
    assert status(True, host=host) == 200
    assert status(True, host=host, origin=f"http://{host}") == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9000", "https://127.0.0.1:8000"])
def test_another_page_is_refused_where_there_is_an_own_one(origin: str) -> None:
    assert status(True, host="127.0.0.1:8000", origin=origin) == 403
    assert status(False, host="127.0.0.1:8000", origin=origin) == 200


def test_another_host_name_is_refused() -> None:
    assert status(True, host="rebound.example", origin="http://rebound.example") == 421
