"""The predictions table: what it takes from a corpus, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from erc_llm.corpus.dialogues import Dialogue
from erc_llm.errors import PredictionsError
from erc_llm.predictions import (
    Prediction,
    Predictions,
    history_lengths,
)
from tests.predictions.small_tables import FIRST, INFO, OTHER_SPLIT, SECOND, answers, columns, line


def test_the_corpus_fills_the_columns_of_every_target() -> None:
    table = Predictions.from_corpus(INFO, [FIRST, SECOND], answers(FIRST, SECOND), history=[FIRST, SECOND, OTHER_SPLIT])
    assert table.keys == (("a", "1"), ("a", "2"), ("a", "3"), ("b", "1"), ("b", "2"), ("b", "3"), ("b", "4"))
    assert table.position is not None
    assert table.position.tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert table.episode == ("s01_e01",) * 7
    assert table.scene_order is not None
    assert table.scene_order.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert table.speakers is not None
    assert table.speakers[5] == ("Bob", "Cy")
    assert table.gold == ("Joyful", "Sad", "Neutral", None, "Neutral", "Neutral", "Neutral")
    assert table.dialogue_index.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert table.missing == ("raw_answer", "log_likelihoods", "probabilities", "label_mass", "neighbours")


def test_the_previous_gold_label_is_of_the_same_speaker_in_the_same_dialogue() -> None:
    table = Predictions.from_corpus(INFO, [FIRST, SECOND], answers(FIRST, SECOND))
    # Ann's line b/1 opens a new scene; before b/2 she spoke an unlabelled line; Bob and Dee speak for the first time.
    assert table.previous_gold_same_speaker == (None, None, "Joyful", None, None, None, None)


def test_history_counts_lines_of_strictly_earlier_scenes_of_the_whole_corpus() -> None:
    table = Predictions.from_corpus(INFO, [FIRST, SECOND], answers(FIRST, SECOND), history=[SECOND, FIRST, OTHER_SPLIT])
    assert table.history_length is not None
    # c, of another split and earlier in time, has two lines of Bob with words in them
    assert table.history_length.tolist() == [0, 2, 0, 2, 2, 3, 0]
    assert table.first_seen is not None
    assert table.first_seen.tolist() == [True, False, True, False, False, False, True]


def test_scenes_of_the_same_time_are_no_history_of_each_other() -> None:
    twin = replace(FIRST, id="twin")
    assert history_lengths([FIRST, twin])[twin] == {"Ann": 0, "Bob": 0}


def test_without_times_history_follows_the_given_order() -> None:
    one, two = (Dialogue(name, (line("1", "Ann"),)) for name in "xy")
    assert history_lengths([two, one]) == {two: {"Ann": 0}, one: {"Ann": 1}}


def test_a_generic_name_has_no_history_in_another_episode() -> None:
    scenes = [Dialogue(str(e), (line("1", "Guy"), line("2", "Ann")), 1, e, s) for e, s in ((1, 1), (1, 2), (2, 1))]
    lengths = history_lengths(scenes, generic={"Guy"})
    assert [lengths[d]["Guy"] for d in scenes] == [0, 1, 0]
    assert [lengths[d]["Ann"] for d in scenes] == [0, 1, 2]


def test_context_only_lines_have_no_row_and_no_history_means_missing_columns() -> None:
    scene = Dialogue("a", (line("1", "Ann", "Sad", target=False), line("2", "Ann")))
    table = Predictions.from_corpus(INFO, [scene], answers(scene))
    assert table.keys == (("a", "2"),)
    assert table.previous_gold_same_speaker == ("Sad",)
    assert {"history_length", "first_seen", "episode"} <= set(table.missing)


def test_every_target_needs_a_prediction_and_every_prediction_a_target() -> None:
    given = answers(FIRST)
    for wrong in ([*given, Prediction("Sad")], given[1:]):
        with pytest.raises(PredictionsError, match=f"for each of the 3 targets of these dialogues, found {len(wrong)}"):
            Predictions.from_corpus(INFO, [FIRST], wrong)


def test_history_must_hold_the_predicted_dialogues() -> None:
    with pytest.raises(PredictionsError, match="'b' is not among those given as history"):
        Predictions.from_corpus(INFO, [SECOND], answers(SECOND), history=[FIRST])


def test_an_invalid_answer_has_index_minus_one_whatever_it_falls_back_to() -> None:
    given = [Prediction(None, invalid=True), Prediction("Sad", invalid=True), *answers(FIRST)[2:]]
    assert Predictions.from_corpus(INFO, [FIRST], given).predicted_index.tolist() == [-1, -1, 1]


def test_arrays_of_a_table_are_read_only() -> None:
    table = Predictions.from_columns(INFO, columns(probabilities=[[0.5, 0.25, 0.25]] * 2))
    assert table.probabilities is not None
    with pytest.raises(ValueError, match="read-only"):
        table.probabilities[0, 0] = 1.0


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"predicted": None}, "no column predicted"),
        ({"utterance_id": ["7", "7"]}, r"target \('a', '7'\) occurs in 2 rows"),
        (
            {"predicted": ["Sad", "Bored"]},
            r"column 'predicted', row 2: 'Bored' is not among the labels Joyful, Neutral",
        ),
        ({"gold": ["Bored", None]}, r"column 'gold', row 1"),
        ({"predicted": ["Sad", None], "invalid": [False, False]}, "row 2: expected a label unless the row is invalid"),
        ({"probabilities": [[0.5, 0.5], None]}, "row 1: expected 3 numbers, one per label, found 2"),
        ({"log_likelihoods": [None, [-1.0] * 4]}, "'log_likelihoods', row 2: expected 3 numbers"),
        ({"probabilities": [[0.5, 0.25, 0.25], [0.5, 0.25, 0.252]]}, "row 2: .* sum of 1.002"),
        ({"probabilities": [None, [1.5, -0.5, 0.0]]}, "row 2: .* negative"),
        ({"probabilities": [None, [float("nan"), 0.5, 0.5]]}, "row 2: expected a number, found nan"),
        ({"log_likelihoods": [None, [float("inf"), -1, -1]]}, "row 2: expected a number, found inf"),
        ({"label_mass": ["much", 0.9]}, "'label_mass', row 1: expected a number, found 'much'"),
        ({"position": [1, None]}, "'position', row 2: expected a whole number"),
        ({"position": [1, 2**70]}, "'position', row 2: expected a whole number"),
        ({"invalid": [1, 0]}, "'invalid', row 1: expected true or false"),
        ({"speakers": ["Ann", ["Bob"]]}, "'speakers', row 1: expected a list of texts"),
        ({"text": ["fine", "\ud800"]}, "'text', row 2: .* not valid Unicode"),
        ({"text": ["only one"]}, "column 'text' has 1 rows, 'dialogue_id' has 2"),
    ],
)
def test_a_table_that_breaks_its_rules_cannot_be_built(broken: dict[str, Any], message: str) -> None:
    with pytest.raises(PredictionsError, match=message):
        Predictions.from_columns(INFO, columns(**broken))


def test_probabilities_may_miss_their_sum_by_rounding() -> None:
    table = Predictions.from_columns(INFO, columns(probabilities=[[0.333, 0.333, 0.3335], None]))
    assert table.probabilities is not None
    assert np.isnan(table.probabilities[1]).all()


@pytest.mark.parametrize("labels", [(), ("One",), ("Sad", "Sad"), ("Sad", "")])
def test_a_label_set_needs_two_different_names(labels: tuple[str, ...]) -> None:
    with pytest.raises(PredictionsError, match="at least two different names"):
        replace(INFO, labels=labels, train_shares=None)


def test_importing_the_table_and_the_figures_loads_no_heavy_library() -> None:
    heavy = ("pyarrow", "sklearn", "pandas", "torch", "transformers", "scipy", "matplotlib")
    code = f"import sys, erc_llm.predictions, erc_llm.metrics; print([m for m in {heavy} if m in sys.modules])"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"
