"""The training loop of all baselines: steps, selection after each epoch, the best weights kept, checkpoints, progress.

In: a loaded model, examples, `LoopSettings`. Out: `model.safetensors` of the best epoch and two logs in a folder. Knows
nothing of corpora and configurations.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn.functional import cross_entropy

from erc_llm.baselines.batches import epoch_batches, pad, steps_per_epoch
from erc_llm.baselines.build import LoadedBaseline, fork_rng
from erc_llm.baselines.compm import MemoryClassifier, new_parameters, pretrained_parameters
from erc_llm.baselines.inference import figures, probabilities, snapshot_of
from erc_llm.baselines.inputs import Example
from erc_llm.baselines.memory import Snapshot, take_snapshot
from erc_llm.baselines.weights import (
    CHECKPOINT,
    WEIGHTS,
    Position,
    epoch_weights,
    keep_epoch,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
)
from erc_llm.errors import RunError
from erc_llm.runs.logs import SELECTION_LOG, TRAINING_LOG, append_line, rewind_log

SCORE = "weighted_f1"
_LINES = 20  # of progress in a whole training, where there is no terminal


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """The numbers of a training; see `erc_llm.baselines.baseline_config.BaselineTraining` for what they mean.

    Attributes:
        new_learning_rate: Of the layers that start at random.
        warmup: Share of all steps.
        weights: (labels,) weight of a target's loss by its label.
        checkpoint_seconds: Time between checkpoints; 0: every step.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    new_learning_rate: float
    schedule: Literal["linear", "cosine", "constant"]
    warmup: float
    weight_decay: float
    max_grad_norm: float
    weights: tuple[float, ...]
    seed: int
    checkpoint_seconds: float
    log_every: int


class Fitting:
    """One training.

    Args:
        loaded: The model; trained in place.
        examples: Labelled examples to fit.
        selection: Labelled examples by which the best epoch is chosen.
        settings: The numbers.
        folder: The run directory.
        console: Where progress is shown.
    """

    def __init__(
        self,
        loaded: LoadedBaseline,
        examples: Sequence[Example],
        selection: Sequence[Example],
        settings: LoopSettings,
        folder: Path,
        console: Console,
    ) -> None:
        self.loaded = loaded
        self._examples = examples
        self._selection = selection
        self._settings = settings
        self._folder = folder
        self._console = console
        self._weights = torch.tensor(settings.weights, device=loaded.device)
        self._lengths = [len(example.context) for example in examples]
        self._per_epoch = steps_per_epoch(len(examples), settings.batch_size)
        self.total = settings.epochs * self._per_epoch
        self.optimizer = optimizer_of(loaded, settings)
        self.scheduler = _scheduler(self.optimizer, settings, self.total)
        self._cached: Snapshot | None = None

    def run(self, resume: bool = False) -> None:
        """Train to the end; what is best is in the model and stands in the folder afterwards.

        Args:
            resume: Go on from the folder's checkpoint, if there is one.

        Raises:
            RunError: A file cannot be written or read, or the training diverges.
        """
        with fork_rng(self.loaded.device):
            torch.manual_seed(self._settings.seed + 1)  # dropout; the new layers were drawn by the seed itself
            self._run(resume)

    def _run(self, resume: bool) -> None:
        checkpoint = self._folder / CHECKPOINT
        loaded = load_checkpoint(checkpoint, self.loaded.model, self.optimizer, self.scheduler) if resume else None
        position = loaded or Position()
        keep_epoch(self._folder, position.best_epoch)
        for name in (TRAINING_LOG, SELECTION_LOG):
            rewind_log(self._folder / name, position.step)
        self.embed_once()
        saved, log = time.monotonic(), _Log(self._folder, self._settings, self.total, position, self._console)
        with log:
            while position.step < self.total:
                epoch, done = divmod(position.step, self._per_epoch)
                batches = epoch_batches(self._lengths, self._settings.batch_size, self._settings.seed, epoch)
                for batch in batches[done:]:
                    rate = self.optimizer.param_groups[0]["lr"]
                    loss, norm = self.step([self._examples[i] for i in batch])
                    losses = log.note(position.step + 1, len(batch), loss, norm, rate)
                    position = replace(position, step=position.step + 1, losses=losses)
                    if position.step % self._per_epoch == 0:
                        position = self._select(position)
                    if time.monotonic() - saved >= self._settings.checkpoint_seconds and position.step < self.total:
                        save_checkpoint(checkpoint, self.loaded.model, self.optimizer, self.scheduler, position)
                        keep_epoch(self._folder, position.best_epoch)
                        saved = time.monotonic()
        assert position.best_epoch is not None, "there is at least one epoch"
        load_weights(self.loaded.model, epoch_weights(self._folder, position.best_epoch))
        save_weights(self.loaded.model, self._folder / WEIGHTS)

    def step(self, examples: Sequence[Example]) -> tuple[float, float]:
        """One optimizer step on labelled examples; its loss and the norm of its gradients before clipping."""
        model = self.loaded.model
        model.train()
        loss = self._loss(examples)
        loss.backward()
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(trained, self._settings.max_grad_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item(), norm.item()

    def _loss(self, examples: Sequence[Example]) -> Tensor:
        """Sum of weight times cross-entropy over the number of examples; see `emonet.class_weights`."""
        loaded = self.loaded
        with loaded.autocast():
            snapshot = self._snapshot(examples)
            contexts = pad([example.context for example in examples], loaded.padding, loaded.device)
            scores: Tensor = loaded.model(contexts, *(snapshot.histories(examples) if snapshot else ()))
        gold = torch.tensor([example.label for example in examples], device=loaded.device)
        return cross_entropy(scores.float(), gold, weight=self._weights, reduction="sum") / len(examples)

    def _snapshot(self, examples: Sequence[Example]) -> Snapshot | None:
        model, loaded = self.loaded.model, self.loaded
        if not isinstance(model, MemoryClassifier) or model.frozen:
            return self._cached
        return take_snapshot(model.remembering, examples, loaded.padding, loaded.hidden, loaded.device)

    def embed_once(self) -> None:
        """Take the snapshot that a frozen memory reads from; nothing where the memory is trained."""
        if self.loaded.frozen_memory:
            began = time.perf_counter()
            with self._console.status("embedding remembered utterances"):
                self._cached = snapshot_of(self.loaded, [*self._examples, *self._selection])
            assert self._cached is not None, "a frozen memory has a second encoder"
            seconds, count = time.perf_counter() - began, len(self._cached.row)
            self._console.print(f"{count} remembered utterances embedded once, in {seconds:.0f} s", highlight=False)

    def _select(self, position: Position) -> Position:
        began = time.perf_counter()
        found = figures(probabilities(self.loaded, self._selection, self._cached), self._selection)
        better = position.best is None or found[SCORE] > position.best
        epoch = position.step // self._per_epoch
        if better:
            save_weights(self.loaded.model, epoch_weights(self._folder, epoch))
            position = replace(position, best=found[SCORE], best_epoch=epoch)
        record = {"step": position.step, "epoch": epoch, **found, "best": better}
        append_line(self._folder / SELECTION_LOG, record | {"seconds": round(time.perf_counter() - began, 1)})
        mark = "[bold green]new best[/]" if better else f"best is {100 * (position.best or 0):.2f}"
        self._console.print(
            f"epoch {epoch}/{self._settings.epochs}: selection weighted F1 [bold]{100 * found[SCORE]:.2f}[/] ({mark})"
        )
        return position


def optimizer_of(loaded: LoadedBaseline, settings: LoopSettings) -> torch.optim.AdamW:
    """AdamW with a rate for pretrained weights and one for new layers."""
    groups = [
        {"params": pretrained_parameters(loaded.model), "lr": settings.learning_rate},
        {"params": new_parameters(loaded.model), "lr": settings.new_learning_rate},
    ]
    return torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)


