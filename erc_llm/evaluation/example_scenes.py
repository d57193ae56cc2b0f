"""Example scenes: in how many scenes each of two systems has more lines right, and the clearest ones line by line.

Input: tables with their rows lined up, and the answers of two of them. Output: counts of scenes, and examples where a
table has the text.
Does not depend on: metrics, files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from erc_llm.evaluation.matching import Matched
from erc_llm.metrics import Integers

EXAMPLES = 2  # on each side


@dataclass(frozen=True, slots=True)
class Line:
    """A target of an example scene; `a` and `b` are the two answers, None where invalid."""

    speaker: str
    text: str
    gold: str
    a: str | None
    b: str | None


@dataclass(frozen=True, slots=True)
class Example:
    """A scene in which one system is ahead.

    Attributes:
        dialogue_id: The scene.
        ahead: Name of the system.
        right_a: Lines that `a` has right.
        right_b: Lines that `b` has right.
        lines: Its targets in order.
    """

    dialogue_id: str
    ahead: str
    right_a: int
    right_b: int
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Scenes:
    """The number of scenes in which each has more lines right, and examples with the largest lead first."""

    ahead_a: int
    ahead_b: int
    even: int
    examples: tuple[Example, ...]


def who_wins_where(matched: Matched, names: tuple[str, str], answers: tuple[Integers, Integers]) -> Scenes:
    """Count scenes and pick examples.

    Args:
        matched: The targets.
        names: Names of the two systems.
        answers: Answers of the two, (targets,) each.
    """
    gold = matched.gold
    scenes, scene = np.unique(matched.dialogue, return_inverse=True)
    right_a, right_b = (np.bincount(scene, weights=found == gold, minlength=len(scenes)) for found in answers)
    lead = right_a - right_b
    examples = []
    with_text = matched.with_column("text")
    if with_text is not None:
        furthest = np.lexsort((np.arange(len(lead)), -np.abs(lead)))
        for name, ahead in zip(names, (lead > 0, lead < 0), strict=True):
            for chosen in furthest[ahead[furthest]][:EXAMPLES]:
                targets = np.flatnonzero(scene == chosen)
                rights = int(right_a[chosen]), int(right_b[chosen])
                dialogue_id = matched.first.dialogue_id[int(matched.rows[0][targets[0]])]
                examples.append(Example(dialogue_id, name, *rights, _lines(matched, targets, answers)))
    return Scenes(int(np.sum(lead > 0)), int(np.sum(lead < 0)), int(np.sum(lead == 0)), tuple(examples))


def _lines(matched: Matched, targets: Integers, answers: tuple[Integers, Integers]) -> tuple[Line, ...]:
    texts, speakers = matched.with_column("text"), matched.with_column("speakers")
    labels = (*matched.first.info.labels, None)  # index -1 is an invalid answer
    lines = []
    for target in targets.tolist():
        text = "" if texts is None or texts[0].text is None else texts[0].text[int(texts[1][target])]
        names = (
            () if speakers is None or speakers[0].speakers is None else speakers[0].speakers[int(speakers[1][target])]
        )
        a, b = (labels[int(found[target])] for found in answers)
        gold = matched.first.info.labels[int(matched.gold[target])]
        lines.append(Line(", ".join(names), text, gold, a, b))
    return tuple(lines)
