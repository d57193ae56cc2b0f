"""A chat model behind a server: order, retries, clear messages, and no text to other machines."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from erc_llm.config import ProfileConfig
from erc_llm.corpus.dialogues import Corpus
from erc_llm.endpoints import Endpoint, Request
from erc_llm.errors import ConfigError, ModelError
from erc_llm.profiling import make_profiler
from tests.model_server import Reply, Server, said, serving
from tests.prompting.random_corpora import corpus_of, scene_of


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    with serving(found.http):
        yield found


@pytest.fixture
def elsewhere() -> Iterator[Server]:
    """Stands for another machine."""
    found = Server()
    with serving(found.http):
        yield found


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
    with pytest.raises(ModelError, match=r"status 429.* is kept, the same command goes on from there, in 600 s"):
        endpoint(server, retries=4).answer([("s", "q")], 20)
    assert len(server.requests) == 1


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
    with pytest.raises(ModelError, match=r"no usable answer from model 'm'.*the same command goes on") as caught:
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


OTHER_MACHINES = [
    "http://example.org/v1",
    "https://10.0.0.7:8000/v1",
    "http://0.0.0.0:8000/v1",
    "http://localhost.example.org",
    "http://127.0.0.1.example.org/v1",
    "http://example.org#127.0.0.1",
    "http://[2001:db8::1]:8000/v1",
]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1@example.org/v1", "http://me:sk-abc@127.0.0.1:x/v1", "http://127.0.0.1:1/v1?key=sk-abc"]
)
def test_an_address_with_a_user_or_a_query_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="ERC_LLM_API_KEY") as refused:
        Endpoint(url, "m", allow_remote=True)
    assert "sk-abc" not in str(refused.value)


@pytest.mark.parametrize("url", OTHER_MACHINES)
def test_nothing_is_sent_to_another_machine_unless_allowed(url: str) -> None:
    with pytest.raises(ConfigError, match="--allow-remote"):
        Endpoint(url, "m")
    assert Endpoint(url, "m", allow_remote=True).url == url


@pytest.mark.parametrize("url", OTHER_MACHINES)
def test_another_machine_is_not_even_looked_for(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*_: Any, **__: Any) -> Any:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "getaddrinfo", reached)
    monkeypatch.setattr(socket.socket, "connect", reached)
    config = ProfileConfig(writer="llm", endpoint=url, notes=str(tmp_path / "notes.jsonl"))
    with pytest.raises(ConfigError, match="--allow-remote"):
        make_profiler(config, story(), ask_server=True)


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_does_not_take_text_elsewhere(server: Server, elsewhere: Server, status: int) -> None:
    server.answer_raw(f"HTTP/1.1 {status} There", f"Location: {elsewhere.url}/chat/completions", "Content-Length: 0")
    with pytest.raises(ModelError):
        endpoint(server).answer([("s", "what they said")], 20)
    assert elsewhere.requests == []


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_proxy_does_not_get_text_for_this_machine(
    server: Server, elsewhere: Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for no in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(no, raising=False)
    monkeypatch.setenv(name, elsewhere.url.removesuffix("/v1"))
    endpoint(server).answer([("s", "what they said")], 20)
    assert elsewhere.requests == []


@pytest.mark.parametrize("url", ["http://localhost:1/v1", "http://127.0.0.2:1/v1", "http://[::1]:1/v1"])
def test_loopback_is_here(url: str) -> None:
    assert Endpoint(url, "m").url == url


def test_ipv6_loopback_is_reached(server: Server) -> None:
    class Six(ThreadingHTTPServer):
        address_family = socket.AF_INET6

    try:
        six = Six(("::1", 0), server.handler)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with serving(six):
        found = Endpoint(f"http://[::1]:{six.server_port}/v1", "m", retries=0)
        assert found.answer([("s", "q")], 20) == ["q"]


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://127.0.0.1/v1", "http://"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="no address of a server"):
        Endpoint(url, "m")


@pytest.mark.parametrize("url", ["http://[::1", "http://127.0.0.1:x/v1", "http://127.0.0.1:8000/\x01"])
def test_a_damaged_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        Endpoint(url, "m")


def test_keys_come_from_the_environment_ours_first(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ERC_LLM_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "theirs")
    endpoint(server).answer([("s", "q")], 20)
    monkeypatch.setenv("ERC_LLM_API_KEY", "ours")
    endpoint(server).answer([("s", "q")], 20)
    monkeypatch.delenv("ERC_LLM_API_KEY")
    monkeypatch.delenv("OPENAI_API_KEY")
    endpoint(server).answer([("s", "q")], 20)
    assert server.keys == ["Bearer theirs", "Bearer ours", "Bearer none"]


@pytest.mark.parametrize("key", ["very-secret\r\nX: y", "very-sécret", "very\x00secret"])
def test_a_key_that_no_header_takes_is_refused_and_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "\x00" not in key:
        monkeypatch.setenv("ERC_LLM_API_KEY", key)
    else:
        monkeypatch.setattr("os.environ", {"ERC_LLM_API_KEY": key})
    with pytest.raises(ConfigError, match="ERC_LLM_API_KEY: holds a line break or a character") as caught:
        Endpoint("http://127.0.0.1:1/v1", "m")
    assert "very" not in str(caught.value)


def test_white_space_around_a_key_is_not_part_of_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERC_LLM_API_KEY", " ours\n")
    endpoint(server).answer([("s", "q")], 20)
    assert server.keys == ["Bearer ours"]


def test_a_key_that_the_server_repeats_is_not_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERC_LLM_API_KEY", "very-secret")
    server.reply = lambda *_: (401, json.dumps({"error": {"message": f"wrong key: {server.keys[-1]}"}}))
    with pytest.raises(ModelError) as caught:
        endpoint(server).answer([("s", "q")], 20)
    assert "very-secret" not in str(caught.value)
    server.reply = lambda *_: (401, "x" * 195 + server.keys[-1].removeprefix("Bearer "))  # type: ignore[union-attr]
    with pytest.raises(ModelError) as caught:
        endpoint(server).answer([("s", "q")], 20)
    assert "xvery" not in str(caught.value), "nor the half that fits"


def test_a_password_in_the_address_is_neither_shown_nor_kept(server: Server, tmp_path: Path) -> None:
    url, notes = server.url.replace("//", "//me:hunter2@"), tmp_path / "notes.jsonl"
    server.reply = lambda *_: (500, "no")
    with pytest.raises((ConfigError, ModelError)) as caught:
        Endpoint(url, "m", retries=0).answer([("s", "q")], 20)
    shown = [str(caught.value)]
    with pytest.raises(ConfigError) as refused:
        make_profiler(ProfileConfig(writer="llm", endpoint=url, notes=str(notes)), story())
    shown += [str(refused.value), notes.read_text() if notes.exists() else ""]
    assert not any("hunter2" in text for text in shown)


def test_without_the_client_library_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ModelError, match=r"pip install 'erc-llm\[endpoint\]'"):
        Endpoint("http://127.0.0.1:1/v1", "m")


# Notes through the configuration.


def story(scenes: int = 4) -> Corpus:
    said = [(("Ada Quill", f"Line {i}"), ("Ben Ode", f"And {i}?")) for i in range(scenes)]
    return corpus_of({"train": [scene_of(i + 1, *lines) for i, lines in enumerate(said)]})


def notes_config(server: Server, tmp_path: Path) -> ProfileConfig:
    return ProfileConfig(writer="llm", model="m", endpoint=server.url, notes=str(tmp_path / "notes.jsonl"))


def test_notes_are_asked_of_the_server_once_and_only_when_told_to(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERC_LLM_API_KEY", "very-secret")
    corpus, config = story(), notes_config(server, tmp_path)
    last = corpus.split("train")[-1]
    server.reply = lambda request, _: said(f"Said {request['messages'][-1]['content'].rpartition('Line ')[2][:1]}. Ok.")
    with pytest.raises(ConfigError, match=r"erc-llm profile CORPUS --out FILE"):
        make_profiler(config, corpus)
    assert server.requests == []
    asked = make_profiler(config, corpus, ask_server=True).profiles(last)
    assert asked["Ada Quill"].text == "Said 2. Ok."
    assert len(server.requests) == 8, "two persons, after each of their scenes"
    server.reply = lambda *_: (500, "gone")
    assert make_profiler(config, corpus).profiles(last) == asked
    assert len(server.requests) == 8
    assert "very-secret" not in (tmp_path / "notes.jsonl").read_text()


def test_a_server_that_stops_midway_keeps_what_it_said(server: Server, tmp_path: Path) -> None:
    corpus, config = story(6), notes_config(server, tmp_path)
    server.reply = lambda _, number: said("Fine.") if number <= 4 else (400, "{}")
    with pytest.raises(ModelError, match="is kept"):
        make_profiler(config, corpus, ask_server=True)
    before = len(server.requests)
    server.reply = lambda *_: said("Fine.")
    make_profiler(config, corpus, ask_server=True)
    assert len(server.requests) - before == 2 * 6 - 4


def test_what_was_answered_beside_a_refusal_is_kept(server: Server, tmp_path: Path) -> None:
    """One person's prompt is refused every time; the others of its batch are not asked about again."""
    corpus, config = story(), notes_config(server, tmp_path)
    server.reply = lambda request, _: (400, "{}") if "Notes on Ben" in str(request) else said("Fine.")
    with pytest.raises(ModelError, match="would refuse this again"):
        make_profiler(config, corpus, ask_server=True)
    about = ["Ben" if "Notes on Ben" in str(request) else "Ada" for request in server.requests]
    assert about.count("Ada") == 1
    with pytest.raises(ModelError):
        make_profiler(config, corpus, ask_server=True)
    again = ["Ben" if "Notes on Ben" in str(request) else "Ada" for request in server.requests[len(about) :]]
    assert again == ["Ben"]


def test_notes_of_another_server_are_not_taken_for_this_ones(server: Server, elsewhere: Server, tmp_path: Path) -> None:
    make_profiler(notes_config(server, tmp_path), story(), ask_server=True)
    with pytest.raises(ConfigError, match="another model"):
        make_profiler(notes_config(elsewhere, tmp_path), story(), ask_server=True)
    assert elsewhere.requests == []
