"""The sections of a configuration but those about training; the description of each field is its documentation.

Input: the fields of a YAML file. Output: frozen, checked sections.
Does not depend on: loaded models, corpora on disk. Inner functions take plain values, not these records.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from erc_llm.config_files import Section
from erc_llm.corpus.labels import EMORYNLP, LABEL_SETS, LabelSet
from erc_llm.errors import ConfigError
from erc_llm.models.devices import Precision
from erc_llm.models.lora_targets import checked_targets


class LabelsConfig(Section):
    """A label set other than EmoryNLP's seven; `corpus.labels=meld` names a built-in one."""

    names: tuple[str, ...] = Field(
        min_length=2, description="Names of the labels; every list of probabilities is in this order."
    )
    neutral: str | None = Field(None, description="The label that stands for no emotion, if there is one.")
    spellings: dict[str, str] = Field(
        {}, description="Further accepted spellings, each mapped to the name of its label."
    )
    coarse: dict[str, str] = Field(
        {},
        description="Each label mapped to a coarser one, e.g. negative; for prompt.answer, training.auxiliary.",
    )

    @model_validator(mode="after")
    def _is_a_label_set(self) -> LabelsConfig:
        try:
            LabelSet(self.names, self.spellings, self.neutral, self.coarse)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self


class FoldConfig(Section):
    """The part of train that one training run of a cross-fitting leaves out; `erc-llm crossfit` sets it."""

    number: int = Field(ge=1, description="Number of the fold whose episodes are left out, from 1.")
    folds: int = Field(5, ge=2, le=100, description="Number of parts into which train's episodes are divided.")
    seed: int = Field(13, ge=0, description="Seed of the division.")

    @model_validator(mode="after")
    def _is_a_fold(self) -> FoldConfig:
        if self.number > self.folds:
            raise ValueError(f"number={self.number} is above folds={self.folds}")
        return self


class CorpusConfig(Section):
    """The conversations to train on."""

    path: str = Field(
        "sample", description="A corpus file, or a folder of one file per split; `sample` is the embedded corpus."
    )
    heal_from: str | None = Field(
        None,
        description="Folder of the original EmoryNLP files, from which lines that `aligned` lacks are "
        "restored as context.",
    )
    aliases: dict[str, str] = Field(
        {}, description="Speaker names, each mapped to the name used for that person instead."
    )
    generic: tuple[str, ...] | None = Field(
        None,
        description='Generic speaker names (e.g. "Guy"), treated as a different person in each episode; by '
        "default a built-in list.",
    )
    labels: LabelsConfig | None = Field(
        None, description="The label set, or the name of a built-in one (`meld`); by default EmoryNLP's seven."
    )
    selection_fraction: float = Field(
        0.1, gt=0, lt=0.9, description="Fraction of train (whole episodes) held out as the selection split."
    )
    selection_seed: int = Field(13, description="Seed by which the episodes of the selection split are drawn.")
    avoid: tuple[str, ...] = Field(
        (),
        description="Adapters: corpus files or folders to keep apart from; dialogues of train that share lines with "
        "them are not trained on.",
    )
    fold: FoldConfig | None = Field(
        None, description="The part of train that a training run of a cross-fitting leaves out; by default none."
    )

    @field_validator("labels", mode="before")
    @classmethod
    def _built_in(cls, value: Any) -> Any:
        """The fields of a label set that is given by its name."""
        if not isinstance(value, str):
            return value
        if value not in LABEL_SETS:
            raise ValueError(f"no built-in label set '{value}'; there are {', '.join(LABEL_SETS)}, or state its names")
        found = LABEL_SETS[value]
        names = {"names": found.names, "neutral": found.neutral, "coarse": dict(found.coarse)}
        return None if found == EMORYNLP else names


