"""The plan of a training run: memory at its peaks, tokens and time of an epoch, disk; and whether it fits a GPU.

Input: a `RunConfig`, a `Base`, measured scene sizes, an amount of memory. Output: a `Plan`.
Does not depend on: how a corpus is opened, how a plan is shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from erc_llm.config import RunConfig
from erc_llm.planning.architecture import AdapterShape, Architecture, adapter_shape
from erc_llm.planning.compute import Work, download_bytes, training_flops, written_bytes
from erc_llm.planning.forests import ForestSizes, largest_scoring_forest, largest_training_forest
from erc_llm.planning.memory import Load, Peak, Stack, our_stack, scoring_peak, training_peak
from erc_llm.planning.tree_sizes import SceneSize
from erc_llm.tuning.order import StepOrder, forests_of_process, order_steps

MARGIN = 0.10  # of the GPU's memory, for what is not counted: a desktop, fragmentation, a kernel's workspace


@dataclass(frozen=True, slots=True)
class Scenes:
    """Sizes of a corpus's scenes.

    Attributes:
        training: Scenes of train with the targets and answers of training.
        scoring: Scenes of the selection split, or of all splits without one, with all labels as answers.
    """

    training: Sequence[SceneSize]
    scoring: Sequence[SceneSize]


@dataclass(frozen=True, slots=True)
class Setup:
    """What memory and time depend on in a configuration.

    Attributes:
        architecture: The base model's.
        adapter: The adapter's.
        stack: How values are stored.
        checkpointing: `training.gradient_checkpointing`.
        dropout: Whether the adapter drops inputs.
        selection: Whether the selection split is scored in between.
        tokens_per_step: Token budget of one optimizer step.
        accumulation: Forests of a step in each process.
        processes: Processes of a launcher, each with a GPU.
        tokens_per_forest: Token budget of a forest in scoring.
        epochs: Passes over the training scenes.
        seed: Seed of the order of scenes.
        passes: How often training reads a forest before the backward pass: twice with `training.r_drop`.
        averaged: Whether the adapter's weights are averaged over the last steps.
    """

    architecture: Architecture
    adapter: AdapterShape
    stack: Stack
    checkpointing: bool
    dropout: bool
    selection: bool
    tokens_per_step: int
    accumulation: int
    tokens_per_forest: int
    epochs: float
    seed: int
    processes: int = 1
    passes: int = 1
    averaged: bool = False

    @classmethod
    def of(cls, config: RunConfig, architecture: Architecture, processes: int = 1) -> Setup:
        """The setup of a configuration; `auto` is a 16-bit precision, as on any GPU with tensor cores."""
        compute = 4 if config.model.precision == "fp32" else 2
        training, lora = config.training, config.lora
        return cls(
            architecture=architecture,
            adapter=adapter_shape(architecture, lora.rank, lora.target_modules),
            stack=our_stack(quantised=config.model.quantisation == "nf4", compute=compute),
            checkpointing=training.gradient_checkpointing,
            dropout=lora.dropout > 0,
            selection=config.holds_out_selection,
            tokens_per_step=training.tokens_per_step,
            accumulation=training.accumulation,
            tokens_per_forest=config.scoring.tokens_per_forest,
            epochs=training.epochs,
            seed=config.seed,
            processes=processes,
            passes=2 if training.r_drop else 1,
            averaged=training.average_last > 0,
        )

    def training_order(self, scenes: Sequence[SceneSize], epochs: float) -> StepOrder:
        """The optimizer steps of this many passes over the training scenes."""
        trained = sum(scene.rows > 0 for scene in scenes)
        parts = forests_of_process(self.accumulation, self.processes, trained) * self.processes
        sizes = [scene.rows for scene in scenes]
        return order_steps(sizes, epochs=epochs, tokens_per_step=self.tokens_per_step, parts=parts, seed=self.seed)

    def training_peak(self, load: Load) -> Peak:
        """The peak of training on forests of this load."""
        return training_peak(
            self.architecture,
            self.adapter,
            self.stack,
            load.read(self.passes),
            checkpointing=self.checkpointing,
            dropout=self.dropout,
            averaged=self.averaged,
        )

    def scoring_peak(self, load: Load, *, training: bool) -> Peak:
        """The peak of scoring forests of this load, during training or afterwards."""
        return scoring_peak(
            self.architecture, self.adapter, self.stack, load, training=training, averaged=self.averaged
        )


def usable_bytes(memory: int) -> int:
    """Bytes of a GPU's memory that a run may plan to use."""
    return math.floor(memory * (1 - MARGIN))


