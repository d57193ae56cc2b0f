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

from erc_llm.config import load_config
from erc_llm.errors import ConfigError, RunError
from erc_llm.recipes.sweep import Sweep, sweep
from erc_llm.recipes.sweep_space import read_space
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


def worker(config: Path, tmp_path: Path, trials: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "erc_llm", "sweep", str(config), str(tmp_path / "space.yaml")]
    more = ["--trials", str(trials), "--out", str(tmp_path / "sweep")]
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
