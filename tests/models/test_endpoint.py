"""A chat model behind a server: order, retries, clear messages."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from erc_llm.errors import ModelError
from erc_llm.models.endpoint import Endpoint, Request
from tests.model_server import Reply, Server, said
from tests.recipes.predict_served.asking import endpoint


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


def test_several_are_asked_at_once(server: Server) -> None:
    meeting = threading.Barrier(4, timeout=5)

    def reply(request: dict[str, Any], number: int) -> Reply:
        meeting.wait()
        return said(request["messages"][-1]["content"])

    server.reply = reply
    prompts = [("s", f"q{k}") for k in range(8)]
    assert Endpoint(server.url, "m", retries=0, concurrency=4).answer(prompts, 20) == [user for _, user in prompts]


@pytest.mark.parametrize("status", [500, 429])
def test_a_failure_in_passing_is_tried_again(server: Server, status: int) -> None:
    server.reply = lambda request, number: (status, "{}") if number == 1 else said("fine")
    assert endpoint(server, retries=1).answer([("s", "q")], 20) == ["fine"]
    assert len(server.requests) == 2


def test_a_timeout_in_passing_is_tried_again(server: Server) -> None:
    def reply(request: dict[str, Any], number: int) -> Reply:
        time.sleep(1.0 if number == 1 else 0)
        return said("fine")

    server.reply = reply
    assert endpoint(server, retries=1, timeout=0.4).answer([("s", "q")], 20) == ["fine"]
    assert len(server.requests) == 2


def test_a_server_that_asks_to_wait_is_waited_for(server: Server) -> None:
    server.headers = {"Retry-After": "1"}
    server.reply = lambda request, number: (429, "{}") if number == 1 else said("fine")
    began = time.monotonic()
    assert endpoint(server, retries=1).answer([("s", "q")], 20) == ["fine"]
    assert time.monotonic() - began >= 1


def test_a_date_to_wait_for_is_waited_for(server: Server) -> None:
    server.headers = {"Retry-After": formatdate(time.time() + 3, usegmt=True)}
    server.reply = lambda request, number: (503, "{}") if number == 1 else said("fine")
    began = time.time()
    assert endpoint(server, retries=1).answer([("s", "q")], 20) == ["fine"]
    assert time.time() - began >= 1


@pytest.mark.parametrize("wait", ["0", "-3", "soon", "nan", "Mon, 01 Jan 2001 00:00:00 GMT"])
def test_a_wait_that_says_nothing_is_our_own(server: Server, wait: str) -> None:
    server.headers = {"Retry-After": wait}
    server.reply = lambda request, number: (429, "{}") if number == 1 else said("fine")
    began = time.monotonic()
    assert endpoint(server, retries=1).answer([("s", "q")], 20) == ["fine"]
    assert time.monotonic() - began >= 0.5


def test_a_server_that_asks_to_wait_too_long_is_told_at_once(server: Server) -> None:
    server.headers = {"Retry-After": "600"}
    server.reply = lambda *_: (429, "{}")
    with pytest.raises(ModelError, match=r"status 429.* is kept, the same command continues from there, in 600 s"):
        endpoint(server, retries=4).answer([("s", "q")], 20)
    assert len(server.requests) == 1


def test_pauses_double_up_to_a_limit_and_never_go_below_what_the_server_asks(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused: list[float] = []

    async def sleep(seconds: float) -> None:
        paused.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)

    def reply(request: dict[str, Any], number: int) -> Reply:
        server.headers = {"Retry-After": {2: "3", 7: "119"}.get(number, "0")}
        return (503, "{}") if number <= 7 else said("fine")

    server.reply = reply
    assert endpoint(server, retries=7).answer([("s", "q")], 20) == ["fine"]
    assert paused == [0.5, 3, 2, 4, 8, 8, 119]


@pytest.mark.parametrize("rubbish", [(200, "<html>Bad gateway</html>"), (200, '{"choices": []}'), (200, "{")])
def test_an_answer_that_cannot_be_read_is_asked_for_again(server: Server, rubbish: Reply) -> None:
    server.reply = lambda request, number: rubbish if number == 1 else said("fine")
    assert endpoint(server, retries=1).answer([("s", "q")], 20) == ["fine"]
    assert len(server.requests) == 2


def test_what_was_under_way_when_another_failed_is_kept(server: Server) -> None:
    both = threading.Barrier(2, timeout=5)

    def reply(request: dict[str, Any], number: int) -> Reply:
        both.wait()
        time.sleep(0 if request["q"] == 0 else 0.3)
        return (400, "{}") if request["q"] == 0 else said("late")

    server.reply = reply
    kept: dict[int, Any] = {}
    found = Endpoint(server.url, "m", retries=0, concurrency=2)
    requests = [Request("/chat/completions", {"q": k}) for k in range(6)]
    with pytest.raises(ModelError):
        found.each(requests, lambda answer: answer["choices"][0]["message"]["content"], kept.__setitem__)
    assert kept == {1: "late"}
    assert len(server.requests) == 2, "the rest was not sent"


def test_a_look_finds_a_page_or_nothing(server: Server) -> None:
    server.pages = {"/v1/models": (200, '{"data": []}'), "/version": (200, '{"version": "1"}')}
    found = endpoint(server)
    assert found.look("/models") == {"data": []}
    assert found.look("/version", root=True) == {"version": "1"}
    assert found.look("/none") is None
    for page in ((200, "<p>"), (200, ""), (200, "[1]"), (404, "<p>"), (405, "{}"), (501, "{}")):
        server.pages = {"/v1/models": page}
        assert found.look("/models") is None


@pytest.mark.parametrize("status", [400, 401, 403, 429, 500, 502, 503])
def test_a_look_that_fails_is_not_taken_for_nothing(server: Server, status: int) -> None:
    server.pages = {"/v1/models": (status, "{}")}
    with pytest.raises(ModelError, match=rf"/v1/models: no usable answer: status {status}"):
        endpoint(server).look("/models")


@pytest.mark.parametrize("status", [429, 500])
def test_a_look_that_fails_in_passing_is_tried_again(server: Server, status: int) -> None:
    class Recovering(dict[str, Reply]):
        def get(self, path: str, _: Any = None) -> Any:
            return (status, "{}") if len(server.looked) == 1 else (200, '{"data": []}')

    server.pages = Recovering()
    assert endpoint(server, retries=1).look("/models") == {"data": []}
    assert len(server.looked) == 2


def test_a_look_at_nobody_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ModelError, match="no connection, or a broken one"):
        Endpoint(f"http://127.0.0.1:{port}/v1", "m", retries=0).look("/models")


def test_retries_come_to_an_end(server: Server) -> None:
    server.reply = lambda *_: (429, "{}")
    with pytest.raises(ModelError, match="no usable answer"):
        endpoint(server, retries=1).answer([("s", "q")], 20)
    assert len(server.requests) == 2


def test_a_server_that_hangs_is_given_up(server: Server) -> None:
    def reply(request: dict[str, Any], number: int) -> Reply:
        time.sleep(0.6)
        return said("too late")

    server.reply = reply
    with pytest.raises(ModelError, match=r"no usable answer from model 'm'.*the same command continues") as caught:
        endpoint(server, timeout=0.2).answer([("s", "q")], 20)
    assert caught.value.exit_code == 2


def drip(handler: BaseHTTPRequestHandler, whole: str) -> None:
    """Send a byte now and then: each comes in time, all of them do not. Ends when the client hangs up."""
    handler.close_connection = True
    try:
        for byte in whole.encode():
            handler.wfile.write(bytes([byte]))
            time.sleep(0.05)
    except OSError:
        pass


HEAD = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize("whole", [HEAD + "X-Slow: " + "x" * 300, HEAD + "Content-Length: 300\r\n\r\n" + " " * 300])
def test_an_answer_that_drips_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch, whole: str) -> None:
    """In the head or in the body of the answer; it would take 17 seconds."""
    monkeypatch.setattr(server.handler, "do_POST", lambda handler: drip(handler, whole))
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"Timeout.*within 1 s"):
        endpoint(server, timeout=1).answer([("s", "q")], 20)
    assert time.monotonic() - began < 10


def test_a_page_that_drips_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.handler, "do_GET", lambda handler: drip(handler, HEAD + "X-Slow: " + "x" * 300))
    with pytest.raises(ModelError, match=r"Timeout.*within 1 s"):
        endpoint(server, timeout=1).look("/models")


def test_an_answer_that_drips_in_passing_is_asked_for_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, dripped = server.handler.do_POST, []  # type: ignore[attr-defined]

    def post(handler: BaseHTTPRequestHandler) -> None:
        dripped.append(len(dripped))
        drip(handler, HEAD + "X-Slow: " + "x" * 300) if len(dripped) == 1 else usual(handler)

    monkeypatch.setattr(server.handler, "do_POST", post)
    server.reply = lambda *_: said("fine")
    assert endpoint(server, retries=1, timeout=2).answer([("s", "q")], 20) == ["fine"]


@pytest.mark.parametrize(
    ("reply", "shown"),
    [
        ((400, '{"error": "too\\nlong"}'), 'status 400, {"error": "too\\nlong"}; '),
        ((404, "<html>\n<b>no</b>"), "status 404, HTML and not JSON: <html> <b>no</b>; "),
        ((500, "Internal\x1b[31m Error"), "status 500, text and not JSON: Internal\ufffd[31m Error; "),
        ((503, ""), "status 503, nothing at all; "),
        ((200, "<html>Bad gateway"), "answer from model 'm': HTML and not JSON: <html>Bad gateway; "),
        ((200, '{"choices"'), 'text and not JSON: {"choices"; '),
        ((200, ""), "nothing at all; "),
        ((200, '{"error": "no"}'), 'of another form than expected (KeyError: \'choices\'): {"error": "no"}; '),
        ((400, "x" * 300), "x" * 200 + "...; "),
    ],
    ids=str,
)
def test_what_came_instead_is_said_plainly(server: Server, reply: Reply, shown: str) -> None:
    server.reply = lambda *_: reply
    with pytest.raises(ModelError) as caught:
        endpoint(server).answer([("s", "q")], 20)
    assert shown in str(caught.value)


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422])
def test_what_is_refused_is_not_asked_again_and_nobody_is_told_to(server: Server, status: int) -> None:
    server.reply = lambda *_: (status, '{"error": "too long"}')
    with pytest.raises(ModelError) as caught:
        endpoint(server, retries=4).each([Request("/completions", {}, "line 7")], _anything, lambda *_: None)
    assert len(server.requests) == 1
    assert f"from model 'm' about line 7: status {status}, " in str(caught.value)
    assert "the server would refuse this again" in str(caught.value)
    assert "the same command goes on" not in str(caught.value)


def _anything(found: Any) -> Any:
    return found


def test_a_notebook_can_ask_from_inside_its_event_loop(server: Server) -> None:
    async def cell() -> list[str]:
        return endpoint(server).answer([("s", "q")], 20)

    assert asyncio.run(cell()) == ["q"]


@pytest.mark.parametrize(
    "reply",
    [
        (500, "oops"),
        (404, "{}"),
        (200, "<html>no</html>"),
        (200, "null"),
        (200, "[1]"),
        (200, "{}"),
        (200, '{"choices": []}'),
        (200, '{"choices": {"a": 1}}'),
        (200, '{"choices": [null]}'),
        (200, '{"choices": [{"message": {"content": ["a"]}}]}'),
        said(""),
        said("  \n"),
    ],
    ids=lambda reply: f"{reply[0]} {reply[1][-40:]}",
)
def test_rubbish_is_one_clear_message(server: Server, reply: Reply, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERC_LLM_API_KEY", "very-secret")
    server.reply = lambda *_: reply
    with pytest.raises(ModelError, match=r"model .m.*is kept") as caught:
        endpoint(server).answer([("s", "q")], 20)
    assert caught.value.exit_code == 2
    assert server.url in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "very-secret" not in str(caught.value)
    assert server.keys == ["Bearer very-secret"]


@pytest.mark.parametrize("head", [[], ["HTTP/1.1 200 OK", "Content-Length: 500"], ["rubbish"]])
def test_a_connection_that_breaks_is_one_clear_message(server: Server, head: list[str]) -> None:
    server.answer_raw(*head, body="{")
    with pytest.raises(ModelError, match=r"model .m.*is kept"):
        endpoint(server).answer([("s", "q")], 20)


def test_nobody_at_the_address_is_one_clear_message() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ModelError, match=rf"{port}/v1: no usable answer"):
        Endpoint(f"http://127.0.0.1:{port}/v1", "m", retries=0).answer([("s", "q")], 20)


@pytest.mark.parametrize("library", ["openai", "tenacity"])
def test_without_the_client_library_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ModelError, match=r"pip install 'erc-llm\[endpoint\]'"):
        Endpoint("http://127.0.0.1:1/v1", "m")