class PromptConfig(Section):
    """How a dialogue becomes a prompt."""

    template: str = Field(
        "instruct",
        description="`instruct` (for chat models), `plain` (for base models), `quoting` (`plain`, and each query "
        "repeats its line; for lookahead), or a .jinja file of your own.",
    )
    context: Literal["past", "full"] = Field(
        "past",
        description="Lines that the prompt of an utterance contains: those up to it (usable live), or the "
        "full dialogue.",
    )
    names: Literal["first", "full", "invented"] = Field(
        "first",
        description="Speakers' names in the prompt: first or full; invented is a control that replaces all names.",
    )
    trunk_budget: int = Field(
        2048, ge=64, description="Most tokens of lines in one token tree; longer dialogues become overlapping windows."
    )
    trunk_lines: int | None = Field(
        None,
        ge=4,
        description="Most lines in one token tree. A dialogue with more is divided into overlapping trees; each but "
        "the first begins with half as many lines. By default as many as the budget allows.",
    )
    lookahead: int = Field(
        0,
        ge=0,
        le=20,
        description="With context=past: number of later lines that the prompt of an utterance contains too, at most to "
        "the end of its window; above 0 it cannot be used live.",
    )
    answer: Literal["label", "coarse_then_label"] = Field(
        "label",
        description="coarse_then_label: the answer names the coarser label first (negative sad); the probabilities of "
        "the labels stay exact.",
    )
    shuffle_labels: bool = Field(
        False, description="List the labels in a different random order for each dialogue and epoch."
    )

    @model_validator(mode="after")
    def _looks_ahead_once(self) -> PromptConfig:
        if self.lookahead and self.context == "full":
            raise ValueError(f"context=full reads all later lines; lookahead={self.lookahead} adds none, leave it out")
        return self


class ProfileConfig(Section):
    """What prompts state about each speaker's past."""

    writer: Literal["none", "statistics", "lines", "llm"] = Field(
        "none",
        description="What the profile consists of: emotion counts in words, quoted lines, or notes by a "
        "language model.",
    )
    placement: Literal["trunk", "question"] = Field(
        "trunk", description="Where it stands: before the speaker's first line, or in each query about the speaker."
    )
    half_life: float = Field(
        8.0, ge=0.1, description="Number of the speaker's own dialogues after which a past one counts half."
    )
    budget: int = Field(60, ge=8, le=512, description="Most tokens of one profile; it is cut at a sentence.")
    lines: int = Field(3, ge=1, le=20, description="Writer `lines`: how many past lines are quoted.")
    encoder: str | None = Field(
        None,
        description="Writer `lines`: encoder for the similarity of lines, e.g. all-minilm-l6-v2; without "
        "one, word overlap.",
    )
    model: str = Field(
        "smollm2-135m-instruct",
        description="Writer `llm`: the model that writes notes; as model.base, or the name a server knows.",
    )
    endpoint: str | None = Field(
        None, description="Writer `llm`: address of an OpenAI-compatible server; without one, the model is loaded here."
    )
    words: int = Field(30, ge=10, le=200, description="Writer `llm`: most words of the notes on a person.")
    notes: str | None = Field(None, description="Writer `llm`: file that stores the notes; by default in the cache.")
    control: Literal["none", "shuffled", "stale"] = Field(
        "none", description="Controls for experiments: shuffled shows another speaker's profile, stale an outdated one."
    )


class StateConfig(Section):
    """What a query states about the emotions predicted earlier in the dialogue."""

    source: Literal["none", "predicted"] = Field(
        "none", description="predicted: the model's own predictions of a first pass."
    )
    confusion: str | None = Field(
        None,
        description="Predictions table of the selection split, or a cross-fitted one of train; its confusion matrix "
        "corrupts the labels stated in training, and training.smoothing_toward=confusions smooths by it.",
    )
    dropout: float = Field(
        0.3, ge=0, le=1, description="Fraction of training dialogues whose prompts omit the predicted state."
    )


