"""Progress of long work: lines, headings, bars and scores for people, and the training log of a run.

Input: what was done so far. Output: calls on a `Progress` (a terminal, or nothing) and the lines of `training.jsonl`.
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
    """One bar of progress."""

    def update(self, completed: int, metrics: str | None = None) -> None:
        """Move the bar; `metrics` replaces the text beside it."""


class Progress(Protocol):
    """Shows long work to people."""

    @property
    def animated(self) -> bool:
        """Whether bars are drawn; where they are not, a loop prints a line now and then instead."""

    def line(self, text: str, *, warning: bool = False) -> None:
        """Print one line of text."""

    def heading(self, text: str) -> None:
        """Print the heading of a part of the work."""

    def score(self, where: str, score: float, best: float, is_best: bool) -> None:
        """Print a selection score.

        Args:
            where: When in the training it was measured, such as `step 30`.
            score: Weighted F1, a fraction.
            best: The best one so far, this one included.
            is_best: Whether this one is the new best.
        """

    def bar(self, text: str, total: int, completed: int = 0, *, transient: bool = False) -> AbstractContextManager[Bar]:
        """Draw a bar with what is done, how far it is and how long it will take.

        Args:
            text: What is done.
            total: Units of the whole work.
            completed: Those that are done already.
            transient: Remove the bar at the end.
        """

    def busy(self, text: str) -> AbstractContextManager[object]:
        """Show that work of unknown length goes on."""


class Silent:
    """A `Progress` that shows nothing."""

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
    """The log of a training run, `training.jsonl`, and the bar that people see meanwhile.

    Speed is work per second of training: while the log is paused, for scoring and saving, no time is counted.

    Args:
        folder: The run directory.
        progress: Where the bar is drawn.
        total: Optimizer steps of the whole training run.
        epochs: Epochs of the whole training run.
        unit: What `advance` counts; the key `UNIT_per_second` of the log.
        print_every: Optimizer steps between two printed lines, where no bar is drawn.
        precision: The configuration field that a diverged run may change, such as `model.precision`.
        clock: Seconds from any fixed moment.
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
        """Start the bar and the clock at the step that is resumed from; later lines of the log are removed."""
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
        """`begin` at a step, and `end` however the block ends."""
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
        """Let the clock go on."""
        if self._running_since is None:
            self._running_since = self._clock()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of a block out of the speed."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def advance(self, step: int, work: int) -> None:
        """Count an optimizer step that was made, with its work."""
        self._work += work
        self._bar.update(step)

    def check(self, step: int, loss: float) -> None:
        """Refuse to go on with a loss that is no number.

        Raises:
            RunError: The training diverged.
        """
        if not math.isfinite(loss):
            raise RunError(
                f"the loss is {loss} at step {step}: the training diverged; lower training.learning_rate, or use "
                f"another {self._precision}"
            )

    def write(self, step: int, loss: float, grad_norm: float | None, learning_rate: float | None) -> None:
        """Write one line of the log.

        Args:
            step: Optimizer steps made.
            loss: Mean since the line before.
            grad_norm: Norm of the last gradients before clipping.
            learning_rate: Of the last step.

        Raises:
            RunError: The training diverged, or the log cannot be written.
        """
        self.check(step, loss)
        speed = self._take_speed()
        record = {
            "step": step,
            "epoch": round(self._epochs * step / self._total, 4),
            "loss": loss,
            "grad_norm": grad_norm,
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
        """Work per second since this was called last."""
        seconds = self._seconds
        if self._running_since is not None:
            now = self._clock()
            seconds += now - self._running_since
            self._running_since = now
        speed = self._work / max(seconds, 1e-9)
        self._work, self._seconds = 0, 0.0
        return speed
