"""State: what a question states about the emotions predicted for earlier lines.

In use a question states what the model predicted. In training the gold labels are corrupted by a confusion matrix
measured on held-out predictions, because a model trained on clean gold labels would learn to trust what it never gets.

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
    from erc_llm.prompting.prompter import Scene


def corrupted_state(
    dialogue: Dialogue, labels: LabelSet, confusion: Sequence[Sequence[float]], dropout: float, seed: int, epoch: int
) -> list[str | None] | None:
    """A label for each labelled target of a scene, drawn for one epoch of one run; None where there is none.

    Args:
        dialogue: A training scene.
        labels: The label set.
        confusion: (labels, labels) how often a gold label (row) was predicted as each label.
        dropout: Probability that the whole scene is told nothing, as in the first of two scoring passes.
        seed: Of the run.
        epoch: Of the training.

    Returns:
        One entry per line; None in place of all of them where the scene is told nothing.
    """
    draw = random.Random(f"state/{seed}/{epoch}/{dialogue.id}")
    if draw.random() < dropout:
        return None
    state: list[str | None] = []
    for utterance in dialogue.utterances:
        place = draw.random()  # drawn on every line, so that one line's label moves no other line's
        if utterance.target and utterance.label is not None:
            row = list(accumulate(confusion[labels.index(utterance.label)]))
            state.append(labels.names[min(bisect_right(row, place * row[-1]), len(labels) - 1)])
        else:
            state.append(None)
    return state


def smoothed(counts: Sequence[Sequence[int]]) -> list[list[float]]:
    """Confusion counts plus the average row's shares, so that a label the split lacks is confused as any other is."""
    columns = [sum(column) for column in zip(*counts, strict=True)]
    total = sum(columns)
    usual = [count / total for count in columns] if total else [1 / len(columns)] * len(columns)
    return [[count + share for count, share in zip(row, usual, strict=True)] for row in counts]


def state_text(scene: Scene, k: int, state: Sequence[str | None]) -> str:
    """What was predicted for the speaker of line `k` the last time, and for the line before it if another spoke that.

    Looks at earlier lines only: "Monica was sad, Ross was mad".
    """
    told = []
    own = set(scene.utterances[k].speakers)
    latest = next((j for j in range(k - 1, -1, -1) if own & set(scene.utterances[j].speakers) and state[j]), None)
    for j in (latest, k - 1 if k and not own & set(scene.utterances[k - 1].speakers) else None):
        if j is not None and (label := state[j]):
            told.append(f"{scene.names[j]} was {label.lower()}")
    return ", ".join(told)
