"""A cross-fitting that is killed at any moment goes on to the same table and adapter."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from erc_llm.calibration.select import table_hash
from erc_llm.calibration.store import read_calibration
from erc_llm.corpus import read_corpus
from erc_llm.evaluation.leakage import selection_saw_split
from erc_llm.predictions import Predictions, read_predictions
from tests.command_line import Command, refused
from tests.recipes.crossfit.crossfitted import (
    FOLDS,
    ONE_BY_ONE,
    WEIGHTS,
    Crossfitted,
    crossfit_apart,
    same_results,
    write_config,
)
from tests.tiny_models import TinyModel
from tests.tiny_runs import OPENINGS

TRAINING = ("erc_llm.tuning.trainer", "TreeTrainer.compute_loss")
KILLS = {
    "in fold 1": (*TRAINING, 4),
    "before fold 1 predicts": ("erc_llm.recipes.predict", "predict_with_progress", 1),
    "while fold 1 predicts": ("erc_llm.recipes.crossfit", "write_predictions", 1),
    "after fold 1": ("erc_llm.recipes.train", "open_corpus", 2),
    "in fold 2": (*TRAINING, 15),
    "before the average": ("erc_llm.recipes.average", "average_runs", 1),
    "in the average": ("erc_llm.recipes.average", "write_manifest", 1),
    "between average and table": ("erc_llm.recipes.crossfit", "write_predictions", 3),
    "before the calibration": ("erc_llm.recipes.calibrate", "write_calibration", 1),
}
QUICK = ("in fold 1",)


@pytest.mark.parametrize(
    "moment", [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in KILLS], ids=lambda m: m
)
def test_a_killed_crossfitting_goes_on_to_the_same_table_and_adapter(
    moment: str, tiny_llama: TinyModel, done: Crossfitted, tmp_path: Path
) -> None:
    config = write_config(tiny_llama, done.corpus, tmp_path)
    assert crossfit_apart(config, *ONE_BY_ONE, kill=KILLS[moment]) == -signal.SIGKILL
    assert not (tmp_path / "runs" / "tiny" / "calibration.json").exists()
    assert crossfit_apart(config, *ONE_BY_ONE, "--resume") == 0
    same_results(Crossfitted(config, done.corpus, tmp_path / "runs" / "tiny"), done)


@pytest.mark.slow
def test_a_kill_in_the_average_leaves_no_litter(tiny_llama: TinyModel, done: Crossfitted, tmp_path: Path) -> None:
    config = write_config(tiny_llama, done.corpus, tmp_path)
    assert crossfit_apart(config, *ONE_BY_ONE, kill=KILLS["in the average"]) == -signal.SIGKILL
    assert crossfit_apart(config, *ONE_BY_ONE, "--resume") == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["tiny", "tiny-folds"]


@pytest.mark.slow
@pytest.mark.parametrize("number", random.Random(7).sample(range(2, 160), 6))
def test_a_kill_at_any_file_operation(number: int, tiny_llama: TinyModel, done: Crossfitted, tmp_path: Path) -> None:
    config = write_config(tiny_llama, done.corpus, tmp_path)
    assert crossfit_apart(config, *ONE_BY_ONE, operation=number) == -signal.SIGKILL
    assert crossfit_apart(config, *ONE_BY_ONE, "--resume") == 0
    same_results(Crossfitted(config, done.corpus, tmp_path / "runs" / "tiny"), done)


@pytest.mark.parametrize(
    "lost",
    [
        ("tiny/crossfit.parquet",),
        pytest.param(("tiny/calibration.json",), marks=pytest.mark.slow),
        pytest.param(("tiny",), marks=pytest.mark.slow),
        ("tiny", "tiny-folds/fold-2/left_out.parquet"),
    ],
    ids=" ".join,
)
def test_what_is_missing_is_made_again(lost: tuple[str, ...], copied: Crossfitted, done: Crossfitted) -> None:
    for name in lost:
        path = copied.folder.parent / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert crossfit_apart(copied.config, *ONE_BY_ONE, "--resume") == 0
    same_results(copied, done)


def test_the_text_can_be_left_out_later(copied: Crossfitted, erc: Command) -> None:
    said = erc("crossfit", copied.config, *ONE_BY_ONE, "--resume", "--without-text")
    assert said.code == 0, said.err
    assert copied.table.text is None
    report = (copied.folder / "report.html").read_text("utf-8")
    assert "Most confident errors" in report
    assert "best for weighted F1, by rules found on the rest of train" in report
    assert not any(words in report for words in OPENINGS)


@pytest.mark.slow
def test_a_test_split_that_is_added_between_two_folds_is_taken_in(
    copied: Crossfitted, done: Crossfitted, tmp_path: Path
) -> None:
    """Nothing of it is trained on; all tables and the average are about the corpus as it is now."""
    grown = Path(shutil.copytree(copied.corpus, tmp_path / "grown"))
    shutil.copyfile(grown / "dev.jsonl", grown / "test.jsonl")
    rows = [json.loads(line) for line in (grown / "test.jsonl").read_text("utf-8").splitlines()]
    for row in rows:
        row["id"] = f"test-{row['id']}"
        row["season"] += 50
    (grown / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    shutil.rmtree(copied.folder)
    shutil.rmtree(copied.fold(2))
    assert crossfit_apart(copied.config, *ONE_BY_ONE, f"corpus.path={grown}", "--resume") == 0
    assert copied.table.info.corpus_sha256 == read_corpus(grown).sha256 != done.table.info.corpus_sha256
    for number in (1, 2):
        assert (copied.fold(number) / WEIGHTS).read_bytes() == (done.fold(number) / WEIGHTS).read_bytes()
    assert copied.table.keys == done.table.keys


@pytest.mark.slow
def test_another_calibration_of_the_same_table_stays(copied: Crossfitted, erc: Command) -> None:
    assert erc("calibrate", copied.folder, "--decide", "macro_f1").code == 0
    own = (copied.folder / "calibration.json").read_bytes()
    assert erc("crossfit", copied.config, *ONE_BY_ONE, "--resume").code == 0
    assert (copied.folder / "calibration.json").read_bytes() == own


def test_a_launcher_is_refused(copied: Crossfitted, erc: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused(erc("crossfit", copied.config, *ONE_BY_ONE, "--resume"), "2 processes of a launcher were found; start")


def test_the_selection_split_counts_as_seen_by_the_average(done: Crossfitted, erc: Command, tmp_path: Path) -> None:
    out = tmp_path / "selection.parquet"
    assert erc("predict", done.folder, "--split", "selection", "--out", out, "--decide", "probable").code == 0
    assert selection_saw_split(read_predictions(out).info) is True
    assert selection_saw_split(done.table.info) is False


@pytest.mark.slow
def test_a_lost_fold_is_trained_again_and_the_average_with_it(copied: Crossfitted, done: Crossfitted) -> None:
    shutil.rmtree(copied.fold(2))
    assert crossfit_apart(copied.config, *ONE_BY_ONE, "--resume") == 0
    same_results(copied, done)


@pytest.mark.slow
def test_the_average_is_made_again_of_a_fold_that_has_changed(copied: Crossfitted, done: Crossfitted) -> None:
    """A fold that was lost and trained again, on hardware that does not repeat its sums to the bit."""
    weights = copied.fold(2) / WEIGHTS
    save_file({name: 1.001 * tensor for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    (copied.fold(2) / "left_out.parquet").unlink()
    assert crossfit_apart(copied.config, *ONE_BY_ONE, "--resume") == 0
    assert copied.run.manifest.run_id != done.run.manifest.run_id
    assert copied.table.info.run_id == copied.run.manifest.run_id
    assert read_calibration(copied.run).table_sha256 == table_hash(copied.table)


def _start(config: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """The command in a process of its own, whose output goes to a file beside its configuration."""
    with (config.parent / "output.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "erc_llm", "crossfit", str(config), *arguments],
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )


def _close(one: Predictions, other: Predictions) -> None:
    assert (one.keys, one.gold, one.info.folds) == (other.keys, other.gold, other.info.folds)
    assert one.log_likelihoods is not None
    assert other.log_likelihoods is not None
    np.testing.assert_allclose(one.log_likelihoods, other.log_likelihoods, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_folds_side_by_side_give_the_same_table(tiny_llama: TinyModel, done: Crossfitted, tmp_path: Path) -> None:
    config = write_config(tiny_llama, done.corpus, tmp_path)
    assert _start(config, "--folds", str(FOLDS), "--workers", "2").wait(300) == 0
    _close(Crossfitted(config, done.corpus, tmp_path / "runs" / "tiny").table, done.table)
    printed = (tmp_path / "output.txt").read_text("utf-8")
    assert "2 at a time" in printed
    for number in (1, 2):
        assert f"\nfold-{number}: " in printed


@pytest.mark.slow
def test_a_killed_command_goes_on_to_the_same_table(tiny_llama: TinyModel, done: Crossfitted, tmp_path: Path) -> None:
    """At random moments, from outside."""
    config, draw = write_config(tiny_llama, done.corpus, tmp_path), random.Random(2)
    found = Crossfitted(config, done.corpus, tmp_path / "runs" / "tiny")
    process = _start(config, *ONE_BY_ONE)
    assert _until((found.fold(1) / "training.jsonl").exists, 120)
    time.sleep(draw.uniform(0, 1))
    process.kill()
    assert process.wait() == -signal.SIGKILL
    for _ in range(3):
        process = _start(config, *ONE_BY_ONE, "--resume")
        try:
            assert process.wait(draw.uniform(3, 8)) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert _start(config, *ONE_BY_ONE, "--resume").wait(300) == 0
    _close(found.table, done.table)


def _children(pid: int) -> list[int]:
    """Processes that a process has started, and theirs."""
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]
    return found + [pid for child in found for pid in _children(child)]


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are read from /proc")
def test_the_processes_of_the_folds_end_with_a_killed_command(
    tiny_llama: TinyModel, done: Crossfitted, tmp_path: Path
) -> None:
    config = write_config(tiny_llama, done.corpus, tmp_path, training={"epochs": 1000})
    process = _start(config, "--folds", str(FOLDS), "--workers", "2")
    logs = [tmp_path / "runs" / "tiny-folds" / f"fold-{number}" / "training.jsonl" for number in (1, 2)]
    try:
        assert _until(lambda: all(log.exists() and log.stat().st_size for log in logs), 120), "both folds train"
        children = _children(process.pid)
        assert len(children) >= 2
    finally:
        process.kill()
        process.wait()
    assert _until(lambda: not any(map(_alive, children)), 15), "a process goes on without its parent"
    sizes = [log.stat().st_size for log in logs]
    time.sleep(1)
    assert [log.stat().st_size for log in logs] == sizes
