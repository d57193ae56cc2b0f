"""Notes on speakers by a model behind a server, through the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from erc_llm.build import build_profiler
from erc_llm.config import ProfileConfig
from erc_llm.errors import ConfigError, ModelError
from tests.model_server import Server, said
from tests.recipes.predict_served.asking import story


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
        build_profiler(config, corpus)
    assert server.requests == []
    asked = build_profiler(config, corpus, ask_server=True).profiles(last)
    assert asked["Ada Quill"].text == "Said 2. Ok."
    assert len(server.requests) == 8, "two persons, after each of their scenes"
    server.reply = lambda *_: (500, "gone")
    assert build_profiler(config, corpus).profiles(last) == asked
    assert len(server.requests) == 8
    assert "very-secret" not in (tmp_path / "notes.jsonl").read_text()


def test_a_server_that_stops_midway_keeps_what_it_said(server: Server, tmp_path: Path) -> None:
    corpus, config = story(6), notes_config(server, tmp_path)
    server.reply = lambda _, number: said("Fine.") if number <= 4 else (400, "{}")
    with pytest.raises(ModelError, match="is kept"):
        build_profiler(config, corpus, ask_server=True)
    before = len(server.requests)
    server.reply = lambda *_: said("Fine.")
    build_profiler(config, corpus, ask_server=True)
    assert len(server.requests) - before == 2 * 6 - 4


def test_what_was_answered_beside_a_refusal_is_kept(server: Server, tmp_path: Path) -> None:
    """One person's prompt is refused every time; the others of its batch are not asked about again."""
    corpus, config = story(), notes_config(server, tmp_path)
    server.reply = lambda request, _: (400, "{}") if "Notes on Ben" in str(request) else said("Fine.")
    with pytest.raises(ModelError, match="would refuse this again"):
        build_profiler(config, corpus, ask_server=True)
    about = ["Ben" if "Notes on Ben" in str(request) else "Ada" for request in server.requests]
    assert about.count("Ada") == 1
    with pytest.raises(ModelError):
        build_profiler(config, corpus, ask_server=True)
    again = ["Ben" if "Notes on Ben" in str(request) else "Ada" for request in server.requests[len(about) :]]
    assert again == ["Ben"]


def test_notes_of_another_server_are_not_taken_for_this_ones(server: Server, elsewhere: Server, tmp_path: Path) -> None:
    build_profiler(notes_config(server, tmp_path), story(), ask_server=True)
    with pytest.raises(ConfigError, match="another model"):
        build_profiler(notes_config(elsewhere, tmp_path), story(), ask_server=True)
    assert elsewhere.requests == []
