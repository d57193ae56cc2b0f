"""Training loop of all baselines: optimizer steps, selection after each epoch, the best weights, checkpoints.

Input: a loaded model, examples, `LoopSettings`. Output: `model.safetensors` of the best epoch and two logs in a folder.
Does not depend on: corpora, configurations.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from erc_llm.baselines.batches import epoch_batches, pad, steps_per_epoch
from erc_llm.baselines.build import LoadedBaseline, fork_rng
from erc_llm.baselines.compm import MemoryClassifier, new_parameters, pretrained_parameters
from erc_llm.baselines.inference import probabilities, score_metrics, snapshot_of
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
from erc_llm.models.lr_schedules import LrSchedule, scheduler_name
from erc_llm.runs.logs import SELECTION_LOG, append_line, rewind_log
from erc_llm.runs.progress import Progress, TrainingLog

SCORE = "weighted_f1"
_LINES = 20  # printed in a whole training run, where no bar is drawn


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """The numbers of a training run; see `erc_llm.baselines.baseline_config.BaselineTraining` for what they mean.

    Attributes:
        new_learning_rate: Peak learning rate of the layers that start at random.
        warmup: Fraction of all steps over which the learning rate rises.
        weights: (labels,) weight of a target's loss by its label.
        checkpoint_seconds: Time between checkpoints; 0: every step.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    new_learning_rate: float
    lr_schedule: LrSchedule
    warmup: float
    weight_decay: float
    max_grad_norm: float
    weights: tuple[float, ...]
    seed: int
    checkpoint_seconds: float
    log_every: int


