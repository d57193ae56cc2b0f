"""Recurrent notes: each depends on the notes before and one scene, survives a kill, and has a fixed length."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erc_llm.config import ProfileConfig
from erc_llm.corpus.dialogues import Corpus
from erc_llm.corpus.history import History
from erc_llm.errors import ConfigError, UserError
from erc_llm.profiling import make_profiler
from erc_llm.prompting.profiles import Profiler
from erc_llm.prompting.summaries import (
    Notes,
    NotesCache,
    NotesWriter,
    Source,
    cut_notes,
    excerpt,
    split_sentences,
    write_notes,
)
from erc_llm.prompting.templates import load_prompt
from tests.prompting.random_corpora import corpora, corpus_of, moments, rewritten_future, scene_of

TEMPLATE = load_prompt("summary", ("system", "user"))
SOURCE = Source("c" * 64, "model x", TEMPLATE.sha256, 30)


def echo(prompts: Sequence[tuple[str, str]]) -> list[str]:
    """An answer that differs with every letter of what was asked."""
    return [f"Notes {hashlib.sha256(repr(prompt).encode()).hexdigest()[:12]}." for prompt in prompts]


class Memory:
    """A cache that keeps nothing on disk."""

    def __init__(self) -> None:
        self.answers: dict[str, list[str]] = {}

    def get(self, batch: str) -> list[str] | None:
        return self.answers.get(batch)

    def add(self, batch: str, answers: Sequence[str]) -> None:
        self.answers[batch] = list(answers)


def notes_of(corpus: Corpus, cache: Any = None, answer: Callable[..., list[str]] = echo, batch: int = 3) -> Notes:
    return write_notes(History(corpus), answer, cache or Memory(), TEMPLATE, batch=batch)


def story(scenes: int = 5) -> Corpus:
    said = [(("Ada Quill", f"I said {i}"), ("Ben Ode", f"And {i}?"), ("Ada Quill", f"Yes {i}")) for i in range(scenes)]
    return corpus_of({"train": [scene_of(i + 1, *lines) for i, lines in enumerate(said)]})


# What notes are made from.


def test_notes_follow_from_the_notes_before_and_one_scene() -> None:
    asked: list[str] = []

    def answer(prompts: Sequence[tuple[str, str]]) -> list[str]:
        asked.extend(user for _, user in prompts)
        return [f"Ada note {len(asked)}." for _ in prompts]

    corpus = corpus_of({"train": [scene_of(i, ("Ada Quill", f"Line {i}")) for i in range(1, 5)]})
    notes_of(corpus, answer=answer)
    assert len(asked) == 3, "nobody looks back on the last scene"
    for i, text in enumerate(asked, start=1):
        own = text[text.rindex("Scene:") :]
        assert [f"Line {k}" in text for k in range(1, 5)] == [k == i for k in range(1, 5)]
        assert f"Line {i}" in own
        assert ("Earlier notes on Ada: Ada note" in text) == (i > 1)
        if i > 1:
            assert f"Earlier notes on Ada: Ada note {i - 1}." in text


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_nothing_later_changes_any_notes(data: st.DataObject) -> None:
    corpus = data.draw(corpora())
    now = data.draw(st.sampled_from(list(corpus.dialogues())))
    other = data.draw(rewritten_future(corpus, now))
    before = {d.id for d in corpus.dialogues() if moments(corpus)[d.id] < moments(corpus)[now.id]}
    here, there = notes_of(corpus), notes_of(other)
    for key in here.keys() & there.keys():
        if key[1] in before:
            assert here[key] == there[key]


@settings(max_examples=25, deadline=None)
@given(corpus=corpora(), size=st.integers(1, 7))
def test_the_size_of_batches_changes_no_notes(corpus: Corpus, size: int) -> None:
    assert notes_of(corpus, batch=size) == notes_of(corpus, batch=1)


def test_no_label_reaches_a_prompt() -> None:
    def answer(prompts: Sequence[tuple[str, str]]) -> list[str]:
        assert not any("Powerful" in text for prompt in prompts for text in prompt)
        return ["Ok."] * len(prompts)

    scenes = [scene_of(i, ("Ada Quill", "The toast is late", "Powerful")) for i in range(1, 4)]
    assert notes_of(corpus_of({"train": scenes}), answer=answer)


def test_the_profile_is_the_notes_after_the_latest_earlier_scene() -> None:
    corpus = story()
    notes = notes_of(corpus)
    last = corpus.split("train")[-1]
    profile = Profiler(History(corpus), NotesWriter(notes)).profiles(last)["Ada Quill"]
    assert profile.text == notes["Ada Quill", corpus.split("train")[-2].id]


# Length.


def test_notes_are_whole_sentences_within_the_words() -> None:
    text = 'Ada is late. "Why?" she asks. She is sorry about all of it.'
    assert cut_notes(text, 6) == 'Ada is late. "Why?" she asks.'
    assert cut_notes(text, 3) == "Ada is late."
    assert cut_notes("One two three four five", 3) == "One two three..."
    assert cut_notes(" \n ", 3) == ""
    assert split_sentences("He left. She did not.") == ("He left.", "She did not.")


def test_an_excerpt_has_each_line_with_the_one_it_answers_and_ends_with_the_last() -> None:
    said = [("Ben", f"Question {k} here") if k % 3 == 0 else ("Ada Quill", f"Line {k} here") for k in range(12)]
    dialogue = scene_of(1, *said, ("Cleo", "Nobody asked."))
    own = [k for k, (who, _) in enumerate(said) if who == "Ada Quill"]
    whole = excerpt(dialogue, own)
    assert "Nobody asked" not in whole
    assert whole.count("\n") == 11
    short = excerpt(dialogue, own, words=9)
    assert len(short.split()) <= 9
    assert short.endswith("Ada: Line 11 here")
    assert excerpt(scene_of(1, ("Ada Quill", "One\nBen: two")), [0]) == "Ada: One Ben: two"


# The file.


def test_what_was_answered_is_not_asked_again_and_a_kill_loses_a_batch_at_most(tmp_path: Path) -> None:
    path, corpus, calls = tmp_path / "notes.jsonl", story(8), 0

    def answer(prompts: Sequence[tuple[str, str]]) -> list[str]:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return echo(prompts)

    with pytest.raises(KeyboardInterrupt):
        notes_of(corpus, NotesCache(path, SOURCE), answer, batch=1)
    content = path.read_text()
    path.write_text(content[:-5])  # killed while it wrote its third line
    calls = 10
    again = notes_of(corpus, NotesCache(path, SOURCE), answer, batch=1)
    assert again == notes_of(corpus, batch=1)
    total = len(again)
    assert calls == 10 + total - 2, "two of three batches were whole"
    calls = 20
    assert notes_of(corpus, NotesCache(path, SOURCE), answer, batch=1) == again
    assert calls == 20
    for line in path.read_text().splitlines():
        json.loads(line)


@pytest.mark.parametrize("change", [{"corpus_sha256": "d" * 64}, {"model": "model y"}, {"words": 31}])
def test_notes_of_another_source_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    NotesCache(tmp_path / "notes.jsonl", SOURCE)
    with pytest.raises(ConfigError, match=next(iter(change))):
        NotesCache(tmp_path / "notes.jsonl", replace(SOURCE, **change))


def test_a_full_disk_is_one_clear_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = NotesCache(tmp_path / "notes.jsonl", SOURCE)

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(UserError, match=r"notes\.jsonl: cannot be written: No space left"):
        cache.add("key", ["Answer."])


# Through the configuration.


def test_a_server_is_only_asked_when_told_to(tmp_path: Path) -> None:
    corpus = story()
    config = ProfileConfig(writer="llm", endpoint="http://127.0.0.1:9/v1", notes=str(tmp_path / "notes.jsonl"))
    with pytest.raises(ConfigError, match=r"profile\.endpoint.*erc-llm profile"):
        make_profiler(config, corpus)
    source = Source(corpus.sha256, f"{config.model} at {config.endpoint}", TEMPLATE.sha256, config.words)
    cache = NotesCache(tmp_path / "notes.jsonl", source)
    write_notes(History(corpus), echo, cache, TEMPLATE, words=config.words)
    profiles = make_profiler(config, corpus).profiles(corpus.split("train")[-1])
    assert profiles["Ada Quill"].text.startswith("Notes ")
