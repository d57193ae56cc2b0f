"""What may leave this machine: text to other machines only where allowed, keys and passwords into no message."""

from __future__ import annotations

import json
import socket
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from erc_llm.build import build_profiler
from erc_llm.config import ProfileConfig
from erc_llm.errors import ConfigError, ModelError
from erc_llm.models.endpoint import Endpoint
from tests.loopback import serving_on
from tests.model_server import Server
from tests.recipes.predict_served.asking import endpoint, story

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
        build_profiler(config, story(), ask_server=True)


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
    with serving_on(six):
        found = Endpoint(f"http://[::1]:{six.server_port}/v1", "m", retries=0)
        assert found.answer([("s", "q")], 20) == ["q"]


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://127.0.0.1/v1", "http://"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="not the address of a server"):
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
        build_profiler(ProfileConfig(writer="llm", endpoint=url, notes=str(notes)), story())
    shown += [str(refused.value), notes.read_text() if notes.exists() else ""]
    assert not any("hunter2" in text for text in shown)
