"""The file of notes: what was answered is not asked again, a kill loses a batch at most, damage is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from erc_llm.build import build_profiler
from erc_llm.config import ProfileConfig
from erc_llm.corpus.history import History
from erc_llm.errors import ConfigError, UserError
from erc_llm.profiles.notes import NotesSource, open_notes, write_notes
from tests.profiles.written_notes import SOURCE, TEMPLATE, echo, notes_of, story


def test_what_was_answered_is_not_asked_again_and_a_kill_loses_a_batch_at_most(tmp_path: Path) -> None:
    path, corpus, calls = tmp_path / "notes.jsonl", story(8), 0

    def answer(prompts: Sequence[tuple[str, str]]) -> list[str]:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return echo(prompts)

    with pytest.raises(KeyboardInterrupt):
        notes_of(corpus, open_notes(path, SOURCE), answer, batch=1)
    content = path.read_text()
    path.write_text(content[:-5])  # killed while it wrote its third line
    calls = 10
    again = notes_of(corpus, open_notes(path, SOURCE), answer, batch=1)
    assert again == notes_of(corpus, batch=1)
    total = len(again)
    assert calls == 10 + total - 2, "two of three batches were whole"
    calls = 20
    assert notes_of(corpus, open_notes(path, SOURCE), answer, batch=1) == again
    assert calls == 20
    whole = [line for line in path.read_text().splitlines() if line.endswith("}")]
    assert [len(json.loads(line)) for line in whole] == [4] + [2] * total, "a head, and each batch once"


def test_a_file_cut_anywhere_in_its_last_line_goes_on(tmp_path: Path) -> None:
    """In the middle of a letter, too; what is added afterwards stands on lines of its own."""
    corpus, path, calls = story(4), tmp_path / "notes.jsonl", 0

    def answer(prompts: Sequence[tuple[str, str]]) -> list[str]:
        nonlocal calls
        calls += 1
        return [f"Zoë's {text}" for text in echo(prompts)]

    notes = notes_of(corpus, open_notes(path, SOURCE), answer, batch=2)
    content, batches = path.read_bytes(), calls
    start = content.rstrip(b"\n").rindex(b"\n") + 1
    for end in range(start, len(content)):
        path.write_bytes(content[:end])
        calls = 0
        assert notes_of(corpus, open_notes(path, SOURCE), answer, batch=2) == notes
        assert calls == (0 if end == len(content) - 1 else 1)
        assert path.read_bytes().startswith(content[:start])
        calls = 0
        assert notes_of(corpus, open_notes(path, SOURCE), answer, batch=2) == notes
        assert calls == 0
    assert batches == 4


def test_a_file_of_notes_from_before_it_was_a_journal_is_read_and_goes_on(tmp_path: Path) -> None:
    corpus, path = story(4), tmp_path / "notes.jsonl"
    notes = notes_of(corpus, open_notes(path, SOURCE), batch=2)
    head, *lines = path.read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    old = [json.dumps({"batch": e["key"], "answers": e["value"]}, ensure_ascii=False) for e in entries]
    path.write_text("\n".join([head, *old[:-1]]) + "\n")
    asked: list[int] = []

    def answer(prompts: Sequence[tuple[str, str]]) -> list[str]:
        asked.append(len(prompts))
        return echo(prompts)

    assert notes_of(corpus, open_notes(path, SOURCE), answer, batch=2) == notes
    assert len(asked) == 1, "only the batch that was missing"
    assert notes_of(corpus, open_notes(path, SOURCE), answer, batch=2) == notes
    assert len(asked) == 1


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"not json\n", b"[]\n", b"\n\n"])
def test_what_is_no_notes_file_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="name another file"):
        open_notes(path, SOURCE)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "damage",
    [
        "{}",
        '{"key": KEY}',
        '{"key": KEY, "value": 3}',
        '{"key": KEY, "value": []}',
        '{"key": KEY, "value": [1, 2]}',
        '{"batch": KEY, "answers": 3}',
    ],
)
def test_a_damaged_line_is_asked_again(tmp_path: Path, damage: str) -> None:
    path, corpus = tmp_path / "notes.jsonl", story(4)
    notes = notes_of(corpus, open_notes(path, SOURCE), batch=2)
    lines = path.read_text().splitlines()
    lines[1] = damage.replace("KEY", json.dumps(json.loads(lines[1])["key"]))
    path.write_text("\n".join(lines) + "\n")
    assert notes_of(corpus, open_notes(path, SOURCE), batch=2) == notes


@pytest.mark.parametrize(
    "change",
    [{"corpus_sha256": "d" * 64}, {"model": "model y"}, {"words": 31}, {"template_sha256": "e" * 64}],
    ids=lambda change: str(next(iter(change))),
)
def test_notes_of_another_source_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    open_notes(tmp_path / "notes.jsonl", SOURCE)
    with pytest.raises(ConfigError, match=rf"notes\.jsonl.*another {next(iter(change))};"):
        open_notes(tmp_path / "notes.jsonl", replace(SOURCE, **change))


def test_a_full_disk_is_one_clear_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = open_notes(tmp_path / "notes.jsonl", SOURCE)

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(UserError, match=r"notes\.jsonl: cannot be written: No space left"):
        cache.add("key", ["Generate."])


def test_a_disk_that_is_full_in_the_middle_of_a_line_loses_that_batch_only(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path, corpus = tmp_path / "notes.jsonl", story(6)
    cache = open_notes(path, SOURCE)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 300, before[1]))
    try:
        with pytest.raises(UserError, match=r"notes\.jsonl: cannot be written: .*; earlier results are kept"):
            notes_of(corpus, cache, batch=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not path.read_text().endswith("\n"), "the disk was full in the middle of a line"
    asked = 0

    def answer(prompts: Sequence[tuple[str, str]]) -> list[str]:
        nonlocal asked
        asked += len(prompts)
        return echo(prompts)

    whole = path.read_text().count("\n") - 1
    assert whole > 0
    notes = notes_of(corpus, open_notes(path, SOURCE), answer, batch=1)
    assert notes == notes_of(corpus, batch=1)
    assert asked == len(notes) - whole


# Through the configuration.


def test_a_server_is_only_asked_when_told_to(tmp_path: Path) -> None:
    corpus = story()
    config = ProfileConfig(writer="llm", endpoint="http://127.0.0.1:9/v1", notes=str(tmp_path / "notes.jsonl"))
    with pytest.raises(ConfigError, match=r"profile\.endpoint.*erc-llm profile"):
        build_profiler(config, corpus)
    source = NotesSource(corpus.sha256, f"{config.model} at {config.endpoint}", TEMPLATE.sha256, config.words)
    cache = open_notes(tmp_path / "notes.jsonl", source)
    write_notes(History(corpus), echo, cache, TEMPLATE, words=config.words)
    profiles = build_profiler(config, corpus).profiles(corpus.split("train")[-1])
    assert profiles["Ada Quill"].text.startswith("Notes ")
