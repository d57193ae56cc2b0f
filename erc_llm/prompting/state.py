"""Emotional state: the emotions predicted for earlier lines, as a question states them.

At prediction time a question states the model's own predictions. In training, gold labels are corrupted with a
confusion matrix of held-out predictions, because a model trained on clean gold labels would trust labels too much.

Input: a dialogue with gold labels and confusion counts, or predicted labels. Output: a label per line, or its text.
Does not depend on: templates, tokenizers, models.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from erc_llm.corpus.dialogues import Dialogue
from erc_llm.corpus.labels import LabelSet

if TYPE_CHECKING:
    from erc_llm.prompting.scene import Scene


def corrupted_state(
    dialogue: Dialogue, labels: LabelSet, confusion: Sequence[Sequence[float]], dropout: float, seed: int, epoch: int
) -> list[str | None] | None:
    """A corrupted label for each labelled target of a scene, drawn for one epoch of one run.

    Args:
        dialogue: A training scene.
        labels: The label set.
        confusion: (labels, labels) how often a gold label (row) was predicted as each label.
        dropout: Probability that the whole scene gets no state, as in the first of two scoring passes.
        seed: Seed of the run.
        epoch: Number of the epoch.

    Returns:
        One entry per line, None for lines without a label; None instead of the list if the scene gets no state.
    """
    draw = random.Random(f"state/{seed}/{epoch}/{dialogue.id}")
    if draw.random() < dropout:
        return None
    state: list[str | None] = []
    for utterance in dialogue.utterances:
        place = draw.random()  # drawn for every line, so that the label of one line does not affect other lines
        if utterance.target and utterance.label is not None:
            row = list(accumulate(confusion[labels.index(utterance.label)]))
            state.append(labels.names[min(bisect_right(row, place * row[-1]), len(labels) - 1)])
        else:
            state.append(None)
    return state


def smoothed(counts: Sequence[Sequence[int]]) -> list[list[float]]:
    """Confusion counts plus the distribution of predictions, so that a label the split lacks has average errors.

    Counts are (labels, labels), gold by predicted.
    """
    columns = [sum(column) for column in zip(*counts, strict=True)]
    total = sum(columns)
    usual = [count / total for count in columns] if total else [1 / len(columns)] * len(columns)
    return [[count + share for count, share in zip(row, usual, strict=True)] for row in counts]


def state_text(scene: Scene, k: int, state: Sequence[str | None]) -> str:
    """The last label predicted for the speaker of line `k`, and that of the preceding line if it has another speaker.

    Uses earlier lines only; for example "Monica was sad, Ross was mad".
    """
    parts = []
    own = set(scene.utterances[k].speakers)
    latest = next((j for j in range(k - 1, -1, -1) if own & set(scene.utterances[j].speakers) and state[j]), None)
    for j in (latest, k - 1 if k and not own & set(scene.utterances[k - 1].speakers) else None):
        if j is not None and (label := state[j]):
            parts.append(f"{scene.names[j]} was {label.lower()}")
    return ", ".join(parts)
