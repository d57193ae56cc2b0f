"""What happens during a training besides the steps: selection scores, the best adapter, checkpoints, log, progress.

In: transformers' training events. Out: `training.jsonl`, `selection.jsonl`, `adapter/`, and lines for people. Knows
nothing of prompts and metrics; the score is handed in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from erc_llm.errors import RunError
from erc_llm.runs.logs import SELECTION_LOG, TRAINING_LOG, append_line, read_lines, rewind_log

SCORE = "weighted_f1"


class SelectionCallback(TrainerCallback):
    """Scores the selection split at fixed steps and keeps the best adapter.

    Args:
        folder: The run directory.
        steps: Optimizer steps after which to score.
        evaluate: Returns figures of the model as it is, `weighted_f1` among them.
        save: Writes the adapter.
        patience: Stop after that many evaluations without a new best; None: never.
        main: Whether this process writes.
        console: Where to say the score.
    """

    def __init__(
        self,
        folder: Path,
        steps: frozenset[int],
        evaluate: Callable[[Any], Mapping[str, float]],
        save: Callable[[Any], None],
        patience: int | None,
        main: bool,
        console: Console,
    ) -> None:
        self._log = folder / SELECTION_LOG
        self._steps = steps
        self._evaluate = evaluate
        self._save = save
        self._patience = patience
        self._main = main
        self._console = console
        self._best: float | None = None
        self._since_best = 0
        self._stopped = False  # whether patience had run out before this process began

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Take up the scores up to the step that is resumed from."""
        if self._main:
            rewind_log(self._log, state.global_step)
        for record in read_lines(self._log):
            if record["step"] <= state.global_step:
                self._note(record[SCORE])
        self._stopped = self._out_of_patience

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Score, where it is time."""
        if self._stopped:
            control.should_training_stop = True
            return
        if state.global_step not in self._steps:
            return
        started = time.perf_counter()
        figures = dict(self._evaluate(model))
        better = self._note(figures[SCORE])
        if self._main:
            append_line(self._log, {"step": state.global_step, **figures, "best": better, "seconds": _since(started)})
            if better:
                self._save(model)
            mark = "[bold green]new best[/]" if better else f"best is {100 * (self._best or 0):.2f}"
            self._console.print(
                f"step {state.global_step}: selection weighted F1 [bold]{100 * figures[SCORE]:.2f}[/] ({mark})"
            )
        control.should_training_stop |= self._out_of_patience

    @property
    def _out_of_patience(self) -> bool:
        return self._patience is not None and self._since_best >= self._patience

    def _note(self, score: float) -> bool:
        better = self._best is None or score > self._best
        self._best, self._since_best = (score, 0) if better else (self._best, self._since_best + 1)
        return better


class CheckpointCallback(TrainerCallback):
    """Asks for a checkpoint every so many minutes (0: after each step)."""

    def __init__(self, minutes: float) -> None:
        self._seconds = 60 * minutes
        self._last = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save if the time has come; several processes must agree, so the main one's clock is not asked elsewhere."""
        due = time.monotonic() - self._last >= self._seconds
        if _agree(due) and state.global_step < state.max_steps:
            control.should_save = True
            self._last = time.monotonic()


def _agree(due: bool) -> bool:
    import torch
    import torch.distributed as processes

    if not (processes.is_available() and processes.is_initialized()):
        return due
    device = "cuda" if processes.get_backend() == "nccl" else "cpu"
    flag = torch.tensor(int(due), device=device)
    processes.broadcast(flag, src=0)
    return bool(flag.item())


class LogCallback(TrainerCallback):
    """Writes the training log and shows progress: loss, learning rate, tokens a second, time left."""

    def __init__(self, folder: Path, tokens: list[int], epochs: float, main: bool, console: Console) -> None:
        self._log = folder / TRAINING_LOG
        self._tokens = tokens
        self._epochs = epochs
        self._main = main
        self._console = console
        self._progress: Progress | None = None
        self._last = (0, time.perf_counter())

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the bar at the step that is resumed from."""
        self._last = (state.global_step, time.perf_counter())
        if not self._main:
            return
        rewind_log(self._log, state.global_step)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._progress.add_task("training", total=state.max_steps, completed=state.global_step, figures="")
        self._progress.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Move the bar."""
        if self._progress:
            self._progress.update(self._task, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Write one line of the log."""
        if not self._main or not logs or "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise RunError(
                f"the loss is {logs['loss']} at step {state.global_step}: the training diverged; "
                "lower training.learning_rate, or use another model.precision"
            )
        step, started = self._last
        now = time.perf_counter()
        speed = sum(self._tokens[step : state.global_step]) / max(now - started, 1e-9)
        self._last = (state.global_step, now)
        record = {
            "step": state.global_step,
            "epoch": round(self._epochs * state.global_step / state.max_steps, 4),
            "loss": logs["loss"],
            "grad_norm": logs.get("grad_norm"),
            "learning_rate": logs.get("learning_rate"),
            "tokens_per_second": round(speed, 1),
        }
        append_line(self._log, record)
        figures = f"loss {logs['loss']:.3f}  {speed:.0f} tokens/s"
        if self._progress:
            self._progress.update(self._task, figures=figures)
        if not self._console.is_terminal and state.global_step % (10 * args.logging_steps) == 0:
            self._console.print(f"step {state.global_step}/{state.max_steps}  {figures}")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop the bar."""
        if self._progress:
            self._progress.stop()


def _since(started: float) -> float:
    return round(time.perf_counter() - started, 1)
