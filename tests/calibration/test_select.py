"""Fitting: known temperatures and offsets come back, choices are made on unseen dialogues, nothing blows up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import check_grad

from erc_llm import metrics
from erc_llm.calibration.fit import fit_decision, fit_scaling
from erc_llm.calibration.record import Calibration
from erc_llm.calibration.select import calibrate, table_hash
from erc_llm.errors import PredictionsError
from erc_llm.predictions import Correction, Predictions, PriorShift, correct
from erc_llm.predictions.correction import normalise
from tests.predictions.scored_tables import CORPUS, LABELS, TRAINED, draw, scored

SHIFT = PriorShift("corpus", TRAINED, CORPUS)


def posteriors(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Exact log-posteriors and labels."""
    evidence, gold = draw(n, seed=seed)
    return np.log(normalise(evidence + np.log(CORPUS))), gold


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("with_offsets", [False, True])
def test_a_known_temperature_is_recovered(temperature: float, with_offsets: bool) -> None:
    exact, gold = posteriors(40_000)
    fit = fit_scaling(exact * temperature, gold, 1e-6, with_offsets)
    assert fit.temperature == pytest.approx(temperature, rel=0.05)
    assert np.ptp(fit.offsets) < 0.15


def test_known_offsets_are_recovered() -> None:
    exact, gold = posteriors(40_000)
    wrong = np.array([0.5, -1.0, 0.3, 0.2])
    fit = fit_scaling((exact - wrong) * 2, gold, 1e-6, True)
    np.testing.assert_allclose(fit.offsets, wrong - wrong.mean(), atol=0.12)
    assert fit.temperature == pytest.approx(2, rel=0.05)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.sampled_from([1.0, 0.05]))
def test_a_fit_is_the_minimum_of_what_it_says_it_minimises(seed: int, with_offsets: bool, strength: float) -> None:
    rng = np.random.default_rng(seed)
    scores, gold = rng.normal(size=(40, 4)) * 3, rng.integers(4, size=40)

    def loss(values: np.ndarray) -> float:
        probabilities = normalise(values[0] * scores + values[1:])
        return float(
            -np.log(probabilities[np.arange(40), gold]).mean()
            + strength / 2 * ((values[0] - 1) ** 2 + values[1:] @ values[1:])
        )

    fit = fit_scaling(scores, gold, strength, with_offsets)
    at = np.array([1 / fit.temperature, *fit.offsets])
    for _ in range(30):
        step = rng.normal(size=5) * 0.05
        if not with_offsets:
            step[1:] = 0
        if at[0] + step[0] > 0.01:
            assert loss(at + step) >= loss(at) - 1e-7


def test_the_slope_of_expected_f1_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """What scipy is given: the function and its gradient, against finite differences."""
    import scipy.optimize

    seen: list[float] = []

    def spy(fun, start, **_):  # type: ignore[no-untyped-def]
        for seed in range(4):
            at = np.random.default_rng(seed).normal(size=len(start)) * 0.5
            seen.append(check_grad(lambda v: fun(v)[0], lambda v: fun(v)[1], at))
        return scipy.optimize.OptimizeResult(x=start)

    exact, _ = posteriors(50)
    monkeypatch.setattr(scipy.optimize, "minimize", spy)
    assert fit_decision(np.exp(exact), 0.01) == (1.0,) * 4
    assert len(seen) == 4
    assert max(seen) < 1e-6


def expected_weighted_f1(probabilities: np.ndarray, weights: tuple[float, ...]) -> float:
    decided = (probabilities * weights).argmax(axis=1)
    gold = np.random.default_rng(7)
    scores = []
    for _ in range(20):
        labels = (np.cumsum(probabilities, axis=1) < gold.random((len(probabilities), 1))).sum(axis=1)
        counts = metrics.confusion(np.minimum(labels, 3), decided, 4)
        scores.append(float(metrics.scores_from_confusion(counts).weighted_f1))
    return float(np.mean(scores))


