"""The baseline `emonet`: what it switches on beside CoMPM, its weights of classes, and its ablation.

EmoNet is CoMPM's model (`erc_llm.baselines.compm`) fed and trained in other ways: speakers numbered over the whole
corpus, a memory that reaches across dialogues, a weighted loss. In: switches and counts. Out: how far the model looks,
weights, rows of the ablation. Source: B. Puthan Veetil, MS thesis, Liverpool John Moores University 2024, doi
10.5281/zenodo.20048006, its public README; it does not state the weights' formula, which is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from erc_llm.baselines.baseline_config import BaselineConfig, LossWeights, Switches
from erc_llm.baselines.inputs import ContextLimits


@dataclass(frozen=True, slots=True)
class AblationRow:
    """One row of EmoNet's ablation; each adds to the one before.

    Attributes:
        name: Of its run directories.
        words: What it adds, for people.
        switches: What is on.
        published: What `erc_llm.published` calls the thesis's row.
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


def class_weights(counts: Sequence[int], scheme: LossWeights) -> tuple[float, ...]:
    """Weight of one target of each label, by inverse frequency; 0 for a label without any.

    With N targets, n of the label and K labels that occur: `unnormalised` N / n, `normalised` N / (K n), which has a
    mean of 1 over the targets, so that the loss keeps the size of an unweighted one. A batch's loss is the sum of
    weight times cross-entropy over the *number* of its targets. torch's weighted mean divides by the sum of their
    weights instead, which at batch size 1, CoMPM's and EmoNet's, takes the weight away again.
    """
    total, present = sum(counts), sum(n > 0 for n in counts)
    if scheme == "none":
        return tuple(float(n > 0) for n in counts)
    scale = total / (present if scheme == "normalised" else 1)
    return tuple(scale / n if n else 0.0 for n in counts)


def context_limits(config: BaselineConfig) -> ContextLimits:
    """How far the model of a configuration looks."""
    switches = config.switches
    return ContextLimits(
        context_tokens=config.encoder.max_tokens,
        memory_tokens=config.memory.max_tokens,
        remembers=config.kind != "encoder",
        global_identity=switches.global_identity,
        across=switches.behaviour,
        window=config.memory.window,
    )
