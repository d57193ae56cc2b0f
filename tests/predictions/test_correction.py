"""Corrections: exact Bayes under another prior, nothing where nothing is asked, and always from the raw scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erc_llm.errors import PredictionsError
from erc_llm.predictions import Correction, Decision, PredictionsInfo, PriorShift, Scaling, correct
from erc_llm.predictions import read_predictions as read
from erc_llm.predictions import write_predictions as write
from erc_llm.predictions.correction import normalise, shares_of
from tests.predictions.scored_tables import CORPUS, LABELS, TRAINED, draw, scored

SHIFT = PriorShift("corpus", TRAINED, CORPUS)
RULE = Decision("weights", "inductive", (1.0, 2.0, 0.5, 1.5), (0.0,) * 4)
WHOLE = Correction(SHIFT, Scaling(1.6, (0.2, -0.1, 0.0, 0.4), "temperature 1.6"), RULE)
shares = st.lists(st.floats(0.01, 1), min_size=4, max_size=4).map(lambda v: tuple(x / sum(v) for x in v))
rows = st.lists(st.lists(st.floats(-300, 0), min_size=4, max_size=4), min_size=1, max_size=5).map(np.array)


def test_a_known_prior_shift_is_recovered_exactly_and_answers_get_better() -> None:
    evidence, gold = draw(5000)
    exact = np.exp(evidence) * np.array(CORPUS)
    exact /= exact.sum(axis=1, keepdims=True)
    trained = np.log(np.exp(evidence) * np.array(TRAINED))  # what a model trained on balanced classes would say
    raw, shifted = normalise(trained), Correction(SHIFT).probabilities(trained)
    np.testing.assert_allclose(shifted, exact, atol=1e-12, rtol=0)
    accuracy = [(p.argmax(axis=1) == gold).mean() for p in (raw, shifted)]
    assert accuracy[1] > accuracy[0] + 0.1


@given(rows, shares, shares, shares)
def test_one_shift_after_another_is_one_shift(
    scores: np.ndarray, first: tuple[float, ...], second: tuple[float, ...], third: tuple[float, ...]
) -> None:
    direct = Correction(PriorShift("a", first, third)).probabilities(scores)
    between = Correction(PriorShift("a", first, second)).probabilities(scores)
    with np.errstate(divide="ignore"):
        again = Correction(PriorShift("a", second, third)).probabilities(np.log(between))
    np.testing.assert_allclose(again, direct, atol=1e-9)


@given(rows, shares)
def test_the_same_prior_changes_no_bit(scores: np.ndarray, prior: tuple[float, ...]) -> None:
    same = Correction(PriorShift("a", prior, prior)).probabilities(scores)
    assert same.tobytes() == normalise(scores).tobytes()


def test_a_label_that_training_never_saw_keeps_its_score() -> None:
    shift = PriorShift("given", (0.5, 0.5, 0.0, 0.0), (0.4, 0.1, 0.3, 0.2))
    np.testing.assert_allclose(shift.log_ratio, [np.log(0.8), np.log(0.2), 0, 0])
    probabilities = Correction(shift).probabilities(np.zeros((1, 4)))
    np.testing.assert_allclose(probabilities, [[0.8 / 3, 0.2 / 3, 1 / 3, 1 / 3]])


def test_a_share_of_0_is_probability_0_whether_training_saw_the_label_or_not() -> None:
    shift = PriorShift("given", (0.5, 0.3, 0.2, 0.0), (0.6, 0.4, 0.0, 0.0))
    assert np.isneginf(shift.log_ratio).tolist() == [False, False, True, True]
    found = Correction(shift).probabilities(np.array([[-3.0, -3.0, 0.0, 0.0]]))
    assert found[0, 2:].tolist() == [0, 0]
    assert found.sum() == pytest.approx(1)


def test_a_label_that_the_corpus_does_not_know_is_not_ruled_out_by_it() -> None:
    shift = PriorShift("corpus", (0.5, 0.3, 0.2, 0.0), (0.6, 0.3, 0.1, 0.0))
    assert shift.log_ratio[3] == 0
    assert Correction(shift).probabilities(np.zeros((1, 4)))[0, 3] > 0


def test_a_label_wanted_with_no_share_gets_none() -> None:
    correction = Correction(PriorShift("given", TRAINED, (0.5, 0.5, 0.0, 0.0)))
    found = correction.probabilities(np.array([[-1.0, -2.0, 0.0, -9.0]]))
    assert found[0, 2:].tolist() == [0, 0]
    assert found.sum() == pytest.approx(1)
    with pytest.raises(PredictionsError, match="likelihood 0 for every label that the prior allows"):
        correction.probabilities(np.array([[-np.inf, -np.inf, 0.0, -1.0]]))


def test_decision_weights_change_answers_and_no_probability() -> None:
    table = scored(*draw(300))
    plain = correct(table, replace(WHOLE, decision=None))
    weighted = correct(table, WHOLE)
    assert plain.probabilities is not None
    np.testing.assert_array_equal(plain.probabilities, weighted.probabilities)
    assert WHOLE.decision is not None
    best = (plain.probabilities * WHOLE.decision.gains).argmax(axis=1)
    assert weighted.predicted == tuple(LABELS[i] for i in best)
    assert weighted.predicted != plain.predicted


def test_no_step_gives_back_the_very_table() -> None:
    table = scored(*draw(30))
    assert correct(table, Correction()) is table


def test_raw_scores_stay_and_a_correction_can_be_taken_back() -> None:
    table = scored(*draw(200))
    corrected = correct(table, WHOLE)
    assert corrected.probabilities is not None
    np.testing.assert_array_equal(corrected.log_likelihoods, table.log_likelihoods)
    np.testing.assert_array_equal(corrected.probabilities, WHOLE.probabilities(table.log_likelihoods))
    assert correct(corrected, Correction()).columns() == table.columns()
    assert correct(corrected, Correction()).info == table.info
    assert correct(correct(table, Correction(SHIFT)), WHOLE).columns() == corrected.columns()


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_file_tells_in_words_and_numbers_what_was_applied(tmp_path: Path, suffix: str) -> None:
    table = correct(scored(*draw(60), abstain_below=0.4), WHOLE)
    write(table, tmp_path / f"t{suffix}")
    again = read(tmp_path / f"t{suffix}")
    assert Correction.of(again.info) == WHOLE
    assert again.columns() == table.columns()
    assert again.info.prior is not None
    assert again.info.prior.startswith("corpus: ")
    assert (again.info.calibration, again.info.temperature) == ("temperature 1.6", 1.6)
    assert (again.info.prior_shares, again.info.training_prior, again.info.abstain_below) == (CORPUS, TRAINED, 0.4)
    assert WHOLE.decision is not None
    assert again.info.decision_weights == WHOLE.decision.gains
    assert (again.info.decision, again.info.decision_way) == ("weights", "inductive")


def test_steps_lead_from_raw_scores_to_the_whole() -> None:
    names, corrections = zip(*WHOLE.steps, strict=True)
    assert names == ("raw", "prior: corpus", "calibration", "decision weights")
    assert corrections[0] == Correction()
    assert corrections[1] == Correction(SHIFT)
    assert corrections[-1] == WHOLE


def test_rows_without_scores_keep_what_they_have() -> None:
    table = scored(*draw(20))
    columns = table.columns()
    columns["log_likelihoods"][3] = None
    part = type(table).from_columns(table.info, columns)
    corrected = correct(part, WHOLE)
    assert part.probabilities is not None
    assert corrected.probabilities is not None
    np.testing.assert_array_equal(corrected.probabilities[3], part.probabilities[3])
    assert corrected.predicted[3] == part.predicted[3]
    with pytest.raises(PredictionsError, match="no log-likelihoods"):
        correct(type(table).from_columns(table.info, columns | {"log_likelihoods": None}), WHOLE)


def test_rows_abstain_by_their_largest_probability() -> None:
    table = scored(*draw(100))
    assert table.probabilities is not None
    sure = table.probabilities.max(axis=1)
    np.testing.assert_array_equal(table.abstained(0.5), sure < 0.5)
    assert not table.abstained().any()
    noted = replace(table, info=replace(table.info, abstain_below=0.5))
    np.testing.assert_array_equal(noted.abstained(), sure < 0.5)
    assert noted.predicted == table.predicted
    assert not replace(noted, probabilities=None).abstained().any()


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ((0.5, 0.5), "expected 4 shares, one per label, found 2"),
        ((1.2, -0.2, 0, 0), "at least 0"),
        ((0.3, 0.3, 0.3, 0.3), "sum of 1.2"),
        ((float("nan"), 1, 0, 0), "at least 0"),
    ],
)
def test_shares_that_are_none_are_refused(shares: tuple[float, ...], message: str) -> None:
    with pytest.raises(PredictionsError, match=message):
        shares_of(shares, 4)


def test_shares_may_miss_their_sum_by_rounding_and_are_divided_by_it() -> None:
    assert sum(shares_of((0.333, 0.333, 0.333, 0.0), 4)) == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prior_shares": CORPUS, "training_prior": None}, "without training_prior"),
        ({"prior_shares": (0.5, 0.5)}, "prior_shares: expected 4 numbers, found 2"),
        ({"prior_shares": (1.5, -0.5, 0, 0)}, "prior_shares: expected shares of at least 0"),
        ({"temperature": 0.0}, "temperature: expected a number above 0"),
        ({"offsets": (0.0, 0.0, 0.0, float("inf"))}, "offsets: expected finite numbers"),
        ({"decision_weights": (1.0, 1.0, -1.0, 1.0)}, "decision_weights: expected numbers of at least 0"),
        ({"abstain_below": 40.0}, "abstain_below: expected a probability"),
    ],
)
def test_metadata_that_nobody_could_recompute_is_refused(changed: dict[str, object], message: str) -> None:
    fields = scored(*draw(4)).info.as_dict()
    with pytest.raises(PredictionsError, match=message):
        PredictionsInfo(**(fields | changed))
