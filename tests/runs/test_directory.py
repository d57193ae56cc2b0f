"""Run directories: a round trip, other formats refused with the reason, missing pieces, and logs cut by a kill."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from erc_llm.config import RunConfig
from erc_llm.errors import RunError
from erc_llm.models.devices import process_count, process_rank
from erc_llm.runs.directory import read_run
from erc_llm.runs.logs import append_line, read_lines, rewind_log
from erc_llm.runs.manifest import RUN_FORMAT, Manifest, write_manifest
from erc_llm.runs.provenance import versions

MANIFEST = Manifest(
    kind="adapter",
    run_id="tiny-0123abcd",
    status="finished",
    seed=13,
    context="past",
    labels=("calm", "cross"),
    neutral="calm",
    train_shares=(0.25, 0.75),
    training_prior=(0.5, 0.5),
    config_sha256="c" * 64,
    corpus_name="flat",
    corpus_version="own",
    corpus_sha256="d" * 64,
    healed=False,
    template_sha256="e" * 64,
    base_model="tiny",
    base_model_sha256="f" * 64,
    versions={"python": "3.11.0"},
    commit=None,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(RunConfig(seed=5).as_yaml(), encoding="utf-8")
    write_manifest(folder, MANIFEST)
    return folder


def _change(folder: Path, **fields: Any) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text(encoding="utf-8")) | fields
    kept = {key: value for key, value in content.items() if value is not ...}
    path.write_text(json.dumps(kept), encoding="utf-8")


def test_what_is_written_is_read_again(run: Path) -> None:
    read = read_run(run)
    assert read.manifest == MANIFEST
    assert read.config == RunConfig(seed=5)
    assert read.adapter == run / "adapter"
    assert read_run(str(run)) == read


def test_replacing_the_manifest_keeps_the_rest(run: Path) -> None:
    write_manifest(run, replace(MANIFEST, status="training"))
    assert read_run(run).manifest.status == "training"
    assert sorted(path.name for path in run.iterdir()) == ["config.yaml", "manifest.json"]


@pytest.mark.parametrize("version", [0, RUN_FORMAT + 1, "2", None, ...])
def test_another_format_is_refused_with_the_reason(run: Path, version: Any) -> None:
    _change(run, format_version=version)
    with pytest.raises(RunError, match="run format") as caught:
        read_run(run)
    message = str(caught.value)
    assert str(run / "manifest.json") in message
    assert f"reads 1 to {RUN_FORMAT}" in message
    assert "train again" in message


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"seed": ...}, "seed: Field required"),
        ({"labels": ...}, "labels: Field required"),
        ({"train_shares": None}, "train_shares: Input should be a valid array"),
        ({"training_prior": ["much"]}, "training_prior.0: Input should be a valid number"),
        ({"kind": "oracle"}, "kind: Input should be 'adapter', 'encoder', 'compm' or 'emonet'"),
        ({"seed": "13", "colour": "red"}, "seed: .*; colour: Unexpected keyword argument"),
    ],
)
def test_a_manifest_with_other_fields_is_refused(run: Path, fields: dict[str, Any], words: str) -> None:
    """All of them are named at once."""
    _change(run, **fields)
    with pytest.raises(RunError, match=rf"manifest\.json: {words}"):
        read_run(run)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '"finished"', "\x00"])
def test_a_manifest_that_is_no_manifest_is_refused(run: Path, text: str) -> None:
    (run / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=r"manifest\.json"):
        read_run(run)


def test_bytes_that_are_not_utf8_are_refused(run: Path) -> None:
    (run / "manifest.json").write_bytes(b'{"run_id": "\xff"}')
    with pytest.raises(RunError, match=r"manifest\.json"):
        read_run(run)


def test_a_missing_run_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such run directory; `erc-llm train CONFIG`"):
        read_run(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["manifest.json", "config.yaml"])
def test_a_missing_piece_is_named(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(RunError, match=name.replace(".", r"\.")):
        read_run(run)


def test_a_log_is_read_as_it_was_written(tmp_path: Path) -> None:
    log = tmp_path / "training.jsonl"
    assert read_lines(log) == []
    records = [{"step": 1, "loss": 0.5, "note": "größer"}, {"step": 2, "loss": 0.25, "note": ""}]
    for record in records:
        append_line(log, record)
    assert read_lines(log) == records


@pytest.mark.parametrize("kept", [1, 5, 14])
def test_a_line_cut_by_a_kill_is_dropped_and_spoils_no_other(tmp_path: Path, kept: int) -> None:
    log = tmp_path / "training.jsonl"
    append_line(log, {"step": 1, "loss": 0.5})
    whole = json.dumps({"step": 2, "loss": 0.25})
    with open(log, "a", encoding="utf-8") as file:
        file.write(whole[:kept])
    assert read_lines(log) == [{"step": 1, "loss": 0.5}]
    rewind_log(log, 1)
    append_line(log, {"step": 2, "loss": 0.25})
    assert read_lines(log) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]


def test_a_line_that_lacks_only_its_end_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "training.jsonl"
    log.write_text('{"step": 1}\n{"step": 2}', encoding="utf-8")
    rewind_log(log, 2)
    append_line(log, {"step": 3})
    assert [record["step"] for record in read_lines(log)] == [1, 2, 3]


def test_rewinding_keeps_what_came_up_to_the_step(tmp_path: Path) -> None:
    log = tmp_path / "selection.jsonl"
    rewind_log(log, 3)
    assert not log.exists()
    for step in (2, 4, 6):
        append_line(log, {"step": step})
    rewind_log(log, 4)
    assert [record["step"] for record in read_lines(log)] == [2, 4]
    rewind_log(log, 0)
    assert read_lines(log) == []


def test_versions_name_what_can_change_a_result() -> None:
    found = versions()
    assert {"python", "machine", "torch", "transformers", "peft", "trl"} <= found.keys()


def test_processes_are_numbered_as_launchers_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert (process_rank(), process_count()) == (0, 1)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (process_rank(), process_count()) == (3, 4)