class RetrievalConfig(Section):
    """Labelled lines of train that resemble a line, in its prompt; lines of its own episode are never among them."""

    use: Literal["none", "demonstrations", "distribution"] = Field(
        "none",
        description="demonstrations: similar lines with their labels. distribution: the label distribution of similar "
        "lines in words.",
    )
    encoder: str = Field(
        "words",
        min_length=1,
        description="What makes lines similar: `words` (shared words and pairs of words; no model), or an encoder, "
        "e.g. all-minilm-l6-v2.",
    )
    k: int | None = Field(
        None,
        ge=1,
        le=256,
        description="Number of similar lines; all if train has fewer. By default 3 demonstrations, or 32 lines for a "
        "distribution.",
    )
    place: Literal["question", "trunk"] = Field(
        "question",
        description="Of demonstrations: in each query, similar to its line; or once before the first line of each "
        "token tree, similar to that line.",
    )
    leak: Literal["none", "own_episode", "gold_label"] = Field(
        "none",
        description="Controls that show what a leak would seem to bring, for `crossfit --leaky-control` only: "
        "own_episode allows lines of the line's own episode, gold_label only lines of the line's own gold label. Such "
        "a run cannot be used.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> RetrievalConfig:
        if self.place == "trunk" and self.use != "demonstrations":
            raise ValueError(f"place=trunk needs use=demonstrations, found use={self.use}")
        if self.leak != "none" and self.use == "none":
            raise ValueError(f"leak={self.leak} needs use=demonstrations or use=distribution, found use=none")
        if self.leak == "gold_label" and (self.use, self.place) != ("demonstrations", "question"):
            raise ValueError(
                f"leak=gold_label needs use=demonstrations and place=question, found use={self.use}, place={self.place}"
            )
        return self

    @property
    def neighbours(self) -> int:
        """Number of similar lines to look for."""
        return self.k or (3 if self.use == "demonstrations" else 32)


class ModelConfig(Section):
    """The base model and how it is loaded."""

    base: str = Field(
        "smollm2-135m-instruct", description="A folder, a Hugging Face hub id, or `smollm2-135m-instruct`."
    )
    precision: Precision = Field(
        "auto",
        description="auto: bf16 where the hardware multiplies it fast; fp16 on GPUs that do not (T4, V100); else fp32 "
        "(e.g. CPUs without bf16 units).",
    )
    quantisation: Literal["none", "nf4"] = Field(
        "none", description="nf4: 4-bit weights with double quantisation (QLoRA)."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU if there is one.")


class LoraConfig(Section):
    """The LoRA adapter."""

    start: str | None = Field(
        None,
        description="A finished run from whose adapter training starts, e.g. one on another corpus; it has the same "
        "base model, rank, alpha and target_modules. By default a new adapter.",
    )
    rank: int = Field(16, ge=1, description="Rank of the update matrices.")
    alpha: int = Field(32, ge=1, description="Scale: updates are multiplied by alpha / rank.")
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Dropout on the adapter's input; on the trunk it is shared by all queries of a dialogue.",
    )
    target_modules: Annotated[str | tuple[str, ...], AfterValidator(checked_targets)] = Field(
        "all-linear",
        description="Layers that get an adapter: `all-linear` (all but the head), their names, or a pattern.",
    )


class ScoringConfig(Section):
    """How `predict` decides labels. `Predictor.predict` and live sessions always score."""

    tokens_per_forest: int = Field(4096, ge=64, description="Most tokens in one forward pass; bounds memory.")
    decode: Literal["score", "generate", "free"] = Field(
        "score",
        description="score: the exact distribution over the labels. generate: greedy generation constrained "
        "to the labels. "
        "free: greedy free generation, mapped to a label by its spelling; a text that spells none is invalid.",
    )
    answer: Literal["label", "reason_then_label"] = Field(
        "label", description="With decode=generate: reason_then_label generates free text before the label."
    )
    reason_tokens: int = Field(64, ge=1, le=2048, description="With reason_then_label: most tokens of free text.")
    forecast: bool = Field(
        False,
        description="In prediction: the label of each line before it is read, from the lines before it; the run needs "
        "training.auxiliary.next_emotion.",
    )
    answer_tokens: int = Field(
        10,
        ge=1,
        le=512,
        description="With decode=free or a served model: most tokens of an answer; EmoryNLP's labels have two to five.",
    )
    label_orders: int = Field(
        1,
        ge=1,
        le=120,
        description="With decode=score: average over this many orders of the labels in the prompt, at as "
        "many times the cost. "
        "Selection scores in training always use the canonical order.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> ScoringConfig:
        if self.answer == "reason_then_label" and self.decode != "generate":
            raise ValueError(f"answer=reason_then_label needs decode=generate, found decode={self.decode}")
        if self.label_orders > 1 and self.decode != "score":
            raise ValueError(f"label_orders={self.label_orders} averages scores; decode={self.decode} has none, set 1")
        if self.forecast and self.decode != "score":
            raise ValueError(f"forecast=true needs decode=score, found decode={self.decode}")
        return self

    @property
    def decoding(self) -> str | None:
        """How answers are found, in a few words; None for the scores of one prompt."""
        if self.decode == "free":
            return "free generation"
        if self.decode == "generate":
            return "constrained generation" + (" behind reasons" if self.answer == "reason_then_label" else "")
        orders = [f"mean of {self.label_orders} label orders"] if self.label_orders > 1 else []
        return ", ".join([*(["forecast before the line is read"] if self.forecast else []), *orders]) or None
