"""The configuration of a baseline: the fields of its YAML file.

The description of each field is its documentation.

Input: a YAML file and `key=value` overrides, as for `erc_llm.config`. Output: a frozen `BaselineConfig`.
Does not depend on: torch, transformers, run directories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from erc_llm.config import Recipe
from erc_llm.config_files import Section, load_section
from erc_llm.models.devices import Precision

Kind = Literal["encoder", "compm", "emonet"]
WeightedLoss = Literal["none", "unnormalised", "normalised"]


@dataclass(frozen=True, slots=True)
class Switches:
    """EmoNet's three parts; all off is CoMPM.

    Attributes:
        global_identity: Speakers are numbered over the whole corpus instead of by dialogue.
        behaviour: The memory holds the speaker's utterances across dialogues instead of within the dialogue.
        weighted_loss: How the loss is weighted by class.
    """

    global_identity: bool = False
    behaviour: bool = False
    weighted_loss: WeightedLoss = "none"


class EncoderConfig(Section):
    """The pretrained encoder, and the context that it reads."""

    base: str = Field(
        "all-minilm-l6-v2",
        description="A folder, a hub id such as roberta-large, `all-minilm-l6-v2` (22 million parameters) or "
        "`all-mpnet-base-v2` (110 million).",
    )
    max_tokens: int = Field(
        128, ge=8, le=4096, description="Most tokens of context, including the target's line; older ones are cut."
    )
    attention_dropout: float | None = Field(
        None, ge=0, lt=1, description="Dropout of attention scores; by default the encoder's own. 0 is faster on a CPU."
    )
    precision: Precision = Field(
        "auto",
        description="Precision of matrix products. auto: bf16 where the hardware multiplies it fast; fp16 on GPUs that "
        "do not (T4, V100); else fp32. Weights stay fp32.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU if there is one.")


class MemoryConfig(Section):
    """The memory of the speaker's earlier utterances (kinds compm and emonet)."""

    encoding: Literal["cached", "end_to_end"] = Field(
        "cached",
        description="cached: the second encoder is not trained and embeds each utterance once, as in CoMPM(f). "
        "end_to_end: the second encoder is trained too and embeds its utterances again in every step, as in CoMPM.",
    )
    pooling: Literal["first", "mean"] = Field(
        "first",
        description="Vector of an utterance: that of its first token, as in CoMPM, or the mean over its tokens.",
    )
    max_tokens: int = Field(
        64, ge=4, le=4096, description="Most tokens of a remembered utterance; the last ones are kept."
    )
    size: int | None = Field(
        None,
        ge=1,
        le=8192,
        description="Hidden units of the GRU; by default as many as the encoder's, which needs no projection.",
    )
    layers: int = Field(2, ge=1, le=8, description="Layers of the GRU; CoMPM's code uses 2.")
    dropout: float = Field(0.3, ge=0, lt=1, description="Dropout between layers of the GRU; CoMPM's code uses 0.3.")
    window: int = Field(
        16,
        ge=1,
        le=4096,
        description="With speaker.behaviour: most utterances of the speaker in the memory; the latest ones are kept.",
    )
    decay: Literal["recurrence", "half_life"] = Field(
        "recurrence",
        description="With speaker.behaviour: how distant utterances lose weight. recurrence: by the GRU alone, whose "
        "last state is the memory. half_life: the GRU's states are averaged with weights 0.5 ** (distance / "
        "half_life).",
    )
    half_life: float = Field(
        8.0,
        ge=0.01,
        le=1e6,
        description="With decay=half_life: number of the speaker's own utterances after which one counts half.",
    )