class Fitting:
    """One training run.

    Args:
        loaded: The model; it is trained in place.
        examples: Labelled examples to train on.
        selection: Labelled examples by which the best epoch is chosen.
        settings: The numbers of the training run.
        folder: The run directory.
        progress: Where to show the run.
    """

    def __init__(
        self,
        loaded: LoadedBaseline,
        examples: Sequence[Example],
        selection: Sequence[Example],
        settings: LoopSettings,
        folder: Path,
        progress: Progress,
    ) -> None:
        self.loaded = loaded
        self._examples = examples
        self._selection = selection
        self._settings = settings
        self._folder = folder
        self._progress = progress
        self._weights = torch.tensor(settings.weights, device=loaded.device)
        self._lengths = [len(example.context) for example in examples]
        self._per_epoch = steps_per_epoch(len(examples), settings.batch_size)
        self.total = settings.epochs * self._per_epoch
        self.optimizer = optimizer_of(loaded, settings)
        self.scheduler = _scheduler(self.optimizer, settings, self.total)
        # Gradients in fp16 would vanish without it; in other precisions it does nothing.
        self.scaler = torch.amp.GradScaler(loaded.device.type, enabled=loaded.dtype == torch.float16)
        self._cached: Snapshot | None = None

    @property
    def _stateful(self) -> dict[str, Any]:
        """What a checkpoint keeps the state of, by name."""
        return {"optimizer": self.optimizer, "scheduler": self.scheduler, "scaler": self.scaler}

    def run(self, resume: bool = False) -> None:
        """Train to the end; the best weights are in the model and in the folder afterwards.

        Args:
            resume: Continue from the folder's checkpoint, if there is one.

        Raises:
            RunError: A file cannot be written or read, or the training run diverges.
        """
        with fork_rng(self.loaded.device):
            torch.manual_seed(self._settings.seed + 1)  # dropout; the new layers were drawn by the seed itself
            self._run(resume)

    def _run(self, resume: bool) -> None:
        checkpoint = self._folder / CHECKPOINT
        loaded = load_checkpoint(checkpoint, self.loaded.model, self._stateful) if resume else None
        position = loaded or Position()
        keep_epoch(self._folder, position.best_epoch)
        rewind_log(self._folder / SELECTION_LOG, position.step)
        self.embed_once()
        log, saved = self._log(), time.monotonic()
        with log.running(position.step):
            while position.step < self.total:
                epoch, done = divmod(position.step, self._per_epoch)
                batches = epoch_batches(self._lengths, self._settings.batch_size, self._settings.seed, epoch)
                for batch in batches[done:]:
                    position = self._logged_step(batch, position, log)
                    with log.paused():
                        if position.step % self._per_epoch == 0:
                            position = self._select(position)
                        if time.monotonic() - saved >= self._settings.checkpoint_seconds and position.step < self.total:
                            save_checkpoint(checkpoint, self.loaded.model, self._stateful, position)
                            keep_epoch(self._folder, position.best_epoch)
                            saved = time.monotonic()
        assert position.best_epoch is not None, "there is at least one epoch"
        load_weights(self.loaded.model, epoch_weights(self._folder, position.best_epoch))
        save_weights(self.loaded.model, self._folder / WEIGHTS)

    def _log(self) -> TrainingLog:
        return TrainingLog(
            self._folder,
            self._progress,
            total=self.total,
            epochs=self._settings.epochs,
            unit="utterances",
            print_every=max(self._settings.log_every, self.total / _LINES),
            precision="encoder.precision",
        )

    def _logged_step(self, batch: Sequence[int], position: Position, log: TrainingLog) -> Position:
        """One optimizer step on the examples of these indices; the logged loss is the mean since the line before.

        Returns:
            The new position, with the losses that the next line averages.
        """
        rate = self.optimizer.param_groups[0]["lr"]
        loss, norm = self.step([self._examples[i] for i in batch])
        step, losses = position.step + 1, (*position.losses, loss)
        log.check(step, loss)
        log.advance(step, len(batch))
        if step % self._settings.log_every == 0 or step == self.total:
            log.write(step, round(sum(losses) / len(losses), 6), round(norm, 6), rate)
            losses = ()
        return replace(position, step=step, losses=losses)

    def step(self, examples: Sequence[Example]) -> tuple[float, float]:
        """Do one optimizer step on labelled examples; return its loss and the norm of its gradients before clipping."""
        model = self.loaded.model
        model.train()
        loss = self._loss(examples)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(trained, self._settings.max_grad_norm)
        self.scaler.step(self.optimizer)  # left out if a gradient overflowed
        self.scaler.update()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item(), norm.item()

    def _loss(self, examples: Sequence[Example]) -> Tensor:
        """Sum of weight times cross-entropy, divided by the number of examples; see `emonet.class_weights`."""
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
        """Take the snapshot that a frozen memory reads from; do nothing if the memory is trained."""
        if self.loaded.frozen_memory:
            began = time.perf_counter()
            with self._progress.busy("embedding remembered utterances"):
                self._cached = snapshot_of(self.loaded, [*self._examples, *self._selection])
            assert self._cached is not None, "a frozen memory has a second encoder"
            seconds, count = time.perf_counter() - began, len(self._cached.row)
            self._progress.line(f"{count} remembered utterances embedded once, in {seconds:.0f} s")

    def _select(self, position: Position) -> Position:
        began = time.perf_counter()
        found = score_metrics(probabilities(self.loaded, self._selection, self._cached), self._selection)
        better = position.best is None or found[SCORE] > position.best
        epoch = position.step // self._per_epoch
        if better:
            save_weights(self.loaded.model, epoch_weights(self._folder, epoch))
            position = replace(position, best=found[SCORE], best_epoch=epoch)
        record = {"step": position.step, "epoch": epoch, **found, "best": better}
        append_line(self._folder / SELECTION_LOG, record | {"seconds": round(time.perf_counter() - began, 1)})
        where = f"epoch {epoch}/{self._settings.epochs}"
        self._progress.score(where, found[SCORE], position.best or 0.0, better)
        return position


def optimizer_of(loaded: LoadedBaseline, settings: LoopSettings) -> torch.optim.AdamW:
    """AdamW with one learning rate for pretrained weights and one for new layers."""
    groups = [
        {"params": pretrained_parameters(loaded.model), "lr": settings.learning_rate},
        {"params": new_parameters(loaded.model), "lr": settings.new_learning_rate},
    ]
    return torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)


def _scheduler(optimizer: torch.optim.Optimizer, settings: LoopSettings, total: int) -> Any:
    from transformers import get_scheduler

    name, warmup = scheduler_name(settings.lr_schedule), round(settings.warmup * total)
    return get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=total)
