"""The configuration of a run: what its YAML file may say.

In: a YAML file and `key=value` overrides, which `config_files` reads and checks. Out: a frozen `RunConfig`.
The sentence of each field is its documentation. Inner functions never see these records; the pipeline takes the values
out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from erc_llm.config_files import Section, load_section, resolve
from erc_llm.corpus.labels import EMORYNLP, LabelSet
from erc_llm.errors import ConfigError


class LabelsConfig(Section):
    """A label set of one's own."""

    names: tuple[str, ...] = Field(min_length=2, description="Label names; predictions keep this order.")
    neutral: str | None = Field(None, description="The label that means no emotion, if there is one.")
    spellings: dict[str, str] = Field({}, description="Further accepted spelling: label name.")

    @model_validator(mode="after")
    def _is_a_label_set(self) -> LabelsConfig:
        try:
            LabelSet(self.names, self.spellings, self.neutral)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self


class CorpusConfig(Section):
    """Which conversations to train on."""

    path: str = Field("sample", description="A file or a folder of split files; `sample` is the embedded corpus.")
    heal_from: str | None = Field(None, description="Folder of the original EmoryNLP files, to restore missing lines.")
    aliases: dict[str, str] = Field({}, description="Speaker name: the name of the same person used instead.")
    generic: tuple[str, ...] | None = Field(
        None,
        description="Names that are nobody in particular (Guy); scoped to their episode. Default: a list.",
    )
    labels: LabelsConfig | None = Field(None, description="The label set; the seven of EmoryNLP by default.")
    selection_fraction: float = Field(0.1, gt=0, lt=0.9, description="Share of train set aside as selection split.")
    selection_seed: int = Field(13, description="Seed that draws the selection split's episodes.")


class PromptConfig(Section):
    """How a scene is put into words."""

    template: str = Field("instruct", description="`instruct`, `plain`, or a .jinja file of your own.")
    context: Literal["past", "full"] = Field("past", description="Lines a question sees: up to its own, or all.")
    names: Literal["first", "full", "invented"] = Field(
        "first", description="Call speakers by first or full name; invented: a control, other names throughout."
    )
    trunk_budget: int = Field(2048, ge=64, description="Most tokens of lines in one tree; longer scenes are windowed.")
    shuffle_labels: bool = Field(False, description="List the labels in another order for each scene and epoch.")


class ProfileConfig(Section):
    """What a prompt says of each speaker's past."""

    writer: Literal["none", "statistics", "lines", "llm"] = Field(
        "none", description="What turns a past into sentences: counts, quoted lines, or a language model's notes."
    )
    placement: Literal["trunk", "question"] = Field(
        "trunk", description="Before the speaker's first line, or in each question about the speaker."
    )
    half_life: float = Field(8.0, ge=0.1, description="A speaker's own scenes after which a past scene counts half.")
    budget: int = Field(60, ge=8, le=512, description="Most tokens of one profile, cut at a sentence.")
    lines: int = Field(3, ge=1, le=20, description="writer lines: how many past lines are recalled.")
    encoder: str | None = Field(
        None, description="writer lines: encoder of similarity, such as all-minilm-l6-v2; by shared words without one."
    )
    model: str = Field("smollm2-135m-instruct", description="writer llm: a chat model; as model.base, or a server's.")
    endpoint: str | None = Field(None, description="writer llm: an OpenAI-compatible server's address.")
    words: int = Field(30, ge=10, le=200, description="writer llm: most words of the notes on a person.")
    notes: str | None = Field(None, description="writer llm: file that keeps the notes; by default in the cache.")
    control: Literal["none", "shuffled", "stale"] = Field(
        "none", description="Controls: somebody else's profile, or one from far earlier."
    )


class StateConfig(Section):
    """What a question says of the emotions within the scene so far."""

    source: Literal["none", "predicted"] = Field("none", description="predicted: by the model itself, in a first pass.")
    confusion: str | None = Field(
        None, description="Predictions of the selection split, whose confusions corrupt the labels told in training."
    )
    dropout: float = Field(0.3, ge=0, le=1, description="Share of training scenes whose questions tell nothing.")


class ModelConfig(Section):
    """The base model and how it is held."""

    base: str = Field("smollm2-135m-instruct", description="A folder, a hub id, or `smollm2-135m-instruct`.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where the hardware multiplies it fast, else fp32 (CPUs without bf16 units)."
    )
    quantisation: Literal["none", "nf4"] = Field("none", description="nf4: QLoRA, 4-bit with double quantisation.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one.")


