"""Shards: every dialogue of the files once, read as the whole corpus is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from erc_llm.corpus import EMORYNLP, Dialogue, read_corpus
from erc_llm.corpus.shards import Unreadable, plan_shards, read_shard
from erc_llm.errors import CorpusError
from tests.tiny_runs import as_json, dialogue


def _scenes(count: int, season: int = 1) -> list[dict[str, Any]]:
    return [as_json(dialogue(i, 1 + i % 4, season)) for i in range(count)]


def _write(path: Path, scenes: list[dict[str, Any]], *, between: str = "\n") -> Path:
    path.write_text("".join(json.dumps(scene) + between for scene in scenes), encoding="utf-8")
    return path


def _read(address: object, dialogues: int = 4) -> list[Dialogue | Unreadable]:
    plan = plan_shards(str(address), dialogues)
    assert [shard.number for shard in plan.shards] == list(range(len(plan.shards)))
    found: list[Dialogue | Unreadable] = []
    for shard in plan.shards:
        assert shard.first == len(found)
        assert shard.dialogues <= dialogues
        found += read_shard(shard, EMORYNLP, {})
    return found


@pytest.mark.parametrize("between", ["\n", "\r\n", "\n\n\n"])
@pytest.mark.parametrize("count", [1, 4, 11])
def test_the_shards_of_jsonl_are_the_corpus(tmp_path: Path, count: int, between: str) -> None:
    path = _write(tmp_path / "talks.jsonl", _scenes(count), between=between)
    assert _read(path) == list(read_corpus(path).split("all"))


def test_a_byte_order_mark_and_a_missing_last_line_end(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\n".join(map(json.dumps, _scenes(5))).encode())
    assert _read(path) == list(read_corpus(path).split("all"))


@pytest.mark.parametrize("group", [3, 4, 100])
def test_the_shards_of_parquet_are_the_corpus(tmp_path: Path, group: int) -> None:
    scenes = _scenes(11)
    pq.write_table(pa.Table.from_pylist(scenes), tmp_path / "talks.parquet", row_group_size=group)
    same = _write(tmp_path / "talks.jsonl", scenes)
    assert _read(tmp_path / "talks.parquet") == list(read_corpus(same).split("all"))


def test_files_are_found_by_glob_folder_and_address(tmp_path: Path) -> None:
    for number in range(3):
        _write(tmp_path / f"talks-{number}.jsonl", _scenes(3, season=number + 1))
    (tmp_path / "README.txt").write_text("not a corpus")
    store = fsspec.filesystem("memory")
    store.put(str(tmp_path / "talks-1.jsonl"), "/store/talks-1.jsonl")
    assert len(_read(tmp_path)) == len(_read(tmp_path / "*.jsonl")) == 9
    assert _read(tmp_path / "talks-1.jsonl") == _read("memory://store/talks-1.jsonl")
    plans = [plan_shards(address, 4) for address in (f"{tmp_path}/talks-1.jsonl", "memory://store/*.jsonl")]
    assert plans[0].sha256 == plans[1].sha256, "the hash does not depend on where the files lie"
    assert plans[0].sha256 != plan_shards(str(tmp_path / "talks-2.jsonl"), 4).sha256


def test_a_dialogue_that_cannot_be_read_is_named_and_costs_no_other(tmp_path: Path) -> None:
    scenes = _scenes(6)
    lines = [json.dumps(scene) for scene in scenes]
    lines[1] = lines[1][:40]
    scenes[3]["utterances"][0]["label"] = "Ecstatic"
    lines[3] = json.dumps(scenes[3])
    lines[4] = json.dumps({"id": "empty", "utterances": []})
    path = tmp_path / "talks.jsonl"
    path.write_text("\n\n".join(lines), encoding="utf-8")
    found = _read(path, dialogues=3)
    bad = [one for one in found if isinstance(one, Unreadable)]
    assert [(one.dialogue, one.line) for one in bad] == [(None, 3), (scenes[3]["id"], 7), ("empty", 9)]
    assert bad[0].reason.startswith("not valid JSON")
    assert "'Ecstatic'" in bad[1].reason
    assert "without utterances" in bad[2].reason
    assert [one.id for one in found if isinstance(one, Dialogue)] == [scenes[i]["id"] for i in (0, 2, 5)]


def test_bytes_that_are_no_text_cost_one_dialogue(tmp_path: Path) -> None:
    path = _write(tmp_path / "talks.jsonl", _scenes(3))
    content = path.read_bytes().split(b"\n")
    content[1] = content[1].replace(b"The ", b"The \xff", 1) if b"The " in content[1] else content[1][:-9] + b"\xff" * 9
    path.write_bytes(b"\n".join(content))
    found = _read(path)
    assert [isinstance(one, Unreadable) for one in found] == [False, True, False]


def test_an_id_that_occurs_twice_is_refused_with_both_places(tmp_path: Path) -> None:
    first, second = _scenes(3), _scenes(4, season=2)
    second[2]["id"] = first[1]["id"]
    _write(tmp_path / "a.jsonl", first)
    pq.write_table(pa.Table.from_pylist(second), tmp_path / "b.parquet")
    with pytest.raises(CorpusError, match=r"'s1_1' is at .*a\.jsonl:2 and at .*b\.parquet:3; .* must occur once"):
        plan_shards(str(tmp_path), 2)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("talks.parquet", b"PAR1 but no more", r"talks\.parquet: cannot be read: .*; nothing was started"),
        ("talks.csv", b"Utterance,Speaker\n", r"talks\.csv: expected \.jsonl, \.ndjson or \.parquet"),
        ("talks.jsonl.gz", b"\x1f\x8b", r"talks\.jsonl\.gz: expected .* not compressed"),
        ("talks.jsonl", b"\n\n", r"talks\.jsonl: no dialogues"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        plan_shards(str(tmp_path / name), 4)


def test_addresses_without_files(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such files"):
        plan_shards(str(tmp_path / "*.jsonl"), 4)
    with pytest.raises(CorpusError, match=r"cannot be opened: .*nowhere"):
        plan_shards("nowhere://bucket/talks.jsonl", 4)


def test_parquet_of_something_else_is_refused_with_its_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["Hello."], "speaker": ["Ada"]}), tmp_path / "talks.parquet")
    with pytest.raises(CorpusError, match="no column id, utterances; it has text, speaker"):
        plan_shards(str(tmp_path / "talks.parquet"), 4)


def test_a_file_that_changes_after_it_was_planned_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "talks.jsonl", _scenes(4))
    plan = plan_shards(str(path), 4)
    _write(path, _scenes(2))
    with pytest.raises(CorpusError, match="found 2 dialogues from line 1, expected 4: the file has changed"):
        read_shard(plan.shards[0], EMORYNLP, {})
