"""The training log: what it writes and prints, and which seconds count towards its speed."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from erc_llm.errors import RunError
from erc_llm.recipes.console import ConsoleProgress
from erc_llm.runs.logs import read_lines
from erc_llm.runs.progress import SILENT, Progress, TrainingLog


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def _log(folder: Path, clock: Clock, progress: Progress = SILENT, **changes: Any) -> TrainingLog:
    values = {"total": 10, "epochs": 2.0, "unit": "tokens", "print_every": 4, "precision": "model.precision"}
    return TrainingLog(folder, progress, clock=clock, **(values | changes))


def _step(log: TrainingLog, clock: Clock, step: int, work: int = 100, seconds: float = 2.0) -> None:
    clock.now += seconds
    log.advance(step, work)


def test_a_line_has_the_speed_since_the_line_before(tmp_path: Path) -> None:
    clock = Clock(now=50.0)
    log = _log(tmp_path, clock)
    with log.running(0):
        _step(log, clock, 1)
        log.write(1, 1.5, 0.25, 1e-3)
        for step in (2, 3, 4, 5):
            _step(log, clock, step, seconds=4.0)
        log.write(5, 1.25, None, 2e-3)
    keys = ("step", "epoch", "loss", "grad_norm", "learning_rate", "tokens_per_second")
    rows = [(1, 0.2, 1.5, 0.25, 1e-3, 50.0), (5, 1.0, 1.25, None, 2e-3, 25.0)]
    assert read_lines(tmp_path / "training.jsonl") == [dict(zip(keys, row, strict=True)) for row in rows]


def test_the_time_of_scoring_and_saving_does_not_count(tmp_path: Path) -> None:
    """Pauses before a line and around it, as checkpoints fall."""
    clock = Clock()
    log = _log(tmp_path, clock)
    log.begin(0)
    _step(log, clock, 1)
    with log.paused():
        clock.now += 1000
    log.pause()
    clock.now += 300
    log.write(1, 1.0, 0.0, 0.0)
    clock.now += 500
    log.resume()
    log.resume()
    _step(log, clock, 2)
    log.write(2, 1.0, 0.0, 0.0)
    log.end()
    assert [record["tokens_per_second"] for record in read_lines(tmp_path / "training.jsonl")] == [50.0, 50.0]


def test_a_resumed_log_has_each_step_once(tmp_path: Path) -> None:
    lines = [{"step": step, "loss": 1.0} for step in (1, 2, 3)]
    (tmp_path / "training.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    clock = Clock()
    log = _log(tmp_path, clock)
    with log.running(2):
        _step(log, clock, 3)
        log.write(3, 0.5, 0.0, 0.0)
    records = read_lines(tmp_path / "training.jsonl")
    assert [(record["step"], record["loss"]) for record in records] == [(1, 1.0), (2, 1.0), (3, 0.5)]


def test_a_resumed_run_says_where_it_begins(tmp_path: Path) -> None:
    """At the step of its checkpoint, or at the start though the log has lines of an earlier attempt."""
    assert "over" not in _printed(tmp_path, range(1, 3))
    assert "starts over: no checkpoint yet" in _printed(tmp_path, range(1, 3))
    assert "continues after step 2\n" in _printed(tmp_path, range(3, 5))


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_training_with_what_to_change(loss: float, tmp_path: Path) -> None:
    log = _log(tmp_path, Clock(), precision="encoder.precision")
    with pytest.raises(RunError, match=r"step 7: .*training\.learning_rate.*encoder\.precision"), log.running(0):
        log.write(7, loss, 0.0, 0.0)
    assert read_lines(tmp_path / "training.jsonl") == []


def _printed(folder: Path, steps: range, terminal: bool = False, **changes: Any) -> str:
    stream, clock = io.StringIO(), Clock()
    console = Console(file=stream, width=120, force_terminal=terminal)
    log = _log(folder, clock, ConsoleProgress(console), **changes)
    with log.running(steps.start - 1):
        for step in steps:
            _step(log, clock, step)
            if step % 2 == 0:
                log.write(step, 1.0, 0.0, 0.0)
    return stream.getvalue()


def test_without_a_terminal_a_line_is_printed_now_and_then(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert _printed(tmp_path, range(1, 11)).splitlines() == [
        "step 4/10  loss 1.000  50 tokens/s",
        "step 8/10  loss 1.000  50 tokens/s",
    ]
    assert _printed(tmp_path, range(7, 11)).splitlines() == [
        "continues after step 6",
        "step 8/10  loss 1.000  50 tokens/s",
    ]
    lines = _printed(tmp_path / "other", range(1, 11), print_every=2.5).splitlines()
    assert [line.partition("/")[0] for line in lines] == ["step 4", "step 6", "step 8", "step 10"]


def test_a_terminal_gets_a_bar_with_the_loss_and_the_speed(tmp_path: Path) -> None:
    shown = _printed(tmp_path, range(1, 11), terminal=True)
    assert "training" in shown
    assert "10/10" in shown
    assert "loss 1.000  50 tokens/s" in shown
    assert "step 4/10" not in shown


def test_the_console_prints_text_as_it_is_and_scores_in_per_cent() -> None:
    stream = io.StringIO()
    progress = ConsoleProgress(Console(file=stream, width=60))
    progress.line("runs/[bold]/" + "x" * 60)
    progress.line("note: odd", warning=True)
    progress.score("step 3", 0.4567, 0.4567, True)
    progress.score("epoch 2/3", 0.3, 0.4567, False)
    assert stream.getvalue().splitlines() == [
        "runs/[bold]/" + "x" * 60,
        "note: odd",
        "step 3: selection weighted F1 45.67 (new best)",
        "epoch 2/3: selection weighted F1 30.00 (best is 45.67)",
    ]
