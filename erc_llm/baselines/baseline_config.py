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

Kind = Literal["encoder", "compm", "emonet"]
LossWeights = Literal["none", "unnormalised", "normalised"]


@dataclass(frozen=True, slots=True)
class Switches:
    """EmoNet's three parts; all off is CoMPM.

    Attributes:
        global_identity: Speakers are numbered over the whole corpus instead of by dialogue.
        behaviour: The memory holds the speaker's utterances across dialogues instead of within the dialogue.
        loss_weights: How classes weigh in the loss.
    """

    global_identity: bool = False
    behaviour: bool = False
    loss_weights: LossWeights = "none"


class EncoderConfig(Section):
    """The pretrained encoder, and the context it reads."""

    base: str = Field("all-minilm-l6-v2", description="A folder, a hub id such as roberta-large, or all-minilm-l6-v2.")
    max_tokens: int = Field(
        128, ge=8, le=4096, description="Most tokens of context, the target's line included; older ones are cut."
    )
    attention_dropout: float | None = Field(
        None, ge=0, lt=1, description="Dropout of attention scores; by default the encoder's own. 0 is faster on a CPU."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="What to multiply in; auto: bf16 where the hardware does. Weights stay fp32."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one.")


class MemoryConfig(Section):
    """The memory of what the speaker said before (kinds compm and emonet)."""

    encoding: Literal["cached", "end_to_end"] = Field(
        "cached",
        description="cached: vectors of the second encoder as it was pretrained, each computed once, as in CoMPM(f). "
        "end_to_end: CoMPM's way, the second encoder is trained too and reads its utterances again in every step.",
    )
    pooling: Literal["first", "mean"] = Field(
        "first", description="An utterance's vector: of its first token, as in CoMPM, or the mean of its tokens."
    )
    max_tokens: int = Field(
        64, ge=4, le=4096, description="Most tokens of a remembered utterance; the last ones count."
    )
    size: int | None = Field(
        None, ge=1, le=8192, description="Hidden units of the GRU; by default the encoder's, which needs no projection."
    )
    layers: int = Field(2, ge=1, le=8, description="Layers of the GRU; CoMPM's code has two.")
    dropout: float = Field(0.3, ge=0, lt=1, description="Dropout between layers of the GRU; CoMPM's code has 0.3.")
    window: int = Field(
        16, ge=1, le=4096, description="Behaviour: most utterances of the speaker that are remembered, the latest ones."
    )
    decay: Literal["recurrence", "half_life"] = Field(
        "recurrence",
        description="Behaviour: what dims distant utterances. recurrence: the GRU alone, its last state counts. "
        "half_life: states are averaged with weights 0.5 ** (distance / half_life).",
    )
    half_life: float = Field(
        8.0, ge=0.01, le=1e6, description="decay half_life: own utterances after which one counts half."
    )


class SpeakerConfig(Section):
    """What EmoNet adds to CoMPM (kind emonet); all three off is CoMPM."""

    global_identity: bool = Field(True, description="Number speakers over the whole corpus instead of by dialogue.")
    behaviour: bool = Field(True, description="Remember the speaker across dialogues instead of within this one.")
    loss_weights: LossWeights = Field(
        "normalised",
        description="Weigh the loss by class. unnormalised: targets / targets of the class; normalised: that divided "
        "by the number of classes, so that the mean weight is 1.",
    )


class BaselineTraining(Section):
    """The optimisation."""

    epochs: int = Field(2, ge=1, le=1000, description="Passes over the training targets; each is scored on selection.")
    batch_size: int = Field(32, ge=1, le=4096, description="Targets in one optimizer step.")
    learning_rate: float = Field(1e-4, gt=0, le=1, description="Peak learning rate of AdamW for pretrained weights.")
    new_learning_rate: float | None = Field(
        None, gt=0, le=1, description="The same for the GRU and the head, which start at random; by default no other."
    )
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="Learning rate after its warm-up.")
    warmup: float = Field(0.1, ge=0, lt=1, description="Fraction of all steps over which the learning rate rises.")
    weight_decay: float = Field(0.01, ge=0, le=10, description="AdamW's decoupled weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    gradient_checkpointing: bool = Field(False, description="Recompute activations backwards to save memory.")
    max_scenes: int | None = Field(None, ge=1, description="Train on that many scenes, drawn by seed; all by default.")
    checkpoint_minutes: float = Field(5, ge=0, description="Time between checkpoints to resume from; 0: every step.")
    log_every: int = Field(10, ge=1, description="Steps between two lines of the training log.")


class BaselineConfig(Recipe):
    """A baseline, whole."""

    name: str = Field("baseline", pattern=r"^[A-Za-z0-9._-]+$", description="The run directory's name.")
    kind: Kind = Field(
        "emonet", description="encoder: context alone. compm: with a memory of the speaker. emonet: with its switches."
    )
    encoder: EncoderConfig = EncoderConfig()
    memory: MemoryConfig = MemoryConfig()
    speaker: SpeakerConfig = SpeakerConfig()
    training: BaselineTraining = BaselineTraining()

    precision_field: ClassVar[str] = "encoder.precision"

    @model_validator(mode="after")
    def _fits_together(self) -> BaselineConfig:
        if self.memory.decay == "half_life" and not self.switches.behaviour:
            raise ValueError(
                "memory.decay=half_life is of EmoNet's behaviour module; set kind=emonet and speaker.behaviour=true"
            )
        return self

    @property
    def switches(self) -> Switches:
        """EmoNet's parts that are on; none for other kinds."""
        if self.kind != "emonet":
            return Switches()
        return Switches(self.speaker.global_identity, self.speaker.behaviour, self.speaker.loss_weights)

    @property
    def half_life(self) -> float | None:
        """Half-life of the memory, in own utterances; None for the GRU alone."""
        return self.memory.half_life if self.switches.behaviour and self.memory.decay == "half_life" else None

    @property
    def memory_source(self) -> str:
        """What is known of a speaker and from where, in a few words, for the predictions table."""
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
        return self.model_dump(mode="json", exclude=left_out)


def load_baseline(source: str | Path, overrides: Sequence[str] = ()) -> BaselineConfig:
    """Read a baseline's configuration; see `erc_llm.config.load_config`.

    Raises:
        ConfigError: With every mistake of file and overrides, one a line.
    """
    return load_section(BaselineConfig, source, overrides)