def _scheduler(optimizer: torch.optim.Optimizer, settings: LoopSettings, total: int) -> Any:
    from transformers import get_scheduler

    name = "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
    return get_scheduler(name, optimizer, num_warmup_steps=round(settings.warmup * total), num_training_steps=total)


class _Log:
    """The training log and the bar of progress."""

    def __init__(self, folder: Path, settings: LoopSettings, total: int, position: Position, console: Console) -> None:
        self._path = folder / TRAINING_LOG
        self._settings = settings
        self._total = total
        self._console = console
        columns = (
            TextColumn("training"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task("", total=total, completed=position.step, figures="")
        self._began = time.perf_counter()
        self._utterances = 0
        self._losses = list(position.losses)

    def __enter__(self) -> _Log:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def note(self, step: int, utterances: int, loss: float, norm: float, rate: float) -> tuple[float, ...]:
        """A step was made; `loss` in the log is the mean since the line before.

        Returns:
            The losses that the next line is the mean of, so far.

        Raises:
            RunError: The loss is no number any more.
        """
        if not math.isfinite(loss):
            raise RunError(
                f"the loss is {loss} at step {step}: the training diverged; lower training.learning_rate, or use "
                "another encoder.precision"
            )
        self._utterances += utterances
        self._losses.append(loss)
        self._progress.update(self._task, completed=step)
        if step % self._settings.log_every == 0 or step == self._total:
            now = time.perf_counter()
            speed = self._utterances / (now - self._began)
            mean = sum(self._losses) / len(self._losses)
            record = {
                "step": step,
                "epoch": round(step * self._settings.epochs / self._total, 4),
                "loss": round(mean, 6),
                "grad_norm": round(norm, 6),
                "learning_rate": rate,
                "utterances_per_second": round(speed, 1),
            }
            append_line(self._path, record)
            figures = f"loss {mean:.3f}  {speed:.0f} utterances/s"
            self._progress.update(self._task, figures=figures)
            self._began, self._utterances, self._losses = now, 0, []
            part, before = (n * _LINES // self._total for n in (step, step - self._settings.log_every))
            if not self._console.is_terminal and part > before:
                self._console.print(f"step {step}/{self._total}  {figures}", highlight=False)
        return tuple(self._losses)
