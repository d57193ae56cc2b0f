"""Subgroups are what their definitions say."""

from __future__ import annotations

import numpy as np

from erc_llm.evaluation.matching import match
from erc_llm.evaluation.subgroups import factors
from erc_llm.predictions import Predictions
from tests.evaluation.compared_tables import INFO, changed, named, table

COLUMNS = {
    "dialogue_id": ["a"] * 8,
    "utterance_id": [str(i) for i in range(8)],
    "predicted": ["Sad"] * 8,
    "gold": ["Sad", "Mad", "Sad", "Sad", "Mad", "Sad", "Sad", "Sad"],
    "position": [0, 3, 4, 8, 9, 20, 1, 2],
    "speakers": [["Ann"], ["Ann", "Bob"], ["Ann"], ["Ann"], ["Bob"], ["Cy"], [], ["Ann"]],
    "previous_gold_same_speaker": [None, "Sad", "Mad", "Sad", None, "Sad", "Sad", "Mad"],
    "history_length": [0, 99, 100, 999, 1000, 5, 0, 2000],
    "first_seen": [False, False, False, False, True, False, True, False],
}


def levels(**others: object) -> dict[str, list[str]]:
    small = Predictions.from_columns(INFO, COLUMNS | others)
    found, _ = factors(match(named(small, small)))
    return {f.name: [f.levels[i] for i in f.level] for f in found}


def test_positions_count_lines_of_the_scene() -> None:
    early, middle, late = "line 1 to 4", "line 5 to 9", "line 10 on"
    assert levels()["position in the scene"] == [early, early, middle, middle, late, late, early, early]


def test_a_shift_is_another_label_than_the_speakers_last() -> None:
    first, same, shift = "first line", "no shift", "shift"
    assert levels()["emotion shift"] == [first, shift, shift, same, first, same, same, shift]


def test_history_is_counted_in_lines() -> None:
    few, more, many = "below 100 lines", "100 to 999 lines", "1,000 lines on"
    assert levels()["history length"] == [few, few, more, more, many, few, few, many]


def test_unseen_comes_first_and_leads_speak_a_twentieth_of_the_targets() -> None:
    n = 100
    speakers = [["Ann"]] * 90 + [["Bob"]] * 5 + [["Cy"]] * 4 + [["Dee"]]
    many = Predictions.from_columns(
        INFO,
        {
            "dialogue_id": ["a"] * n,
            "utterance_id": [str(i) for i in range(n)],
            "predicted": ["Sad"] * n,
            "gold": ["Sad"] * n,
            "speakers": speakers,
            "first_seen": [i in (0, 99) for i in range(n)],
        },
    )
    (speaker,), missing = factors(match(named(many, many)))
    found = [speaker.levels[i] for i in speaker.level]
    assert found == ["unseen"] + ["lead"] * 94 + ["minor"] * 4 + ["unseen"]
    assert "at least 5 %" in speaker.definition
    assert "column first_seen" in speaker.definition
    assert len(missing) == 3


def test_what_lacks_its_column_is_left_out_with_a_sentence() -> None:
    bare = changed(table(), speakers=None, position=None, previous_gold_same_speaker=None, history_length=None)
    found, missing = factors(match(named(bare, bare)))
    assert found == ()
    assert missing == (
        "No column 'speakers': nothing is said by speaker.",
        "No column 'position': nothing is said by position in the scene.",
        "No column 'previous_gold_same_speaker': nothing is said by emotion shift.",
        "No column 'history_length': nothing is said by history length.",
    )


def test_only_compared_targets_count() -> None:
    whole = table()
    assert whole.gold is not None
    partly = changed(whole, gold=[None] * 6 + list(whole.gold[6:]))
    found, _ = factors(match(named(partly, partly)))
    assert {len(f.level) for f in found} == {234}
    speaker = found[0]
    assert "unseen" not in np.array(speaker.levels)[speaker.level]
