"""The sections of a configuration about training: class balancing, auxiliary questions, the optimisation.

Input: the fields of a YAML file. Output: frozen, checked sections.
Does not depend on: loaded models, corpora on disk. Inner functions take plain values, not these records.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from erc_llm.config_files import Section

Balance = Literal["none", "inverse_frequency", "square_root", "effective_number"]


class SamplingConfig(Section):
    """Class balancing in training: by resampling targets, or by weighting their losses."""

    scheme: Balance = Field(
        "none", description="Class probabilities by which each epoch's targets are drawn; none: every target once."
    )
    beta: float = Field(
        0.999,
        gt=0,
        lt=1,
        description="Of effective_number: near 0 all classes weigh the same, near 1 by inverse frequency.",
    )
    loss_weights: Balance = Field(
        "none", description="Instead of resampling: every target once, its loss weighted by class in the same way."
    )
    normalised: bool = Field(
        True,
        description="With loss_weights: divide a step's loss by its sum of weights; false: by its number of targets.",
    )
    allow_absent: bool = Field(False, description="Balance even if a label has no target in train.")

    @model_validator(mode="after")
    def _balances_once(self) -> SamplingConfig:
        if "none" not in (self.scheme, self.loss_weights):
            raise ValueError("scheme and loss_weights would balance twice; set one of them to none")
        if not self.normalised and self.loss_weights == "none":
            raise ValueError("normalised=false is about loss_weights, which are none; leave it out")
        return self


class AuxiliaryConfig(Section):
    """Additional questions in training: weights of their losses, relative to 1 of the question about the label."""

    next_emotion: float = Field(
        0.0, ge=0, description="Weight of: which label will the next line have? Asked before that line is read."
    )
    speaker: float = Field(
        0.0,
        ge=0,
        description="Weight of: who says this line? Asked about a line whose speaker has spoken before, without its "
        "name; it costs the line's tokens again.",
    )
    polarity: float = Field(0.0, ge=0, description="Weight of: which coarser label does the line have?")
    words: float = Field(
        0.0,
        ge=0,
        description="Weight of: the mean negative log-likelihood of the line's own tokens, by which the model also "
        "learns how these people talk; costs no tokens, but logits of the whole trunk.",
    )
    fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Fraction of lines about which each of them (words aside) is asked, drawn anew in each epoch.",
    )


class TrainingConfig(Section):
    """The optimisation."""

    objective: Literal["label", "closed_set"] = Field(
        "label",
        description="label: negative log-likelihood of the gold label's tokens, over the whole vocabulary. closed_set: "
        "cross-entropy over the label set; scores all labels per target and therefore costs more tokens.",
    )
    epochs: float = Field(3, gt=0, description="Passes over the training dialogues; may be a fraction.")
    learning_rate: float = Field(6e-4, gt=0, description="Peak learning rate of AdamW.")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="Learning rate after its warm-up.")
    warmup: float = Field(0.05, ge=0, lt=1, description="Fraction of all steps over which the learning rate rises.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    tokens_per_step: int = Field(
        768,
        ge=64,
        description="Token budget of one optimizer step, over all processes together: with twice as many, each gets "
        "half as many tokens. Each process gets at least one dialogue.",
    )
    accumulation: int = Field(
        1, ge=1, description="Parts into which a step is split, computed one after the other, to save memory."
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass to save memory."
    )
    max_scenes: int | None = Field(
        None, ge=1, description="Train on this many dialogues, drawn by seed; by default all."
    )
    evaluations: int = Field(
        3,
        ge=0,
        description="How often the selection split is scored, evenly spaced; the best adapter is kept. 0: "
        "never, and nothing is held out.",
    )
    patience: int | None = Field(
        None, ge=1, description="Stop after this many evaluations without a new best; by default never."
    )
    checkpoint_minutes: float = Field(
        10, ge=0, description="Minutes between checkpoints to resume from; 0: every step."
    )
    log_every: int = Field(5, ge=1, description="Optimizer steps between two lines of the training log.")
    report_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field((), description="Further loggers.")
    auxiliary: AuxiliaryConfig = AuxiliaryConfig()
    neftune: float = Field(
        0.0,
        ge=0,
        description="NEFTune's alpha: in training each number of an embedding gets uniform noise of at most alpha / "
        "sqrt(tokens * width) to either side. The tokens are those of the whole forward pass, with all its dialogues "
        "and questions (tokens_per_step, divided by accumulation and processes), so more accumulation means larger "
        "noise, and an alpha that was found on single prompts adds less here. Jain et al. (2023) try 5 to 15. 0, off, "
        "by default: what it is worth depends on the corpus, and has to be measured.",
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="With objective=closed_set: the part of the probability to be learned that smoothing_toward "
        "distributes over the labels, gold among them; the gold label has the rest. The questions about the label are "
        "smoothed, auxiliary ones are not. 0.1 is usual; 0 by default: smoothing makes probabilities less sharp, which "
        "calibration does without training.",
    )
    smoothing_toward: Literal["uniform", "shares", "confusions"] = Field(
        "uniform",
        description="uniform: all labels alike. shares: as often as train has them (after class balancing). "
        "confusions: as often as held-out lines of the gold label were predicted as each of them, counted in the table "
        "state.confusion. By default the one that needs no other data.",
    )
    average_last: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Fraction of all optimizer steps, the last ones, over which the adapter's weights are averaged; "
        "after the last step the adapter has the mean, which the last evaluation scores like any other and which "
        "evaluations=0 keeps. A run that patience stops earlier has none. Costs memory for the adapter once more. 0, "
        "the weights of the last step, by default: the schedule lets them come to rest already.",
    )
    r_drop: float = Field(
        0.0,
        ge=0,
        description="With objective=closed_set and lora.dropout above 0: every forest is read twice with different "
        "dropout, and this is the weight of the divergence between both distributions over the answers (nats), beside "
        "the mean of both losses. Half the alpha of Liang et al. (2021), who add the losses up. Takes twice the time "
        "and twice the memory of activations, so it is off (0) by default.",
    )

    @model_validator(mode="after")
    def _has_the_answers_that_a_loss_needs(self) -> TrainingConfig:
        for name in ("label_smoothing", "r_drop"):
            if (value := getattr(self, name)) and self.objective != "closed_set":
                raise ValueError(
                    f"{name}={value} needs the distribution over all labels; set objective=closed_set, or {name}=0"
                )
        if self.smoothing_toward != "uniform" and not self.label_smoothing:
            raise ValueError(
                f"smoothing_toward={self.smoothing_toward} is about label_smoothing, which is 0; set "
                "label_smoothing=0.1, or leave it out"
            )
        return self