def test_decision_weights_raise_expected_weighted_f1_of_new_labels() -> None:
    probabilities = np.exp(posteriors(3000, seed=5)[0])
    weights = fit_decision(probabilities, 0.001)
    assert weights[1] > weights[2]  # the rare Mad more than the common Neutral
    assert expected_weighted_f1(probabilities, weights) > expected_weighted_f1(probabilities, (1.0,) * 4) + 0.01
    pulled = fit_decision(probabilities, 10.0)
    np.testing.assert_allclose(pulled, 1, atol=0.2)


@pytest.fixture(scope="module")
def overconfident() -> Predictions:
    """Balanced in training, three times too sure; 60 dialogues."""
    evidence, gold = draw(900)
    return scored(evidence * 3, gold, size=15)


@pytest.fixture(scope="module")
def calibration(overconfident: Predictions) -> Calibration:
    return calibrate(overconfident, SHIFT)


def test_an_overconfident_model_is_cooled(calibration: Calibration) -> None:
    assert calibration.kind in ("temperature", "offsets")
    assert calibration.temperature > 1.5
    assert calibration.after.nll < calibration.before.nll - 0.2
    assert calibration.after.calibration_error < calibration.before.calibration_error
    assert (calibration.targets, calibration.dialogues, calibration.folds) == (900, 60, 10)
    assert [stored.decision.rule for stored in calibration.decisions] == ["weighted_f1", "macro_f1"]
    assert calibration.held_out("weights") is None
    chosen = min(calibration.candidates, key=lambda c: c.nll)
    assert (chosen.kind, chosen.strength) == (calibration.kind, calibration.strength)
    assert chosen.nll == pytest.approx(calibration.after.nll)
    assert calibration.candidates[0].nll == pytest.approx(calibration.before.nll)


def test_it_helps_on_dialogues_it_has_never_seen(overconfident: Predictions, calibration: Calibration) -> None:
    evidence, gold = draw(2000, seed=9)
    fresh = scored(evidence * 3, gold)
    nll = []
    for correction in (Correction(SHIFT), calibration.correction()):
        probabilities = correct(fresh, correction).probabilities
        assert probabilities is not None
        nll.append(metrics.negative_log_likelihood(probabilities, gold))
    assert nll[1] < nll[0] - 0.2


def test_the_same_seed_gives_the_same_calibration(overconfident: Predictions, calibration: Calibration) -> None:
    assert calibrate(overconfident, SHIFT) == calibration
    assert calibrate(overconfident, SHIFT, seed=1).after != calibration.after


def test_corrected_tables_give_the_calibration_of_their_raw_scores(
    overconfident: Predictions, calibration: Calibration
) -> None:
    assert calibrate(correct(overconfident, calibration.correction()), SHIFT) == calibration


def test_what_is_right_already_is_left_nearly_alone() -> None:
    exact, gold = posteriors(3000)
    found = calibrate(scored(exact, gold))
    assert found.temperature == pytest.approx(1, abs=0.1)
    assert found.after.nll <= found.before.nll
    worst = np.abs(found.correction().probabilities(exact) - np.exp(exact)).max()
    assert worst < 0.05


def test_noise_of_few_targets_is_not_fitted() -> None:
    """Scores that say nothing more than the truth, and 24 targets: an unregularised fit would run away."""
    exact, gold = posteriors(24, seed=3)
    found = calibrate(scored(exact, gold, size=4))
    assert 0.3 < found.temperature < 3
    assert np.abs(found.offsets).max() < 1.5


