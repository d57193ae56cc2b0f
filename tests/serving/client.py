"""A service on a free port of loopback, and a client of it that uses sockets as any program would."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import uvicorn

from erc_llm.hosting.listen import open_socket
from erc_llm.serving.app import create_app
from erc_llm.serving.limits import Limits


class Answer(NamedTuple):
    status: int
    body: Any


class Client:
    """Sends requests, each on a connection of its own."""

    def __init__(self, port: int, key: str | None = None) -> None:
        self.port = port
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        sent = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(method, path, sent, {"Content-Type": "application/json", **self.headers, **headers})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        kind = answer.getheader("content-type") or ""
        return Answer(answer.status, json.loads(content) if content and "json" in kind else content.decode())

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        return self.ask("POST", path, body, **headers)

    def get(self, path: str) -> Answer:
        return self.ask("GET", path)


@contextmanager
def service(predictor: Any, limits: Limits | None = None, key: str | None = None) -> Iterator[Client]:
    """A service until the block ends."""
    with open_socket("127.0.0.1", 0) as door:
        config = uvicorn.Config(create_app(predictor, limits, key), log_level="error", timeout_graceful_shutdown=10)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, daemon=True)
        thread.start()
        try:
            until(lambda: server.started)
            yield Client(door.getsockname()[1], key)
        finally:
            server.should_exit = True
            thread.join(20)
        assert not thread.is_alive()


def until(happens: Any, seconds: float = 20) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.01)
