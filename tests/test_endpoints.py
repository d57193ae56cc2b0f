"""A chat model behind a server: order, retries, clear messages, and no text to other machines."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from erc_llm.endpoints import Endpoint
from erc_llm.errors import ConfigError, ModelError

Reply = tuple[int, str]


def said(text: str) -> Reply:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return 200, json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})


class Server:
    """A server of our own on loopback; `reply` gets the request and its number."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.reply: Callable[[dict[str, Any], int], Reply] = lambda request, _: said(request["messages"][-1]["content"])
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.requests.append(request)
                    outer.keys.append(self.headers["Authorization"])
                    number = len(outer.requests)
                status, body = outer.reply(request, number)
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(body.encode())))
                    self.end_headers()
                    self.wfile.write(body.encode())
                except OSError:
                    pass  # the client gave up

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    thread = threading.Thread(target=found.http.serve_forever, daemon=True)
    thread.start()
    yield found
    found.http.shutdown()
    found.http.server_close()


def endpoint(server: Server, retries: int = 0, timeout: float = 5.0) -> Endpoint:
    return Endpoint(server.url, "m", retries=retries, timeout=timeout)


def test_answers_keep_their_order_whatever_takes_longest(server: Server) -> None:
    def reply(request: dict[str, Any], number: int) -> Reply:
        time.sleep(0.1 if number == 1 else 0)
        return said(request["messages"][-1]["content"].upper())

    server.reply = reply
    answers = endpoint(server).answer([("s", f"q{k}") for k in range(8)], 20)
    assert answers == [f"Q{k}" for k in range(8)]
    for request in server.requests:
        assert request["temperature"] == 0
        assert request["max_tokens"] == 20
        assert [m["role"] for m in request["messages"]] == ["system", "user"]


@pytest.mark.parametrize("status", [500, 429])
def test_a_failure_in_passing_is_tried_again(server: Server, status: int) -> None:
    server.reply = lambda request, number: (status, "{}") if number == 1 else said("fine")
    assert endpoint(server, retries=1).answer([("s", "q")], 20) == ["fine"]
    assert len(server.requests) == 2


def test_a_server_that_hangs_is_given_up(server: Server) -> None:
    def reply(request: dict[str, Any], number: int) -> Reply:
        time.sleep(0.6)
        return said("too late")

    server.reply = reply
    with pytest.raises(ModelError, match=r"no usable answer from model 'm'.*the same command goes on") as caught:
        endpoint(server, timeout=0.2).answer([("s", "q")], 20)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "reply",
    [(500, "oops"), (200, "<html>no</html>"), (200, "{}"), (200, '{"choices": []}'), said(""), said("  \n")],
    ids=["500", "html", "empty object", "no choice", "nothing", "white space"],
)
def test_rubbish_is_one_clear_message(server: Server, reply: Reply, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERC_LLM_API_KEY", "very-secret")
    server.reply = lambda *_: reply
    with pytest.raises(ModelError, match=r"model .m.*is kept") as caught:
        endpoint(server).answer([("s", "q")], 20)
    assert server.url in str(caught.value)
    assert "very-secret" not in str(caught.value)
    assert server.keys == ["Bearer very-secret"]


@pytest.mark.parametrize("url", ["http://example.org/v1", "https://10.0.0.7:8000/v1", "http://localhost.example.org"])
def test_nothing_is_sent_to_another_machine_unless_allowed(url: str) -> None:
    with pytest.raises(ConfigError, match="--allow-remote"):
        Endpoint(url, "m")
    assert Endpoint(url, "m", allow_remote=True).url == url


@pytest.mark.parametrize("url", ["http://localhost:1/v1", "http://127.0.0.2:1/v1", "http://[::1]:1/v1"])
def test_loopback_is_here(url: str) -> None:
    assert Endpoint(url, "m").url == url


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://127.0.0.1/v1", "http://"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="no address of a server"):
        Endpoint(url, "m")


def test_without_the_client_library_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ModelError, match=r"pip install 'erc-llm\[endpoint\]'"):
        Endpoint("http://127.0.0.1:1/v1", "m")
