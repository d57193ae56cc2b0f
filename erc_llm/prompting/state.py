"""What a training question is told about earlier lines: gold labels, corrupted as the model's own answers would be.

In use a question is told what the model predicted; told the clean gold label in training, a model would learn to trust
what it never gets. So each label is drawn from its row of a confusion matrix that was measured on the selection split.
Knows no prompt.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from erc_llm.corpus.dialogues import Dialogue
from erc_llm.corpus.labels import LabelSet


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
