"""The baseline `emonet`: the limits of its context, its class weights, and the rows of its ablation.

EmoNet is CoMPM's model (`erc_llm.baselines.compm`) with other inputs and another loss: speakers are numbered over the
whole corpus, the memory reaches across dialogues, and the loss is weighted by class. Source: B. Puthan Veetil, MS
thesis, Liverpool John Moores University 2024, doi 10.5281/zenodo.20048006, its public README. That does not state the
formula of the weights; the one here is our choice.

Input: a configuration, and the number of targets of each label. Output: context limits, class weights, ablation rows.
Does not depend on: models, corpora, training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from erc_llm.baselines.baseline_config import BaselineConfig, Switches, WeightedLoss
from erc_llm.baselines.inputs import ContextLimits


@dataclass(frozen=True, slots=True)
class AblationRow:
    """One row of EmoNet's ablation; each adds a part to the row before.

    Attributes:
        name: Name of its run directories.
        words: What the row adds, in words.
        switches: The parts that are on.
        published: Name of the thesis's row in `erc_llm.published`.
    """

    name: str
    words: str
    switches: Switches
    published: str


ABLATION: tuple[AblationRow, ...] = (
    AblationRow("compm", "CoMPM", Switches(), "CoMPM, rerun by EmoNet"),
    AblationRow("global-identity", "+ global identity", Switches(True), "EmoNet, + global speaker id"),
    AblationRow("behaviour", "+ speaker behaviour", Switches(True, True), "EmoNet, + speaker behaviour"),
    AblationRow(
        "unnormalised",
        "+ weighted loss, unnormalised",
        Switches(True, True, "unnormalised"),
        "EmoNet, + weighted loss, unnormalised",
    ),
    AblationRow(
        "normalised",
        "+ weighted loss, normalised",
        Switches(True, True, "normalised"),
        "EmoNet (+ weighted loss, normalised)",
    ),
)


def class_weights(counts: Sequence[int], scheme: WeightedLoss) -> tuple[float, ...]:
    """Weight of one target of each label, by inverse frequency; 0 for a label without any.

    With N targets, n of them with the label, and K labels that occur, `unnormalised` is N / n and `normalised` is
    N / (K n). The latter has a mean of 1 over the targets, so the loss keeps the size of an unweighted one. The loss of
    a batch is the sum of weight times cross-entropy, divided by the *number* of its targets. torch's weighted mean
    divides by the sum of their weights instead, which cancels the weight at batch size 1, that of CoMPM and EmoNet.
    """
    total, present = sum(counts), sum(n > 0 for n in counts)
    if scheme == "none":
        return tuple(float(n > 0) for n in counts)
    scale = total / (present if scheme == "normalised" else 1)
    return tuple(scale / n if n else 0.0 for n in counts)


def context_limits(config: BaselineConfig) -> ContextLimits:
    """The limits of context and memory that a configuration sets."""
    switches = config.switches
    return ContextLimits(
        context_tokens=config.encoder.max_tokens,
        memory_tokens=config.memory.max_tokens,
        remembers=config.kind != "encoder",
        global_identity=switches.global_identity,
        across=switches.behaviour,
        window=config.memory.window,
    )
