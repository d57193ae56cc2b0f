"""Who wins where, counted by scene, with the clearest scenes as examples."""

from __future__ import annotations

import numpy as np

from erc_llm.evaluation.example_scenes import who_wins_where
from erc_llm.evaluation.matching import Matched, match
from tests.evaluation.compared_tables import LABELS, SIZE, changed, named, table

NAMES = ("one", "other")


def answers(matched: Matched, wrong_a: list[int], wrong_b: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """All right, but for the rows that are listed."""
    found = []
    for wrong in (wrong_a, wrong_b):
        answer = matched.gold.copy()
        answer[wrong] = (answer[wrong] + 1) % 4
        found.append(answer)
    return found[0], found[1]


def test_scenes_are_counted_and_those_furthest_ahead_are_shown_first() -> None:
    given = table(dialogues=5)
    matched = match(named(given, given))
    a, b = answers(matched, [SIZE, SIZE + 1], [0, 1, 2 * SIZE, 2 * SIZE + 1, 2 * SIZE + 2, 4 * SIZE])
    found = who_wins_where(matched, NAMES, (a, b))
    assert (found.ahead_a, found.ahead_b, found.even) == (3, 1, 1)
    assert [(e.dialogue_id, e.ahead, e.right_a, e.right_b) for e in found.examples] == [
        ("d2", "one", 6, 3),
        ("d0", "one", 6, 4),
        ("d1", "other", 4, 6),
    ]
    line = found.examples[0].lines[0]
    assert given.gold is not None
    assert (line.speaker, line.text, line.gold) == ("Ann", "line 12", given.gold[12])
    assert (line.a, line.b) == (given.gold[12], LABELS[(LABELS.index(given.gold[12]) + 1) % 4])
    assert [len(e.lines) for e in found.examples] == [SIZE] * 3


def test_an_invalid_answer_is_shown_as_none() -> None:
    given = table(dialogues=2)
    matched = match(named(given, given))
    b = matched.gold.copy()
    b[0] = -1
    example = who_wins_where(matched, NAMES, (matched.gold, b)).examples[0]
    assert example.lines[0].b is None


def test_without_text_there_are_counts_and_no_examples() -> None:
    given = changed(table(dialogues=3), text=None)
    matched = match(named(given, given))
    found = who_wins_where(matched, NAMES, answers(matched, [], [0]))
    assert (found.ahead_a, found.even, found.examples) == (1, 2, ())
