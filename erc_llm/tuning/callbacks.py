"""Training callbacks: selection scores, the best adapter, early stopping, checkpoint times, the training log.

Input: training events of transformers. Output: `training.jsonl`, `selection.jsonl`, `adapter/`, printed progress.
Does not depend on: prompts, how the score is computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from erc_llm.models.devices import process_count
from erc_llm.runs.logs import SELECTION_LOG, append_line, read_lines, rewind_log
from erc_llm.runs.progress import Progress, TrainingLog
from erc_llm.tuning.processes import of_main_process

SCORE = "weighted_f1"


class SelectionCallback(TrainerCallback):
    """Scores the selection split at fixed steps, keeps the best adapter and stops early.

    Each process scores a share, and the main process's score decides in all of them: a process that stops alone leaves
    the others waiting for it.

    Args:
        folder: The run directory.
        steps: Optimizer steps after which to score.
        evaluate: Returns metrics of the model in its present state, including `weighted_f1`.
        save: Writes the adapter.
        patience: Stop after this many evaluations without a new best; None: never.
        main: Whether this process writes.
        progress: Where to print the score.
        log: The training log; its clock is stopped during scoring.
        watch: Called in the main process with the step and the metrics; True ends training.
    """

    def __init__(
        self,
        folder: Path,
        steps: frozenset[int],
        evaluate: Callable[[Any], Mapping[str, float]],
        save: Callable[[Any], None],
        patience: int | None,
        main: bool,
        progress: Progress,
        log: TrainingLog,
        watch: Callable[[int, Mapping[str, float]], bool] | None = None,
    ) -> None:
        self._watch = watch
        self._scores = folder / SELECTION_LOG
        self._steps = steps
        self._evaluate = evaluate
        self._save = save
        self._patience = patience
        self._main = main
        self._progress = progress
        self._log = log
        self._best: float | None = None
        self._since_best = 0
        self._stopped = False  # whether patience had run out before this process began

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Read the scores up to the step from which the run resumes."""
        if self._main:
            rewind_log(self._scores, state.global_step)
        records = read_lines(self._scores)
        for score in of_main_process([record[SCORE] for record in records if record["step"] <= state.global_step]):
            self._note(score)
        self._stopped = self._out_of_patience

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Score if this step is one of those to score after."""
        if self._stopped:
            control.should_training_stop = True
            return
        if state.global_step in self._steps:
            with self._log.paused():
                control.should_training_stop |= self._score(state.global_step, model)
            control.should_training_stop |= self._out_of_patience

    def _score(self, step: int, model: Any) -> bool:
        """Score the model; returns whether whoever watches wants training to end."""
        started = time.perf_counter()
        metrics = dict(self._evaluate(model))
        score = of_main_process(metrics[SCORE])
        better = self._note(score)
        if self._main:
            seconds = round(time.perf_counter() - started, 1)
            append_line(self._scores, {"step": step, **metrics, "best": better, "seconds": seconds})
            if better:
                self._save(model)
            self._progress.score(f"step {step}", score, self._best or 0.0, better)
        return of_main_process(self._watch is not None and self._main and self._watch(step, metrics))

    @property
    def _out_of_patience(self) -> bool:
        return self._patience is not None and self._since_best >= self._patience

    def _note(self, score: float) -> bool:
        better = self._best is None or score > self._best
        self._best, self._since_best = (score, 0) if better else (self._best, self._since_best + 1)
        return better


class CheckpointCallback(TrainerCallback):
    """Requests checkpoints at regular times.

    Args:
        minutes: Minutes between checkpoints; 0: after each step.
        log: The training log; its clock is stopped while a checkpoint is written.
    """

    def __init__(self, minutes: float, log: TrainingLog) -> None:
        self._seconds = 60 * minutes
        self._log = log
        self._last = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save if a checkpoint is due by the main process's clock; all processes must save at the same step."""
        if self._seconds and process_count() > 1 and state.global_step % args.logging_steps:
            return  # agreeing makes a GPU wait; at the steps that are logged it waits in any case
        due = time.monotonic() - self._last >= self._seconds
        if of_main_process(due) and state.global_step < state.max_steps:
            control.should_save = True
            self._last = time.monotonic()
            self._log.pause()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Resume the clock of the training log after the checkpoint is written."""
        self._log.resume()


class LogCallback(TrainerCallback):
    """Writes the training log; only the main process has one.

    Args:
        log: The log.
        tokens: (steps,) number of tokens of each optimizer step.
    """

    def __init__(self, log: TrainingLog, tokens: Sequence[int]) -> None:
        self._log = log
        self._tokens = tokens

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the log at the step from which the run resumes."""
        self._log.begin(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Count the step; the last planned one is logged, whatever its number."""
        self._log.advance(state.global_step, self._tokens[state.global_step - 1])
        if state.global_step == state.max_steps:
            control.should_log = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Write one line."""
        if logs and "loss" in logs:
            self._log.write(state.global_step, logs["loss"], logs.get("grad_norm"), logs.get("learning_rate"))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """End the log."""
        self._log.end()
