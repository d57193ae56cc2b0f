"""The most confident errors of a table: wrong answers with the largest probability, and the scenes of the first.

Input: a predictions table with probabilities. Output: errors with the lines before them; texts only if the table has
them.
Does not depend on: metrics, files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from erc_llm.metrics import Integers
from erc_llm.predictions import Predictions

ERRORS = 20
WITH_SCENE = 6
LINES_BEFORE, LINES_AFTER = 6, 2  # of a scene, around the error


@dataclass(frozen=True, slots=True)
class SceneLine:
    """A target of a scene.

    Attributes:
        number: Number of the line in its scene, from 1; None if unknown.
        speaker: Names of the speakers; empty if unknown.
        text: Its text; None if the table has none.
        gold: Gold label; None if unlabelled.
        answer: Predicted label; None if the answer is invalid.
        probability: Probability of the answer; None if unknown.
        of_gold: Probability of the gold label; None if unknown.
    """

    number: int | None
    speaker: str
    text: str | None
    gold: str | None
    answer: str | None
    probability: float | None
    of_gold: float | None

    @property
    def right(self) -> bool:
        """Whether the answer is the gold label."""
        return self.answer is not None and self.answer == self.gold


@dataclass(frozen=True, slots=True)
class ConfidentError:
    """A wrong answer.

    Attributes:
        dialogue_id: The scene.
        utterance_id: The line in it.
        line: The line.
        scene: The targets around it in their order, `line` itself included; empty for all but the first errors.
    """

    dialogue_id: str
    utterance_id: str
    line: SceneLine
    scene: tuple[SceneLine, ...]


def confident_errors(table: Predictions) -> tuple[ConfidentError, ...] | None:
    """The wrong answers with the largest probability, the largest first; None without probabilities.

    An answer that a decision rule chose counts with the probability of its label, which need not be the largest.
    """
    if table.probabilities is None:
        return None
    gold, answer = table.gold_index, table.predicted_index
    wrong = np.flatnonzero((gold >= 0) & (answer >= 0) & (gold != answer) & ~np.isnan(table.probabilities[:, 0]))
    falling = np.argsort(-table.probabilities[wrong, answer[wrong]], kind="stable")
    found = []
    for rank, row in enumerate(wrong[falling][:ERRORS].tolist()):
        around = lines_around(table, row) if rank < WITH_SCENE else np.array([], dtype=np.int64)
        scene = tuple(scene_line(table, i) for i in around.tolist())
        found.append(ConfidentError(table.dialogue_id[row], table.utterance_id[row], scene_line(table, row), scene))
    return tuple(found)


def lines_around(table: Predictions, row: int) -> Integers:
    """Rows of the same scene, in the order of the scene, from some lines before a row to some after it."""
    rows = np.flatnonzero(table.dialogue_index == table.dialogue_index[row])
    if table.position is not None:
        rows = rows[np.argsort(table.position[rows], kind="stable")]
    at = int(np.flatnonzero(rows == row)[0])
    return rows[max(0, at - LINES_BEFORE) : at + LINES_AFTER + 1]


def scene_line(table: Predictions, row: int) -> SceneLine:
    """A row of a table, for display."""

    def probability(label: int) -> float | None:
        if table.probabilities is None or label < 0 or np.isnan(table.probabilities[row, 0]):
            return None
        return float(table.probabilities[row, label])

    gold, answer = int(table.gold_index[row]), int(table.predicted_index[row])
    return SceneLine(
        number=None if table.position is None else int(table.position[row]) + 1,
        speaker="" if table.speakers is None else ", ".join(table.speakers[row]),
        text=None if table.text is None else table.text[row],
        gold=table.info.labels[gold] if gold >= 0 else None,
        answer=table.info.labels[answer] if answer >= 0 else None,
        probability=probability(answer),
        of_gold=probability(gold),
    )