class LoraConfig(Section):
    """The adapter."""

    rank: int = Field(16, ge=1, description="Rank of the update matrices.")
    alpha: int = Field(32, ge=1, description="Scale: the update is multiplied by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the update; shared by a scene's questions.")
    target_modules: str | tuple[str, ...] = Field(
        "all-linear", description="Which layers get an update: names, a regular expression, or all but the head."
    )

    @field_validator("target_modules")
    @classmethod
    def _leaves_the_head(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        """TRL computes log-probabilities from the head's own weights, and refuses an adapter there."""
        if isinstance(value, str):
            with_head = value != "all-linear" and _matches(value, "lm_head")
        else:
            with_head = any(name.rpartition(".")[2] == "lm_head" for name in value)
        if with_head:
            raise ValueError("lm_head, the output layer, gets no update; leave it out")
        return value


def _matches(pattern: str, text: str) -> bool:
    try:
        return re.fullmatch(pattern, text) is not None
    except re.error as error:
        raise ValueError(f"'{pattern}' is not a regular expression: {error}") from error


Balance = Literal["none", "inverse_frequency", "square_root", "effective_number"]


class SamplingConfig(Section):
    """How classes are balanced in training: by drawing targets, or by weights on their loss."""

    scheme: Balance = Field(
        "none", description="Draw each epoch's targets with these class probabilities; none: every target once."
    )
    beta: float = Field(
        0.999, gt=0, lt=1, description="effective_number: near 0 all classes weigh alike, near 1 by 1 / frequency."
    )
    loss_weights: Balance = Field(
        "none", description="Instead of drawing: ask every target once and weigh its loss by class in the same way."
    )
    normalised: bool = Field(
        True, description="loss_weights: divide a step's loss by its sum of weights; false: by its number of targets."
    )
    allow_absent: bool = Field(
        False, description="Balance although a label has no target in train; without balancing none is needed."
    )

    @model_validator(mode="after")
    def _balances_once(self) -> SamplingConfig:
        if "none" not in (self.scheme, self.loss_weights):
            raise ValueError("scheme and loss_weights would balance twice; set one of them to none")
        if not self.normalised and self.loss_weights == "none":
            raise ValueError("normalised=false is about loss_weights, which are none; leave it out")
        return self


class TrainingConfig(Section):
    """The optimisation."""

    objective: Literal["label", "closed_set"] = Field(
        "label",
        description="label: likelihood of the label's tokens, and so to say nothing but labels. closed_set: "
        "share of the gold label among all labels, each a branch of every question, so it reads more tokens.",
    )
    epochs: float = Field(3, gt=0, description="Passes over the training scenes; a fraction stops within one.")
    learning_rate: float = Field(6e-4, gt=0, description="Peak learning rate of AdamW.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="The learning rate after its warm-up: cosine and linear fall to zero, constant stays."
    )
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of all steps in which the learning rate rises.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    tokens_per_step: int = Field(
        768, ge=64, description="Token budget of one optimizer step, over all processes; each gets a scene."
    )
    accumulation: int = Field(1, ge=1, description="Forests a step is split into, one after the other, to save memory.")
    gradient_checkpointing: bool = Field(False, description="Recompute activations backwards to save memory.")
    max_scenes: int | None = Field(None, ge=1, description="Train on that many scenes, drawn by seed; all by default.")
    evaluations: int = Field(3, ge=0, description="How often, evenly spaced, the selection split is scored; 0: never.")
    patience: int | None = Field(None, ge=1, description="Stop after that many evaluations without a new best.")
    checkpoint_minutes: float = Field(10, ge=0, description="Time between checkpoints to resume from; 0: every step.")
    log_every: int = Field(5, ge=1, description="Steps between two lines of the training log.")
    report_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field(
        (), description="Further loggers: tensorboard, wandb, trackio."
    )


class ScoringConfig(Section):
    """How a trained model answers: `predict`'s tables. The Python API and live sessions always score."""

    tokens_per_forest: int = Field(4096, ge=64, description="Most tokens in one forward; bounds memory.")
    decode: Literal["score", "generate", "free"] = Field(
        "score",
        description="score: exact distribution over the labels. generate: greedy text that can only be a label. free: "
        "greedy text, mapped to a label by its spelling; what spells none is invalid.",
    )
    answer: Literal["label", "reason_then_label"] = Field(
        "label", description="decode generate: reason_then_label lets the model write freely before its label."
    )
    reason_tokens: int = Field(
        64, ge=1, le=2048, description="reason_then_label: most tokens of free text; a few sentences."
    )
    answer_tokens: int = Field(
        10,
        ge=1,
        le=512,
        description="decode free, and a served model: most tokens of an answer; EmoryNLP's labels have two to five.",
    )
    label_orders: int = Field(
        1,
        ge=1,
        le=120,
        description="decode score: average over so many orders of the labels in the prompt; 1: the canonical one only. "
        "Costs as many times the time. Selection scores in training always take the canonical order.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> ScoringConfig:
        if self.answer == "reason_then_label" and self.decode != "generate":
            raise ValueError(f"answer=reason_then_label needs decode=generate, found decode={self.decode}")
        if self.label_orders > 1 and self.decode != "score":
            raise ValueError(f"label_orders={self.label_orders} averages scores; decode={self.decode} has none, set 1")
        return self

    @property
    def decoding(self) -> str | None:
        """How answers are found, in a few words; None for the scores of one prompt."""
        if self.decode == "free":
            return "free generation"
        if self.decode == "generate":
            return "constrained generation" + (" behind reasons" if self.answer == "reason_then_label" else "")
        return None if self.label_orders == 1 else f"mean of {self.label_orders} label orders"


class Recipe(Section):
    """What configurations of runs have in common, those of adapters and those of baselines."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9._-]+$", description="The run directory's name.")
    output: str = Field("runs", description="Folder that run directories are made in.")
    seed: int = Field(13, ge=0, lt=2**32, description="Fixes data order, new weights and dropout.")
    corpus: CorpusConfig = CorpusConfig()

    def result_fields(self) -> dict[str, Any]:
        """Every field that can change a result."""
        raise NotImplementedError

    @property
    def sha256(self) -> str:
        """Hash of `result_fields`."""
        return hashlib.sha256(json.dumps(self.result_fields(), sort_keys=True).encode()).hexdigest()

    @property
    def recipe_sha256(self) -> str:
        """Hash of `result_fields` without the seed: equal for runs that differ in their seed only."""
        fields = {name: value for name, value in self.result_fields().items() if name != "seed"}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    def label_set(self) -> LabelSet:
        """The label set it names; EmoryNLP's by default."""
        own = self.corpus.labels
        return EMORYNLP if own is None else LabelSet(own.names, own.spellings, own.neutral)

    def as_yaml(self) -> str:
        """The resolved configuration."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class RunConfig(Recipe):
    """A run, whole."""

    prompt: PromptConfig = PromptConfig()
    profile: ProfileConfig = ProfileConfig()
    state: StateConfig = StateConfig()
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    sampling: SamplingConfig = SamplingConfig()
    training: TrainingConfig = TrainingConfig()
    scoring: ScoringConfig = ScoringConfig()

    def result_fields(self) -> dict[str, Any]:
        """Every field that can change a result.

        Not how it is shown and saved, and no paths: what they hold (corpus, template, model) has hashes of its own.
        """
        left_out: Any = {
            "name": True,
            "output": True,
            "corpus": {"path", "heal_from"},
            "prompt": {"template"},
            "profile": {"notes"},
            "state": {"confusion"},
            "model": {"base"},
            "training": {"log_every", "report_to", "checkpoint_minutes"},
        }
        return self.model_dump(mode="json", exclude=left_out)


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration.

    Args:
        source: A YAML file, or the name of one that comes with the package (`sample`, `smollm2-135m`, ...).
        overrides: `key.sub=value` texts; values are read as YAML.

    Raises:
        ConfigError: With every mistake of file and overrides, one a line.
    """
    return load_section(RunConfig, source, overrides)


def override_scoring(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """A configuration that answers in another way: `scoring.field=value` texts, as for `load_config`.

    Raises:
        ConfigError: An override is of another section or wrong; all mistakes are listed.
    """
    others = [text for text in overrides if not text.startswith("scoring.")]
    if others:
        raise ConfigError(f"override '{others[0]}': what is trained is trained; only scoring.FIELD=VALUE can change")
    return resolve(RunConfig, config.model_dump(mode="json"), overrides, "overrides") if overrides else config
