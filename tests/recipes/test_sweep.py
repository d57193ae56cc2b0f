"""Sweeps: a search space that fits, trials that are resumed and shared, and what comes out."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from erc_llm.config import load_config
from erc_llm.errors import ConfigError, RunError
from erc_llm.recipes.sweep import Sweep, _Killed, sweep
from erc_llm.recipes.sweep_space import read_space
from erc_llm.recipes.sweep_trials import _begin, give_back, open_study
from erc_llm.recipes.train import train
from erc_llm.runs.directory import read_run
from tests.tiny_models import TinyModel

SPACE = "training.learning_rate: {low: 0.0001, high: 0.01, log: true}\nlora.rank: [2, 4]\n"


@pytest.fixture
def config(tmp_path: Path, tiny_llama: TinyModel) -> Path:
    path = tmp_path / "tiny.yaml"
    content = {
        "name": "tiny",
        "output": str(tmp_path / "runs"),
        "corpus": {"path": "sample"},
        "model": {"base": str(tiny_llama.folder), "precision": "fp32", "device": "cpu"},
        "training": {"epochs": 1, "max_scenes": 4, "evaluations": 2, "tokens_per_step": 256},
    }
    path.write_text(yaml.safe_dump(content), "utf-8")
    return path


def space_file(folder: Path, text: str = SPACE) -> Path:
    path = folder / "space.yaml"
    path.write_text(text, "utf-8")
    return path


def options(config: Path, tmp_path: Path, **changed: Any) -> Sweep:
    fields: dict[str, Any] = {
        "config": str(config),
        "overrides": (),
        "space": space_file(tmp_path),
        "trials": 3,
        "metric": "nll",
        "folds": None,
        "seed": 0,
        "folder": tmp_path / "sweep",
    }
    return Sweep(**{**fields, **changed})


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "trials.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora.rnak: [8]", "lora.rnak"),
        ("lora.rank: [0]", "lora.rank"),
        ("lora.rank: {low: 8, high: 4}", "low=8 is not below high=4"),
        ("lora.rank: {low: 8, up: 9}", "lora.rank: "),
        ("training.learning_rate: {low: 0.0, high: 1.0, log: true}", "log=true needs a low above 0"),
        ("name: [a, b]", "name: is set by the sweep"),
        ("{}", "no field"),
    ],
)
def test_a_wrong_search_space_is_refused(tmp_path: Path, config: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match="no search space") as error:
        read_space(space_file(tmp_path, text), lambda texts: load_config(config, texts))
    assert message in str(error.value)


def test_a_sweep_ends_with_a_table_and_a_configuration_that_says_how_many_were_tried(
    tmp_path: Path, config: Path
) -> None:
    study = sweep(options(config, tmp_path))
    folder = tmp_path / "sweep"
    found = rows(folder)
    assert [row["trial"] for row in found] == ["0", "1", "2"]
    assert {row["lora.rank"] for row in found} <= {"2", "4"}
    best = load_config(folder / "best.yaml", ["training.max_scenes=2"])
    assert best.tried == 3
    assert f"lora.rank={best.lora.rank}" in study.best_trial.user_attrs["overrides"]
    assert float(min(found, key=lambda row: float(row["nll"]))["nll"]) == pytest.approx(study.best_value)
    assert train(best).manifest.tried == 3

    more = sweep(options(config, tmp_path, trials=4))
    assert len(more.trials) == 4
    assert (folder / "importance.svg").is_file()
    assert read_run(folder / "trials" / "trial-003").manifest.finished


def test_another_sweep_in_the_same_folder_is_refused(tmp_path: Path, config: Path) -> None:
    sweep(options(config, tmp_path, trials=1))
    with pytest.raises(RunError, match="another configuration"):
        sweep(options(config, tmp_path, metric="weighted_f1"))
    space_file(tmp_path, "lora.rank: [2, 8]")
    with pytest.raises(RunError, match="another configuration"):
        sweep(Sweep(str(config), (), tmp_path / "space.yaml", 1, "nll", None, 0, tmp_path / "sweep"))


def test_trials_need_a_ruler(tmp_path: Path, config: Path) -> None:
    with pytest.raises(ConfigError, match="--folds 5"):
        sweep(options(config, tmp_path, overrides=("training.evaluations=0",)))


def test_trials_that_all_fail_end_the_sweep(tmp_path: Path, config: Path) -> None:
    with pytest.raises(RunError, match="4 trials failed; the last"):
        sweep(options(config, tmp_path, overrides=("sampling.scheme=inverse_frequency", "training.max_scenes=1")))


def test_a_launcher_is_refused(tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"start `erc-llm sweep` directly, it runs a trial on each GPU itself"):
        sweep(options(config, tmp_path))


@pytest.mark.parametrize(
    ("workers", "gpus", "trials", "at_once"),
    [(None, [], 3, 1), (None, ["0", "1"], 3, 2), (None, ["0", "1"], 1, 1), (4, ["0", "1"], 9, 4), (2, [], 3, 2)],
)
def test_there_is_a_worker_for_each_gpu(
    workers: int | None,
    gpus: list[str],
    trials: int,
    at_once: int,
    tmp_path: Path,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a GPU there is one; one worker runs in this process, several train a trial's folds one by one."""
    started: list[tuple[int, int | None]] = []

    def run_side_by_side(_: Any, jobs: Any, at_once: int, *__: Any, **___: Any) -> None:
        started.append((at_once, *{values[2] for values in jobs.values()}))

    monkeypatch.setattr("erc_llm.recipes.sweep.visible_gpus", lambda: gpus)
    monkeypatch.setattr("erc_llm.recipes.sweep.run_side_by_side", run_side_by_side)
    monkeypatch.setattr("erc_llm.recipes.sweep.run_trials", lambda *values: started.append((1, values[2])))
    sweep(options(config, tmp_path, trials=trials), workers=workers)
    assert started == [(at_once, 1 if at_once > 1 else None)]


