"""Training runs that are followed: what the logs say, the time left, folds, and runs that come and go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from erc_llm.errors import RunError
from erc_llm.ui.training import Watcher
from tests.ui.pages import log_training


def set_times(folder: Path, config: float, log: float) -> None:
    os.utime(folder / "config.yaml", (config, config))
    os.utime(folder / "training.jsonl", (log, log))


def test_a_run_is_followed_to_its_report(tmp_path: Path) -> None:
    run = log_training(tmp_path / "runs" / "a", steps=20)
    set_times(run, 1000, 1040)
    watcher = Watcher([tmp_path / "runs"], now=lambda: 1050)
    (found,) = watcher.runs()
    assert (found.name, found.state, found.step, found.total, found.epoch) == ("runs/a", "training", 20, 100, 0.4)
    assert (found.loss, found.best) == (pytest.approx(1.8), 0.1)
    assert found.seconds_left == pytest.approx(160), "2 s a step since the configuration was written"
    assert found.seconds_since == pytest.approx(10)
    log_training(run, steps=30)
    set_times(run, 1000, 1100)
    assert watcher.runs()[0].seconds_left == pytest.approx(70 * 6), "6 s a step between the two looks"
    with pytest.raises(RunError, match=r"report\.html: no such file"):
        watcher.report(found.id)
    log_training(run, steps=100, finished=True)
    (found,) = watcher.runs()
    assert (found.state, found.seconds_left, found.has_report) == ("finished", None, True)
    assert watcher.report(found.id).read_text("utf-8").endswith("Finished.")


def test_the_curves_are_those_of_the_logs(tmp_path: Path) -> None:
    log_training(tmp_path / "a", steps=20)
    watcher = Watcher([tmp_path / "a"])
    loss, scores = watcher.curves(watcher.runs()[0].id)
    assert len(loss) == 20
    assert loss[0] == (1, pytest.approx(1.99))
    assert [(score.step, score.weighted_f1, score.best) for score in scores] == [(10, 0.05, True), (20, 0.1, True)]
    log_training(tmp_path / "a", steps=1000, total=1000)
    assert len(watcher.curves(watcher.runs()[0].id)[0]) <= 300


def test_a_resumed_run_starts_the_estimate_again(tmp_path: Path) -> None:
    run = log_training(tmp_path / "a", steps=50)
    set_times(run, 1000, 1050)
    watcher = Watcher([run], now=lambda: 2100)
    watcher.runs()
    log_training(run, steps=40)
    set_times(run, 2000, 2010)
    watcher.runs()
    log_training(run, steps=45)
    set_times(run, 2000, 2020)
    assert watcher.runs()[0].seconds_left == pytest.approx(55 * 2)


def test_folds_are_found_and_exports_and_strange_folders_are_not(tmp_path: Path) -> None:
    for fold in (1, 2):
        log_training(tmp_path / "talks-folds" / f"fold-{fold}", steps=fold)
    starting = tmp_path / "starting"
    starting.mkdir()
    (starting / "config.yaml").write_text("training: {epochs: 1}", "utf-8")
    export = log_training(tmp_path / "export", steps=0, finished=True)
    (export / "report.html").unlink()
    (export / "training.jsonl").unlink()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "empty").mkdir()
    found = {run.name.partition("/")[2]: run.state for run in Watcher([tmp_path]).runs()}
    assert found == {"talks-folds/fold-1": "training", "talks-folds/fold-2": "training", "starting": "starting"}


def test_damaged_logs_and_configurations_stop_nothing(tmp_path: Path) -> None:
    run = log_training(tmp_path / "a", steps=3)
    with (run / "training.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"step": 4, "lo')
    (run / "config.yaml").write_text("training: [", "utf-8")
    (run / "manifest.json").write_text("{", "utf-8")
    (found,) = Watcher([run]).runs()
    assert (found.step, found.total, found.state) == (3, None, "training")


def test_a_run_that_is_gone_is_said_so(tmp_path: Path) -> None:
    watcher = Watcher([tmp_path / "nothing"])
    assert watcher.runs() == ()
    for question in (watcher.curves, watcher.report):
        with pytest.raises(RunError, match="no such training run any more"):
            question("0123456789ab")
