"""Progress of long work: the display interface (lines, headings, bars, scores) and the training log of a run.

Input: the work done so far. Output: calls on a `Progress` (a terminal, or nothing) and the lines of `training.jsonl`.
Does not depend on: rich, models, how a training loop works.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

from erc_llm.errors import RunError
from erc_llm.runs.logs import TRAINING_LOG, append_line, rewind_log


class Bar(Protocol):
    """A progress bar."""

    def update(self, completed: int, metrics: str | None = None) -> None:
        """Advance the bar; `metrics` replaces the text beside it."""


class Progress(Protocol):
    """Displays the progress of long work to the user."""

    @property
    def animated(self) -> bool:
        """Whether bars are drawn; otherwise, loops print a line at intervals."""

    def line(self, text: str, *, warning: bool = False) -> None:
        """Print one line of text."""

    def heading(self, text: str) -> None:
        """Print the heading of a section of the work."""

    def score(self, where: str, score: float, best: float, is_best: bool) -> None:
        """Print a selection score.

        Args:
            where: Point of the training run at which it was measured, such as `step 30`.
            score: Weighted F1, a fraction.
            best: The best score so far, this one included.
            is_best: Whether this score is the new best.
        """

    def bar(self, text: str, total: int, completed: int = 0, *, transient: bool = False) -> AbstractContextManager[Bar]:
        """Draw a bar with a description, the progress and the remaining time.

        Args:
            text: Description of the work.
            total: Number of units of work.
            completed: Number of units that are done already.
            transient: Whether to remove the bar at the end.
        """

    def busy(self, text: str) -> AbstractContextManager[object]:
        """Show that work of unknown length is in progress."""


class Silent:
    """A `Progress` that displays nothing."""

    animated = False

    def line(self, text: str, *, warning: bool = False) -> None:
        """Print nothing."""

    def heading(self, text: str) -> None:
        """Print nothing."""

    def score(self, where: str, score: float, best: float, is_best: bool) -> None:
        """Print nothing."""

    def bar(self, text: str, total: int, completed: int = 0, *, transient: bool = False) -> AbstractContextManager[Bar]:
        """Draw nothing."""
        return nullcontext(_SilentBar())

    def busy(self, text: str) -> AbstractContextManager[object]:
        """Show nothing."""
        return nullcontext()


class _SilentBar:
    def update(self, completed: int, metrics: str | None = None) -> None:
        pass


SILENT = Silent()


class TrainingLog:
    """The log of a training run, `training.jsonl`, and its progress bar.

    Speed is work per second of training; the time while the log is paused, for scoring and saving, does not count.

    Args:
        folder: The run directory.
        progress: Draws the bar.
        total: Optimizer steps of the whole training run.
        epochs: Epochs of the whole training run.
        unit: Unit of the work that `advance` counts, as in the key `UNIT_per_second` of the log.
        print_every: Optimizer steps between two printed lines if no bar is drawn.
        precision: Configuration field to suggest when a run diverges, such as `model.precision`.
        clock: Returns seconds since a fixed moment.
    """

    def __init__(
        self,
        folder: Path,
        progress: Progress,
        *,
        total: int,
        epochs: float,
        unit: str,
        print_every: float,
        precision: str,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._path = folder / TRAINING_LOG
        self._progress = progress
        self._total = total
        self._epochs = epochs
        self._unit = unit
        self._print_every = print_every
        self._precision = precision
        self._clock = clock
        self._bar: Bar = _SilentBar()
        self._open = ExitStack()
        self._work = 0
        self._seconds = 0.0
        self._running_since: float | None = None
        self._printed = 0

    def begin(self, step: int) -> None:
        """Start the bar and the clock at a step (0, or the one resumed from); later lines of the log are removed."""
        if step:
            self._progress.line(f"continues after step {step}")
        elif self._path.exists():
            self._progress.line("starts over: no checkpoint yet")
        rewind_log(self._path, step)
        self._bar = self._open.enter_context(self._progress.bar("training", self._total, step))
        self._work, self._seconds, self._printed = 0, 0.0, step
        self._running_since = self._clock()

    def end(self) -> None:
        """Stop the bar and the clock."""
        self.pause()
        self._open.close()

    @contextmanager
    def running(self, step: int) -> Iterator[None]:
        """`begin` at a step, and `end` after the block, also if it raises."""
        self.begin(step)
        try:
            yield
        finally:
            self.end()

    def pause(self) -> None:
        """Stop the clock."""
        if self._running_since is not None:
            self._seconds += self._clock() - self._running_since
            self._running_since = None

    def resume(self) -> None:
        """Restart the clock after a pause."""
        if self._running_since is None:
            self._running_since = self._clock()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time of a block from the speed."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def advance(self, step: int, work: int) -> None:
        """Record a completed optimizer step and its work."""
        self._work += work
        self._bar.update(step)

    def check(self, step: int, loss: float) -> None:
        """Stop if the loss is not a finite number.

        Raises:
            RunError: The training run diverged.
        """
        if not math.isfinite(loss):
            raise RunError(
                f"the loss is {loss} at step {step}: the training run diverged; lower training.learning_rate, or use "
                f"another {self._precision}"
            )

    def write(self, step: int, loss: float, grad_norm: float | None, learning_rate: float | None) -> None:
        """Write one line of the log.

        Args:
            step: Number of optimizer steps so far.
            loss: Mean loss since the previous line.
            grad_norm: Norm of the last gradients before clipping; `null` in the log if they overflowed, as in fp16 they
                may: that step changed no weight.
            learning_rate: Learning rate of the last step.

        Raises:
            RunError: The training run diverged, or the log cannot be written.
        """
        self.check(step, loss)
        speed = self._take_speed()
        record = {
            "step": step,
            "epoch": round(self._epochs * step / self._total, 4),
            "loss": loss,
            "grad_norm": grad_norm if grad_norm is None or math.isfinite(grad_norm) else None,
            "learning_rate": learning_rate,
            f"{self._unit}_per_second": round(speed, 1),
        }
        append_line(self._path, record)
        metrics = f"loss {loss:.3f}  {speed:.0f} {self._unit}/s"
        self._bar.update(step, metrics)
        if not self._progress.animated and step // self._print_every > self._printed // self._print_every:
            self._progress.line(f"step {step}/{self._total}  {metrics}")
        self._printed = step

    def _take_speed(self) -> float:
        """Work per second since the previous call."""
        seconds = self._seconds
        if self._running_since is not None:
            now = self._clock()
            seconds += now - self._running_since
            self._running_since = now
        speed = self._work / max(seconds, 1e-9)
        self._work, self._seconds = 0, 0.0
        return speed