class SpeakerConfig(Section):
    """EmoNet's extensions of CoMPM (kind emonet); with all three off it is CoMPM."""

    global_identity: bool = Field(True, description="Number speakers over the whole corpus instead of by dialogue.")
    behaviour: bool = Field(True, description="Remember the speaker across dialogues instead of within this one.")
    weighted_loss: WeightedLoss = Field(
        "normalised",
        description="Weights of the loss by class. none: all equal. unnormalised: targets / targets of the class. "
        "normalised: that divided by the number of classes, so that the mean weight is 1.",
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_earlier_name(cls, fields: Any) -> Any:
        """Read `loss_weights` as `weighted_loss`: finished runs have a config.yaml that was written with that name."""
        if not isinstance(fields, dict) or "loss_weights" not in fields:
            return fields
        if "weighted_loss" in fields:
            raise ValueError("loss_weights is the earlier name of weighted_loss, and both are set; remove loss_weights")
        return {"weighted_loss" if name == "loss_weights" else name: value for name, value in fields.items()}


class BaselineTraining(Section):
    """The optimisation."""

    epochs: int = Field(
        2, ge=1, le=1000, description="Passes over the training targets; the selection split is scored after each."
    )
    batch_size: int = Field(32, ge=1, le=4096, description="Targets in one optimizer step.")
    learning_rate: float = Field(1e-4, gt=0, le=1, description="Peak learning rate of AdamW for pretrained weights.")
    new_learning_rate: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Peak learning rate for the GRU and the head, which start at random; by default learning_rate.",
    )
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="Learning rate after its warm-up.")
    warmup: float = Field(0.1, ge=0, lt=1, description="Fraction of all steps over which the learning rate rises.")
    weight_decay: float = Field(0.01, ge=0, le=10, description="AdamW's decoupled weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass to save memory."
    )
    max_scenes: int | None = Field(
        None, ge=1, description="Train on this many dialogues, drawn by seed; by default all."
    )
    checkpoint_minutes: float = Field(5, ge=0, description="Minutes between checkpoints to resume from; 0: every step.")
    log_every: int = Field(10, ge=1, description="Optimizer steps between two lines of the training log.")


class BaselineConfig(Recipe):
    """A training run of a baseline."""

    name: str = Field("baseline", pattern=r"^[A-Za-z0-9._-]+$", description="The run directory's name.")
    kind: Kind = Field(
        "emonet",
        description="encoder: context alone. compm: with a memory of the speaker. emonet: compm with the extensions "
        "of `speaker`.",
    )
    encoder: EncoderConfig = EncoderConfig()
    memory: MemoryConfig = MemoryConfig()
    speaker: SpeakerConfig = SpeakerConfig()
    training: BaselineTraining = BaselineTraining()

    precision_field: ClassVar[str] = "encoder.precision"

    @model_validator(mode="after")
    def _fits_together(self) -> BaselineConfig:
        if self.corpus.avoid:
            raise ValueError("corpus.avoid is for adapters; leave it out, and remove the dialogues from the corpus")
        if self.memory.decay == "half_life" and not self.switches.behaviour:
            raise ValueError(
                "memory.decay=half_life needs EmoNet's behaviour module; set kind=emonet and speaker.behaviour=true"
            )
        return self

    @property
    def holds_out_selection(self) -> bool:
        """Whether training leaves the selection split out of train; a baseline always chooses its epoch on it."""
        return True

    @property
    def switches(self) -> Switches:
        """EmoNet's parts that are on; all off for other kinds."""
        if self.kind != "emonet":
            return Switches()
        return Switches(self.speaker.global_identity, self.speaker.behaviour, self.speaker.weighted_loss)

    @property
    def half_life(self) -> float | None:
        """Half-life of the memory, in the speaker's own utterances; None for the GRU alone."""
        return self.memory.half_life if self.switches.behaviour and self.memory.decay == "half_life" else None

    @property
    def memory_source(self) -> str:
        """Where the memory of a speaker comes from, in a few words, for the predictions table."""
        if self.kind == "encoder":
            return "none"
        if not self.switches.behaviour:
            return "memory within the dialogue"
        return "memory across dialogues"

    def result_fields(self) -> dict[str, Any]:
        """Every field that can change a result; see `Recipe.result_fields` for what is left out."""
        left_out: Any = {
            "name": True,
            "output": True,
            "corpus": {"path", "heal_from"},
            "encoder": {"base", "device", "precision"},
            "training": {"gradient_checkpointing", "log_every", "checkpoint_minutes"},
        }
        return self._all_but(left_out)


def load_baseline(source: str | Path, overrides: Sequence[str] = ()) -> BaselineConfig:
    """Read a baseline's configuration; see `erc_llm.config.load_config`.

    Raises:
        ConfigError: With every mistake of file and overrides, one a line.
    """
    return load_section(BaselineConfig, source, overrides)
