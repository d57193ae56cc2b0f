"""Neighbours in a calibration: the weight is the best one, chosen on other folds, undone and redone exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from erc_llm import metrics
from erc_llm.calibration.fit import fit_weight
from erc_llm.calibration.select import Neighbourhood, calibrate, decide_held_out
from erc_llm.errors import PredictionsError
from erc_llm.evaluation.report import evaluate
from erc_llm.predictions import Correction, Mixing, Predictions, correct
from erc_llm.predictions.correction import normalise
from tests.predictions.scored_tables import CORPUS, draw, scored

ROWS = 3000


def evidence(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows, 4) distributions of neighbours that know something of the label, and the scores of a model."""
    scores, gold = draw(ROWS, seed=seed)
    rng = np.random.default_rng(seed + 1)
    noisy = rng.normal(size=scores.shape)
    noisy[np.arange(ROWS), gold] += 1.5
    return normalise(noisy), gold


@pytest.fixture(scope="module")
def table() -> Predictions:
    scores, gold = draw(ROWS, seed=3)
    return scored(np.log(normalise(scores + np.log(CORPUS))), gold, split="train", folds=5)


@pytest.fixture(scope="module")
def good() -> np.ndarray:
    return evidence(3)[0]


def near(*distributions: np.ndarray) -> Neighbourhood:
    return Neighbourhood("words", "ef" * 32, 99, tuple(((k, 0.1), d) for k, d in enumerate(distributions, start=1)))


def test_the_weight_has_the_smallest_loss(table: Predictions, good: np.ndarray) -> None:
    assert table.probabilities is not None
    found = fit_weight(table.probabilities, good, table.gold_index)
    losses = {
        w: metrics.negative_log_likelihood((1 - w) * table.probabilities + w * good, table.gold_index)
        for w in (0.0, found - 0.02, found, found + 0.02, 1.0)
    }
    assert 0.05 < found < 0.95
    assert min(losses, key=lambda w: losses[w]) == found


def test_neighbours_that_know_something_are_mixed_in(table: Predictions, good: np.ndarray) -> None:
    noise = normalise(np.random.default_rng(5).normal(size=good.shape))
    plain, mixed = calibrate(table), calibrate(table, neighbours=near(noise, good))
    assert mixed.neighbours is not None
    assert (mixed.neighbours.k, mixed.neighbours.lines) == (2, 99)
    assert mixed.after.nll < plain.after.nll
    assert [c.k for c in mixed.neighbour_candidates] == [1, 2]
    assert (mixed.kind, mixed.temperature) == (plain.kind, plain.temperature)


def test_neighbours_that_know_nothing_are_not(table: Predictions) -> None:
    """Each row gets the distribution of another one."""
    useless = np.roll(evidence(11)[0], 1, axis=0)
    mixed, plain = calibrate(table, neighbours=near(useless)), calibrate(table)
    assert mixed.neighbours is None
    assert mixed.correction("weighted_f1") == plain.correction("weighted_f1")


def test_held_out_metrics_come_from_the_other_folds(table: Predictions, good: np.ndarray) -> None:
    """A table that states its neighbours is decided with them, cross-fitted as the calibration was."""
    mixed = calibrate(table, neighbours=near(good))
    assert mixed.neighbours is not None
    crossed = decide_held_out(table.with_neighbours(good, mixed.neighbours.words), None, "weighted_f1")
    assert crossed.probabilities is not None
    assert metrics.negative_log_likelihood(crossed.probabilities, table.gold_index) == pytest.approx(mixed.after.nll)
    assert crossed.info.neighbours_weight is None


def test_a_table_is_corrected_and_taken_back(table: Predictions, good: np.ndarray) -> None:
    correction = calibrate(table, neighbours=near(good)).correction("weighted_f1")
    assert correction.mixing is not None
    assert correction.mixing.words.startswith("labels of the 1 nearest of 99 lines of train (words")
    corrected = correct(table.with_neighbours(good, correction.mixing.words), correction)
    assert corrected.probabilities is not None
    assert Correction.of(corrected.info) == correction
    assert table.log_likelihoods is not None
    scaled = replace(correction, mixing=None, decision=None).probabilities(table.log_likelihoods)
    weight = correction.mixing.weight
    np.testing.assert_allclose(corrected.probabilities, (1 - weight) * scaled + weight * good)
    back = correct(corrected, Correction())
    np.testing.assert_allclose(back.probabilities, table.probabilities)
    assert back.info.neighbours_weight is None


def test_evaluate_shows_the_step_and_how_often_they_are_right(table: Predictions, good: np.ndarray) -> None:
    correction = calibrate(table, neighbours=near(good)).correction("weighted_f1")
    assert correction.mixing is not None
    result = evaluate(correct(table.with_neighbours(good, correction.mixing.words), correction), draws=10)
    assert result.calibration is not None
    assert [step.step for step in result.calibration.steps][-2:] == ["neighbours", "decision: weighted_f1"]
    assert result.calibration.warnings == ()
    assert result.neighbours_accuracy == pytest.approx((good.argmax(axis=1) == table.gold_index).mean())
    assert evaluate(table, draws=10).neighbours_accuracy is None


def test_a_table_without_neighbours_or_with_others_is_refused(table: Predictions, good: np.ndarray) -> None:
    correction = Correction(mixing=Mixing(0.2, "labels of these lines"))
    with pytest.raises(PredictionsError, match=r"states no neighbours.*labels of these lines; predict"):
        correct(table, correction)
    with pytest.raises(PredictionsError, match=r"states those of yesterday"):
        correct(table.with_neighbours(good, "those of yesterday"), correction)
    some = good.copy()
    some[3] = np.nan
    with pytest.raises(PredictionsError, match="neighbours of some targets are not known"):
        correct(table.with_neighbours(some, "labels of these lines"), correction)