def test_a_label_never_seen_does_not_blow_up() -> None:
    evidence, gold = draw(400, prior=(0.3, 0.0, 0.6, 0.1))
    assert 1 not in gold
    for goal in ("nll", "weighted_f1"):
        found = calibrate(scored(evidence, gold), goal=goal)  # type: ignore[arg-type]
        rules = [stored.decision for stored in found.decisions]
        assert np.isfinite([found.temperature, *found.offsets]).all()
        assert all(np.isfinite([*rule.gains, *rule.costs]).all() for rule in rules)
        probabilities = found.correction().probabilities(evidence)
        assert (probabilities > 0).all()
        np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_decision_weights_are_tried_only_when_asked_and_kept_only_when_they_help(overconfident: Predictions) -> None:
    found = calibrate(overconfident, SHIFT, "weighted_f1")
    tried = {c.strength: c.weighted_f1 for c in found.decision_candidates}
    assert tried[None] == pytest.approx(found.after.weighted_f1)
    assert found.decision_strength == max(tried, key=lambda s: tried[s])
    if found.decision_strength is None:
        assert found.held_out("weights") is None
    else:
        decided = found.held_out("weights")
        assert decided is not None
        assert decided.weighted_f1 == pytest.approx(max(tried.values()))
        assert (decided.nll, decided.calibration_error) == (found.after.nll, found.after.calibration_error)
    plain = calibrate(overconfident, SHIFT)
    assert (plain.temperature, plain.offsets, plain.decision_candidates) == (found.temperature, found.offsets, ())


def test_decision_weights_are_chosen_where_they_help() -> None:
    evidence, gold = draw(6000, prior=(0.1, 0.1, 0.7, 0.1), lead=0.8)
    found = calibrate(scored(evidence, gold), PriorShift("given", TRAINED, (0.1, 0.1, 0.7, 0.1)), "weighted_f1")
    for rule in ("weighted_f1", "weights"):
        decided = found.held_out(rule)
        assert decided is not None
        assert decided.weighted_f1 > found.after.weighted_f1 + 0.02
        chosen = found.correction(rule).decision
        assert chosen is not None
        assert (chosen.rule, chosen.way) == (rule, "inductive")


def test_folds_are_whole_dialogues(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores name their dialogue; no fit sees targets of a dialogue without seeing all of them."""
    sizes = []

    def spy(scores: np.ndarray, gold: np.ndarray, strength: float, with_offsets: bool):  # type: ignore[no-untyped-def]
        seen = np.bincount(np.round(scores[:, 0]).astype(int), minlength=12)
        assert set(seen.tolist()) <= {0, 7}
        sizes.append(int((seen > 0).sum()))
        return fit_scaling(scores, gold, strength, with_offsets)

    monkeypatch.setattr("erc_llm.calibration.select.fit_scaling", spy)
    scores = np.column_stack([np.repeat(np.arange(12.0), 7), np.zeros((84, 3))])
    calibrate(scored(scores, np.arange(84) % 4, size=7))
    assert set(sizes) <= {10, 11, 12}
    assert {10, 11} <= set(sizes)


@pytest.mark.parametrize("dialogues", [1, 4])
def test_too_few_dialogues_are_refused(dialogues: int) -> None:
    with pytest.raises(PredictionsError, match=f"at least 5 .* found {dialogues}; use a larger selection split"):
        calibrate(scored(*draw(10 * dialogues)))


def test_what_cannot_be_fitted_is_refused() -> None:
    table = scored(*draw(100))
    columns = table.columns()
    for missing, told in (("log_likelihoods", "tuned has no log-likelihoods"), ("gold", "found 0")):
        with pytest.raises(PredictionsError, match=told):
            calibrate(Predictions.from_columns(table.info, columns | {missing: None}))
    with pytest.raises(PredictionsError, match=r"gold label 'Neutral' .* give the label a share"):
        calibrate(table, PriorShift("given", TRAINED, (0.5, 0.25, 0.0, 0.25)))


def test_the_hash_is_of_what_a_calibration_is_fitted_on(overconfident: Predictions) -> None:
    same = table_hash(overconfident)
    assert table_hash(correct(overconfident, Correction(SHIFT))) == same
    assert table_hash(replace(overconfident, gold=(LABELS[0],) * len(overconfident))) != same
    assert overconfident.log_likelihoods is not None
    assert table_hash(replace(overconfident, log_likelihoods=overconfident.log_likelihoods + 1e-9)) != same
