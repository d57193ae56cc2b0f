"""One worker of a sharded prediction: its rows are those of `predict`, and mistakes go where they belong."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from erc_llm.corpus import read_corpus
from erc_llm.corpus.shards import Shard, plan_shards
from erc_llm.predictions import Predictions, read_predictions
from erc_llm.predictor import Predictor, load
from erc_llm.recipes.predict import predict
from erc_llm.recipes.shard_worker import Job, ShardWorker, errors_file, part_file
from erc_llm.runs.directory import Run
from tests.tiny_runs import as_json, dialogue


def job(run: Run, folder: Path, **changes: Any) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "errors").mkdir(exist_ok=True)
    made = Job(
        source=str(run.folder),
        overrides=(),
        prior="auto",
        calibration="auto",
        decide="auto",
        abstain_below=None,
        with_text=True,
        folder=folder,
        corpus_name="talks",
        corpus_sha256="0" * 64,
    )
    return replace(made, **changes)


def write_talks(path: Path, count: int = 7) -> Path:
    path.write_text("".join(json.dumps(as_json(dialogue(i, 1 + i % 5, 4))) + "\n" for i in range(count)))
    return path


def shards(path: Path, dialogues: int = 4) -> tuple[Shard, ...]:
    return plan_shards(str(path), dialogues).shards


def failures(folder: Path, number: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in errors_file(folder, number).read_text("utf-8").splitlines()]


def same_rows(found: Predictions, expected: Predictions) -> None:
    """Everything but what needs the whole corpus is equal; numbers within fp32, which sums in another order."""
    assert found.keys == expected.keys
    for name in ("predicted", "position", "episode", "scene_order", "speakers", "text", "gold"):
        assert list(getattr(found, name)) == list(getattr(expected, name)), name
    for name in ("log_likelihoods", "probabilities", "label_mass"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-4)


def test_the_parts_are_the_table_of_predict(finished: Run, tmp_path: Path) -> None:
    talks = write_talks(tmp_path / "talks.jsonl")
    worker = ShardWorker(job(finished, tmp_path / "out"))
    done = [worker(shard) for shard in shards(talks)]
    assert [(d.number, d.dialogues, d.failed, d.stop) for d in done] == [(0, 4, 0, None), (1, 3, 0, None)]
    expected = predict(load(finished.folder), read_corpus(talks), "all")
    parts = [read_predictions(part_file(tmp_path / "out", d.number)) for d in done]
    assert [len(part) for part in parts] == [d.rows for d in done]
    columns = {name: [v for part in parts for v in part.columns()[name]] for name in parts[0].columns()}
    same_rows(Predictions.from_columns(parts[0].info, columns), expected)
    info = parts[0].info
    assert (info.run_id, info.split, info.corpus_name) == (finished.manifest.run_id, "all", "talks")
    assert info == replace(expected.info, corpus_sha256="0" * 64, train_sha256=None)
    assert parts[0].history_length is None, "it needs the whole corpus"
    assert not list((tmp_path / "out").glob(".*"))


def test_text_is_left_out_on_request(finished: Run, tmp_path: Path) -> None:
    (shard,) = shards(write_talks(tmp_path / "talks.jsonl"), 100)
    ShardWorker(job(finished, tmp_path / "out", with_text=False, abstain_below=0.4))(shard)
    part = read_predictions(part_file(tmp_path / "out", 0))
    assert part.text is None
    assert part.info.abstain_below == 0.4


def test_a_dialogue_that_cannot_be_read_is_recorded_and_the_others_labelled(finished: Run, tmp_path: Path) -> None:
    talks = write_talks(tmp_path / "talks.jsonl")
    lines = talks.read_text("utf-8").splitlines()
    lines[2] = '{"id": "broken"'
    talks.write_text("\n".join(lines))
    (shard,) = shards(talks, 100)
    done = ShardWorker(job(finished, tmp_path / "out"))(shard)
    part = read_predictions(part_file(tmp_path / "out", 0))
    assert (done.failed, done.rows) == (1, len(part))
    assert set(part.dialogue_id) == {f"s4_{i}" for i in (0, 1, 3, 4, 5, 6)}
    assert part.scene_order is not None
    assert sorted(set(part.scene_order.tolist())) == [0, 1, 3, 4, 5, 6], "the place in the input is kept"
    (failure,) = failures(tmp_path / "out")
    assert (failure["dialogue_id"], failure["line"]) == (None, 3)
    assert "not valid JSON" in failure["error"]


def test_an_id_that_is_no_text_is_recorded(finished: Run, tmp_path: Path) -> None:
    talks = write_talks(tmp_path / "talks.jsonl", 2)
    talks.write_bytes(talks.read_bytes().replace(b"s4_1", b"s4_\xff"))
    (shard,) = shards(talks, 100)
    assert ShardWorker(job(finished, tmp_path / "out"))(shard).failed == 1
    (failure,) = failures(tmp_path / "out")
    assert failure["dialogue_id"] == "s4_\udcff"
    assert "surrogate" in failure["error"]


def test_a_dialogue_that_fails_in_the_model_costs_no_other(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Predictor.predictions

    def fails(self: Predictor, dialogues: Any, on_progress: Any = None) -> Any:
        if any(d.id == "s4_3" for d in dialogues):
            raise RuntimeError("a kernel of the library")
        return original(self, dialogues, on_progress)

    monkeypatch.setattr(Predictor, "predictions", fails)
    (shard,) = shards(write_talks(tmp_path / "talks.jsonl"), 100)
    done = ShardWorker(job(finished, tmp_path / "out"))(shard)
    assert (done.dialogues, done.failed, done.stop) == (7, 1, None)
    assert [(f["dialogue_id"], f["error"]) for f in failures(tmp_path / "out")] == [
        ("s4_3", "RuntimeError: a kernel of the library")
    ]
    assert "s4_3" not in read_predictions(part_file(tmp_path / "out", 0)).dialogue_id


def test_a_file_that_is_damaged_after_planning_fails_as_a_whole(finished: Run, tmp_path: Path) -> None:
    talks = write_talks(tmp_path / "talks.jsonl")
    (shard,) = shards(talks, 100)
    talks.unlink()
    done = ShardWorker(job(finished, tmp_path / "out"))(shard)
    assert (done.rows, done.failed, done.stop) == (0, 7, None)
    assert not part_file(tmp_path / "out", 0).exists()
    assert "7 dialogues: " in failures(tmp_path / "out")[0]["error"]


def test_a_shard_that_kills_its_worker_is_given_up_after_three_attempts(finished: Run, tmp_path: Path) -> None:
    (shard,) = shards(write_talks(tmp_path / "talks.jsonl"), 100)
    (tmp_path / "out" / "errors").mkdir(parents=True)
    (tmp_path / "out" / ".attempts-00000").write_text("xxx")
    done = ShardWorker(job(finished, tmp_path / "out"))(shard)
    assert (done.rows, done.failed) == (0, 7)
    assert "a worker died on this shard 3 times" in failures(tmp_path / "out")[0]["error"]


def test_a_full_disk_stops_the_job(finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (shard,) = shards(write_talks(tmp_path / "talks.jsonl"), 100)
    worker = ShardWorker(job(finished, tmp_path / "out"))
    monkeypatch.setattr("erc_llm.files.os.fsync", full)
    done = worker(shard)
    assert done.stop is not None
    assert "No space left on device" in done.stop
    assert not part_file(tmp_path / "out", 0).exists()


def test_a_run_that_cannot_be_loaded_stops_the_job(run: Path, finished: Run, tmp_path: Path) -> None:
    (shard,) = shards(write_talks(tmp_path / "talks.jsonl"), 100)
    (run / "adapter" / "adapter_model.safetensors").unlink()
    done = ShardWorker(job(finished, tmp_path / "out", source=str(run)))(shard)
    assert done.stop is not None
    assert "adapter" in done.stop