@dataclass(frozen=True, slots=True)
class Peaks:
    """The peaks of a run.

    Attributes:
        training: Of an optimizer step, on the largest forest of the run.
        selection: Of scoring the selection split in between; None if nothing is held out.
        prediction: Of scoring with the finished adapter.
        forests: The forests that they are computed for.
    """

    training: Peak
    selection: Peak | None
    prediction: Peak
    forests: ForestSizes

    @property
    def all(self) -> Mapping[str, Peak]:
        """The peaks by the name of the command's part."""
        found = {"training": self.training, "selection": self.selection, "prediction": self.prediction}
        return {name: peak for name, peak in found.items() if peak is not None}

    @property
    def largest(self) -> int:
        """Bytes at the highest of the peaks."""
        return max(peak.total for peak in self.all.values())


@dataclass(frozen=True, slots=True)
class Epoch:
    """Tokens and operations of one pass over the training scenes.

    Attributes:
        scenes: Number of scenes.
        targets: Number of targets.
        tree_tokens: Tokens read as one token tree per scene, over all passes.
        prompt_tokens: Tokens read as one prompt per utterance, over all passes.
        steps: Optimizer steps.
        tree_flops: Operations of forward and backward passes as token trees.
        prompt_flops: The same as one prompt per utterance.
    """

    scenes: int
    targets: int
    tree_tokens: int
    prompt_tokens: int
    steps: int
    tree_flops: float
    prompt_flops: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run needs.

    Attributes:
        setup: What it was computed from.
        peaks: Memory.
        epoch: One pass over the training scenes.
        download: Bytes to download from the hub, if the base is not there.
        disk: Most bytes of the run directory.
    """

    setup: Setup
    peaks: Peaks
    epoch: Epoch
    download: int
    disk: int


def make_plan(setup: Setup, scenes: Scenes) -> Plan:
    """The plan of a setup on a corpus."""
    return Plan(
        setup=setup,
        peaks=peaks_of(setup, scenes),
        epoch=epoch_of(setup, scenes.training),
        download=download_bytes(setup.architecture),
        disk=written_bytes(setup.adapter.parameters, setup.averaged)[0],
    )


def peaks_of(setup: Setup, scenes: Scenes) -> Peaks:
    """The peaks of a setup on a corpus."""
    training = largest_training_forest(scenes.training, setup.training_order(scenes.training, setup.epochs))
    scoring = largest_scoring_forest(scenes.scoring, setup.tokens_per_forest)
    return Peaks(
        training=setup.training_peak(training),
        selection=setup.scoring_peak(scoring, training=True) if setup.selection else None,
        prediction=setup.scoring_peak(scoring, training=False),
        forests=ForestSizes(training, scoring),
    )


def epoch_of(setup: Setup, scenes: Sequence[SceneSize]) -> Epoch:
    """Tokens and operations of one epoch."""

    def total(name: str) -> int:
        return setup.passes * sum(int(getattr(scene, name)) for scene in scenes)

    trees = Work(total("rows"), total("logit_rows"), total("attended"))
    prompts = Work(total("prompt_tokens"), total("logit_rows"), total("prompt_attended"))

    def flops(work: Work) -> float:
        return training_flops(setup.architecture, setup.adapter, work, checkpointing=setup.checkpointing)

    return Epoch(
        scenes=len(scenes),
        targets=sum(scene.targets for scene in scenes),
        tree_tokens=trees.tokens,
        prompt_tokens=prompts.tokens,
        steps=len(setup.training_order(scenes, 1).steps),
        tree_flops=flops(trees),
        prompt_flops=flops(prompts),
    )
