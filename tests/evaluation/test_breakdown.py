"""F1 by label, subgroup and speaker: the values of the plain metrics, and what is left out."""

from __future__ import annotations

import numpy as np
import pytest

from erc_llm import metrics
from erc_llm.evaluation.breakdown import break_down
from erc_llm.evaluation.subgroups import MOST_NAMES
from erc_llm.predictions import Predictions
from tests.evaluation.compared_tables import LABELS, changed, rows, table


def weighted_f1(given: Predictions, chosen: np.ndarray) -> float:
    counts = metrics.confusion(given.gold_index[chosen], given.predicted_index[chosen], len(LABELS))
    return float(metrics.scores_from_confusion(counts).weighted_f1)


def test_parts_have_the_metrics_of_their_rows() -> None:
    given = table()
    found = break_down(given, draws=200)
    counts = metrics.confusion(given.gold_index, given.predicted_index, len(LABELS))
    scores = metrics.scores_from_confusion(counts)
    assert [group.name for group in found.labels] == list(LABELS)
    assert [group.f1.value for group in found.labels] == pytest.approx(scores.f1.tolist())
    assert [group.targets for group in found.labels] == scores.support.tolist()
    divisions = {division.name: division.groups for division in found.divisions}
    assert list(divisions) == ["name", "speaker", "position in the scene", "emotion shift", "history length"]
    assert given.speakers is not None
    for group in divisions["name"]:
        chosen = np.array([speakers == (group.name,) for speakers in given.speakers])
        assert (group.targets, group.f1.value) == (chosen.sum(), pytest.approx(weighted_f1(given, chosen)))
        assert group.f1.low is not None
        assert group.f1.low <= group.f1.value <= (group.f1.high or 0)
    for groups in divisions.values():
        assert sum(group.targets for group in groups) == len(given)
        assert all(group.targets for group in groups)
    assert found.missing == ()


def test_speakers_beyond_the_most_frequent_stand_together() -> None:
    given = table()
    many = changed(given, speakers=[[f"speaker {i % 20}"] if i >= 20 else ["Ann"] for i in range(len(given))])
    (by_name, *_) = break_down(many, draws=100).divisions
    assert len(by_name.groups) == MOST_NAMES + 1
    assert by_name.groups[0].name == "Ann"
    assert by_name.groups[-1].name == "all 9 others"


def test_what_lacks_its_column_is_left_out_with_a_sentence() -> None:
    given = changed(table(), speakers=None, position=None)
    found = break_down(given, draws=100)
    assert [division.name for division in found.divisions] == ["emotion shift", "history length"]
    assert "No column 'speakers': nothing is said by speaker." in found.missing


def test_one_dialogue_has_no_intervals() -> None:
    found = break_down(rows(table(), list(range(6))), draws=100)
    assert {group.f1.low for group in found.labels} == {None}


def test_rows_without_gold_do_not_count() -> None:
    given = table()
    gold = [None if i % 2 else label for i, label in enumerate(given.gold or ())]
    found = break_down(changed(given, gold=gold, previous_gold_same_speaker=None), draws=100)
    assert sum(group.targets for group in found.labels) == len(given) // 2