def test_a_sweep_ends_if_its_workers_are_killed_and_no_trial_ends(tmp_path: Path, config: Path) -> None:
    asked = options(config, tmp_path)
    asked.folder.mkdir()
    killed = _Killed(asked, 2, Console(quiet=True))
    study = open_study(asked)
    for _ in range(3):
        killed("worker-1", 1)
    study.tell(study.ask(), 1.0)
    for _ in range(3):
        killed("worker-2", 2)
    with pytest.raises(RunError, match=r"4 workers were killed and no trial ended .* with fewer --workers continues"):
        killed("worker-1", 3)


def test_a_trial_that_loses_two_workers_fails_and_the_sweep_goes_on(tmp_path: Path, config: Path) -> None:
    """The workers are imitated: each asks for a trial, and leaves it with a lock that is free, as a dead one does."""
    asked = options(config, tmp_path, trials=2)
    asked.folder.mkdir()
    for _ in range(2):
        lost = _begin(open_study(asked), asked)
        assert lost is not None
        lost.lock.release()
        give_back(asked, os.getpid())
    study = sweep(asked)
    [failed] = [trial for trial in study.trials if "error" in trial.user_attrs]
    assert failed.user_attrs["error"] == "2 workers were killed with it, perhaps for lack of memory"
    assert len(rows(tmp_path / "sweep")) == 2
    assert "trial-000" not in {path.name for path in (tmp_path / "sweep" / "trials").iterdir()}


def worker(config: Path, tmp_path: Path, trials: int, *more_options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "erc_llm", "sweep", str(config), str(tmp_path / "space.yaml")]
    more = ["--trials", str(trials), "--out", str(tmp_path / "sweep"), *more_options]
    return subprocess.Popen([*command, *more], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_two_workers_share_it(tmp_path: Path, config: Path) -> None:
    space_file(tmp_path)
    folder = tmp_path / "sweep"
    first = worker(config, tmp_path, 8)
    while not (folder / "trials" / "trial-001" / "manifest.json").is_file():
        assert first.poll() is None, first.stderr and first.stderr.read()
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    workers = [worker(config, tmp_path, 8) for _ in range(2)]
    for process in workers:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors.decode()
    found = rows(folder)
    assert len(found) == 8
    values = [(row["training.learning_rate"], row["lora.rank"]) for row in found]
    assert len({*values}) == 8
    runs = sorted(path.name for path in (folder / "trials").iterdir())
    assert len(runs) == 8  # the trial that was killed went on in its own run directory
    assert all(read_run(folder / "trials" / name).manifest.finished for name in runs)


def workers_of(parent: int) -> list[int]:
    """Process ids of a sweep's workers; beside them there is the tracker of multiprocessing's resources."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.slow
def test_two_workers_of_one_call_outlive_the_death_of_one(tmp_path: Path, config: Path) -> None:
    space_file(tmp_path)
    folder = tmp_path / "sweep"
    parent = worker(config, tmp_path, 5, "--workers", "2")
    while not (folder / "trials" / "trial-001" / "manifest.json").is_file():
        assert parent.poll() is None, parent.stderr and parent.stderr.read()
        time.sleep(0.05)
    os.kill(workers_of(parent.pid)[-1], signal.SIGKILL)
    _, errors = parent.communicate(timeout=600)
    assert parent.returncode == 0, errors.decode()
    assert len(rows(folder)) == 5
    runs = sorted(path.name for path in (folder / "trials").iterdir())
    assert len(runs) == 5  # the trial that was killed went on in its own run directory
    assert all(read_run(folder / "trials" / name).manifest.finished for name in runs)
