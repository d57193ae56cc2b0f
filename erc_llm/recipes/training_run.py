"""A training run that is ready to start: orders its steps, trains, and scores the selection split in between.

Input: a configuration and what was built from it. Output: the best adapter and the logs in the run directory.
Does not depend on: how any of its parts is built.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from erc_llm.config import RunConfig
from erc_llm.corpus import Corpus, Dialogue
from erc_llm.models.devices import dtype_name, other_gpus, process_count, process_rank
from erc_llm.predictions import Correction
from erc_llm.runs.directory import ADAPTER
from erc_llm.runs.progress import Progress, TrainingLog

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import TrainerCallback

    from erc_llm.models.loading import LoadedModel
    from erc_llm.prompting.prompter import Prompter
    from erc_llm.tuning.order import StepOrder
    from erc_llm.tuning.sampling import Asked, Sampler
    from erc_llm.tuning.trainer import FitSettings

Watch = Callable[[int, Mapping[str, float]], bool]


@dataclass(frozen=True, eq=False, slots=True)
class TrainingSteps:
    """The optimizer steps of a training run.

    Attributes:
        order: The scenes of every step.
        tokens: (steps,) number of tokens of each step.
        accumulation: Number of forests of a step that one process computes one after the other.
        asked: Targets that each epoch asks about in each scene.
    """

    order: StepOrder
    tokens: list[int]
    accumulation: int
    asked: Sequence[Asked]


@dataclass(frozen=True, eq=False, slots=True)
class Training:
    """A training run that is ready to start.

    Attributes:
        config: The run's configuration.
        folder: The run directory.
        corpus: The corpus, with its selection split cut.
        scenes: The training scenes.
        sampler: Draws or weights their targets.
        prompter: Builds the prompts.
        loaded: The base model with its tokenizer.
        model: The base model with the adapter attached.
        confusion: Counts that corrupt the state in questions, or by which labels are smoothed; None if neither is set.
        correction: Correction of selection scores, the same as `predict` applies.
        progress: Where to show the run.
        planned_bytes: The planned peak of GPU memory in training; None if nothing was planned.
        watch: Called with the step and the metrics of every selection score; True ends training.
    """

    config: RunConfig
    folder: Path
    corpus: Corpus
    scenes: Sequence[Dialogue]
    sampler: Sampler
    prompter: Prompter
    loaded: LoadedModel
    model: PeftModel
    confusion: Sequence[Sequence[int]] | None
    correction: Correction
    progress: Progress
    planned_bytes: int | None = None
    watch: Watch | None = None

    def describe(self) -> None:
        """Print the model, its precision, and the number of scenes."""
        loaded, held_out = self.loaded, len(self.corpus.splits.get("selection", ()))
        self.progress.line(f"{loaded.description}, in {dtype_name(loaded.dtype)} ({loaded.precision_reason})")
        if unused := other_gpus(loaded.device):
            self.progress.line(f"note: {unused}", warning=True)
        self.progress.line(f"{len(self.scenes)} training scenes, {held_out} for selection")

    def run(self, steps: TrainingSteps, resume: bool) -> None:
        """Train to the end; the best adapter is in the run directory afterwards.

        Args:
            steps: The steps from `order`.
            resume: Continue from the latest checkpoint, if there is one.
        """
        from erc_llm.tuning.scene_trees import training_trees
        from erc_llm.tuning.selection import evaluation_steps
        from erc_llm.tuning.trainer import fit

        training = self.config.training
        evaluations = evaluation_steps(len(steps.tokens), training.evaluations)
        trees_of = training_trees(self.config, self.scenes, self.prompter, self.confusion, steps.asked)
        log, settings = self.log(len(steps.tokens)), self.settings(steps.accumulation)
        callbacks = self.callbacks(log, steps.tokens, evaluations)
        try:
            fit(self.model, self.loaded.tokenizer, steps.order, trees_of, settings, self.folder, callbacks, resume)
        finally:
            log.end()
        if not evaluations and process_rank() == 0:
            self.save(self.model)

    def order(self) -> TrainingSteps:
        """Distribute the scenes over optimizer steps.

        Raises:
            RunError: The run's checkpoints were made with other steps, so it cannot continue from them.
        """
        from erc_llm.tuning.checkpoints import check_step_order
        from erc_llm.tuning.order import forests_of_process, order_steps
        from erc_llm.tuning.scene_trees import scene_sizes, training_trees

        training = self.config.training
        asked = [self.sampler.asked(epoch) for epoch in range(math.ceil(training.epochs))]
        sizes = scene_sizes(training_trees(self.config, self.scenes, self.prompter, self.confusion), asked)
        fewest = min(sum(size > 0 for size in epoch) for epoch in sizes)
        accumulation = forests_of_process(training.accumulation, process_count(), fewest)
        parts = accumulation * process_count()
        order = order_steps(
            sizes,
            epochs=training.epochs,
            tokens_per_step=training.tokens_per_step,
            parts=parts,
            seed=self.config.seed,
        )
        check_step_order(self.folder, order)
        tokens = [sum(sizes[batch.epoch][s] for batch in step for s in batch.scenes) for step in order.steps]
        warn_of_overfull(order, tokens, training.tokens_per_step, parts, self.progress)
        return TrainingSteps(order, tokens, accumulation, asked)

    def settings(self, accumulation: int) -> FitSettings:
        """The settings of the optimisation."""
        import torch

        from erc_llm.tuning.smoothing import smoothed_labels
        from erc_llm.tuning.trainer import FitSettings

        training = self.config.training
        amount, toward = training.label_smoothing, training.smoothing_toward
        return FitSettings(
            learning_rate=training.learning_rate,
            lr_schedule=training.schedule,
            warmup=training.warmup,
            weight_decay=training.weight_decay,
            max_grad_norm=training.max_grad_norm,
            accumulation=accumulation,
            gradient_checkpointing=training.gradient_checkpointing,
            bf16=self.loaded.dtype == torch.bfloat16,
            fp16=self.loaded.dtype == torch.float16,
            use_cpu=self.loaded.device.type == "cpu",
            seed=self.config.seed,
            log_every=training.log_every,
            report_to=training.report_to,
            run_name=self.config.name,
            normalised=self.sampler.resampled or self.config.sampling.normalised,
            objective=training.objective,
            neftune=training.neftune,
            smoothed=smoothed_labels(amount, toward, self.sampler.prior, self.confusion),
            average_last=training.average_last,
            r_drop=training.r_drop,
            planned_bytes=self.planned_bytes,
        )

    def log(self, steps: int) -> TrainingLog:
        """The training log of this many optimizer steps."""
        training = self.config.training
        return TrainingLog(
            self.folder,
            self.progress,
            total=steps,
            epochs=training.epochs,
            unit="tokens",
            print_every=10 * training.log_every,
            precision="model.precision",
        )

    def callbacks(self, log: TrainingLog, tokens: Sequence[int], evaluations: frozenset[int]) -> list[TrainerCallback]:
        """Callbacks for the log, the selection scores after the steps `evaluations`, and the checkpoint times."""
        from erc_llm.tuning.callbacks import CheckpointCallback, LogCallback, SelectionCallback

        training, main = self.config.training, process_rank() == 0
        logging = [LogCallback(log, tokens)] if main else []
        selection = SelectionCallback(
            self.folder, evaluations, self.evaluate, self.save, training.patience, main, self.progress, log, self.watch
        )
        return [*logging, selection, CheckpointCallback(training.checkpoint_minutes, log)]

    def evaluate(self, model: PeftModel) -> dict[str, float]:
        """Metrics of the model in its present state on the selection split."""
        from erc_llm.tuning.selection import score_metrics

        passes: Literal[1, 2] = 1 if self.config.state.source == "none" else 2
        held_out, most = self.corpus.split("selection"), self.config.scoring.tokens_per_forest
        return score_metrics(model, self.prompter, held_out, most, passes, self.correction)

    def save(self, model: PeftModel) -> None:
        """Write the adapter to the run directory."""
        from erc_llm.models.adapters import save_adapter

        save_adapter(model, self.folder / ADAPTER, self.loaded.reference)


def warn_of_overfull(order: StepOrder, tokens: Sequence[int], budget: int, parts: int, progress: Progress) -> None:
    """Print how many steps exceed the token budget because every forest of every process needs its own scene."""
    sizes = zip(tokens, order.steps, strict=True)
    overfull = sum(size > budget and sum(len(forest.scenes) for forest in step) > 1 for size, step in sizes)
    if overfull:
        progress.line(
            f"note: {overfull} of {len(tokens)} steps have more than training.tokens_per_step={budget} tokens, as each "
            f"needs at least {parts} scenes, one per process and accumulated forest; results depend on how many",
            warning=True,
        )
