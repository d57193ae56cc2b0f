"""The metrics against scikit-learn, and the coverage of the intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as peer

from erc_llm.errors import InternalError
from erc_llm.metrics import (
    HEADLINE,
    bootstrap_over_dialogues,
    brier_score,
    calibration_error_over_dialogues,
    calibration_gaps,
    confusion,
    expected_calibration_error,
    kappa,
    negative_log_likelihood,
    paired_difference,
    paired_mean_difference,
    scores_from_confusion,
)

N = 7


def assert_equals_sklearn(gold: np.ndarray, predicted: np.ndarray, n: int = N) -> None:
    scores = scores_from_confusion(confusion(gold, predicted, n))
    answers = np.where(predicted < 0, n, predicted)  # for scikit-learn an invalid answer is one more label
    options = {"labels": range(n), "zero_division": 0}
    precision, recall, f1, support = peer.precision_recall_fscore_support(gold, answers, **options)
    np.testing.assert_allclose(scores.precision, precision, atol=1e-12)
    np.testing.assert_allclose(scores.recall, recall, atol=1e-12)
    np.testing.assert_allclose(scores.f1, f1, atol=1e-12)
    np.testing.assert_array_equal(scores.support, support)
    assert float(scores.weighted_f1) == pytest.approx(peer.f1_score(gold, answers, average="weighted", **options))
    assert float(scores.macro_f1) == pytest.approx(peer.f1_score(gold, answers, average="macro", **options))
    assert float(scores.accuracy) == pytest.approx(peer.accuracy_score(gold, answers))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, N - 1), st.integers(-1, N - 1)), min_size=1, max_size=60))
def test_scores_equal_sklearn_on_any_vectors(pairs: list[tuple[int, int]]) -> None:
    gold, predicted = np.array(pairs).T
    assert_equals_sklearn(gold, predicted)


@pytest.mark.parametrize(
    ("gold", "predicted"),
    [
        pytest.param([0, 0, 1, 1], [0, 1, 1, 1], id="most classes absent"),
        pytest.param([0, 1, 2, 3, 4, 5, 6], [2, 2, 2, 2, 2, 2, 2], id="classes never predicted"),
        pytest.param([0, 0, 0], [5, 5, 5], id="predicted class without support"),
        pytest.param([0, 1, 2], [-1, -1, -1], id="all invalid"),
        pytest.param([3], [3], id="one target"),
    ],
)
def test_scores_equal_sklearn_at_the_edges(gold: list[int], predicted: list[int]) -> None:
    assert_equals_sklearn(np.array(gold), np.array(predicted))


def test_confusion_counts_invalid_answers_in_a_column_of_their_own() -> None:
    counts = confusion(np.array([0, 0, 1]), np.array([0, -1, 0]), 2)
    np.testing.assert_array_equal(counts, [[1, 0, 1], [1, 0, 0]])


def test_an_invalid_answer_is_wrong() -> None:
    right = scores_from_confusion(confusion(np.array([0, 1, 1]), np.array([0, 1, 1]), 2))
    invalid = scores_from_confusion(confusion(np.array([0, 1, 1]), np.array([0, 1, -1]), 2))
    assert float(right.accuracy) == 1.0
    assert float(invalid.accuracy) == pytest.approx(2 / 3)
    assert float(invalid.recall[1]) == 0.5
    assert float(invalid.precision[1]) == 1.0


def test_weighted_f1_includes_every_label() -> None:
    gold = np.array([2, 2, 2, 0])
    scores = scores_from_confusion(confusion(gold, np.full(4, 2), N))
    assert float(scores.weighted_f1) == pytest.approx(0.75 * (2 * 3 / (3 + 4)))


def test_scores_are_vectorised_over_leading_axes() -> None:
    counts = np.random.default_rng(1).integers(0, 9, size=(3, 2, N, N))
    scores = scores_from_confusion(counts)
    assert scores.weighted_f1.shape == (3, 2)
    assert scores.precision.shape == (3, 2, N)
    for index in np.ndindex(3, 2):
        alone = scores_from_confusion(counts[index])
        assert float(scores.macro_f1[index]) == float(alone.macro_f1)
        np.testing.assert_array_equal(scores.f1[index], alone.f1)


@pytest.mark.parametrize(
    ("gold", "predicted"),
    [([0, 1], [0]), ([7], [0]), ([-1], [0]), ([0], [7]), ([0], [-2])],
)
def test_confusion_refuses_what_is_no_label(gold: list[int], predicted: list[int]) -> None:
    with pytest.raises(InternalError):
        confusion(np.array(gold), np.array(predicted), N)


def test_scores_refuse_what_is_no_confusion_matrix() -> None:
    with pytest.raises(InternalError, match=r"\(2, 5\)"):
        scores_from_confusion(np.zeros((2, 5)))


def clustered(rng: np.random.Generator, dialogues: int, spread: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets of scenes that differ in how hard they are: all of a scene share one chance of a right answer."""
    sizes = rng.integers(4, 20, size=dialogues)
    dialogue = np.repeat(np.arange(dialogues), sizes)
    chance = np.clip(rng.normal(0.6, spread, size=dialogues), 0.02, 0.98)[dialogue]
    gold = rng.choice(3, size=len(dialogue), p=[0.6, 0.3, 0.1])
    wrong = (gold + rng.integers(1, 3, size=len(gold))) % 3
    return gold, np.where(rng.random(len(gold)) < chance, gold, wrong), dialogue


def test_the_interval_covers_the_truth_where_utterances_are_clustered() -> None:
    rng = np.random.default_rng(5)
    gold, predicted, _ = clustered(rng, 60_000, 0.25)
    truth = float(scores_from_confusion(confusion(gold, predicted, 3)).weighted_f1)
    covered, covered_by_rows = 0, 0
    for trial in range(300):
        gold, predicted, dialogue = clustered(rng, 60, 0.25)
        ours = bootstrap_over_dialogues(gold, predicted, dialogue, 3, draws=400, seed=trial).weighted_f1
        rows = np.arange(len(gold))
        naive = bootstrap_over_dialogues(gold, predicted, rows, 3, draws=400, seed=trial).weighted_f1
        covered += ours.low <= truth <= ours.high
        covered_by_rows += naive.low <= truth <= naive.high
    assert 0.90 <= covered / 300 <= 0.985
    assert covered_by_rows / 300 < 0.85  # resampling utterances is too sure of itself; that is why we do not


def test_the_bootstrap_equals_one_that_copies_rows() -> None:
    gold, predicted, dialogue = clustered(np.random.default_rng(3), 12, 0.2)
    fast = bootstrap_over_dialogues(gold, predicted, dialogue, 3, draws=4000, seed=1)
    rng, slow = np.random.default_rng(2), []
    for _ in range(4000):
        rows = np.concatenate([np.flatnonzero(dialogue == d) for d in rng.integers(12, size=12)])
        slow.append(float(scores_from_confusion(confusion(gold[rows], predicted[rows], 3)).macro_f1))
    low, high = np.quantile(slow, [0.025, 0.975])
    assert fast.macro_f1.low == pytest.approx(low, abs=0.012)
    assert fast.macro_f1.high == pytest.approx(high, abs=0.012)


def test_intervals_hold_their_figure_and_repeat_with_the_seed() -> None:
    gold, predicted, dialogue = clustered(np.random.default_rng(4), 30, 0.1)
    first = bootstrap_over_dialogues(gold, predicted, dialogue, 3, draws=500, seed=9)
    assert first == bootstrap_over_dialogues(gold, predicted, dialogue * 17 - 4, 3, draws=500, seed=9)
    assert first != bootstrap_over_dialogues(gold, predicted, dialogue, 3, draws=500, seed=10)
    for estimate in (first.weighted_f1, first.macro_f1, first.accuracy):
        assert estimate.low < estimate.value < estimate.high
    assert first.accuracy.value == pytest.approx(np.mean(gold == predicted))


def test_one_dialogue_cannot_be_resampled() -> None:
    with pytest.raises(InternalError, match="at least two"):
        bootstrap_over_dialogues(np.array([0, 1]), np.array([0, 1]), np.array([5, 5]), 2)


def test_the_paired_difference_is_surer_than_two_intervals() -> None:
    rng = np.random.default_rng(6)
    gold, better, dialogue = clustered(rng, 80, 0.3)
    spoiled = rng.random(len(gold)) < 0.08
    worse = np.where(spoiled, (gold + 1) % 3, better)
    estimate = paired_difference(gold, better, worse, dialogue, 3, draws=2000)
    mirrored = paired_difference(gold, worse, better, dialogue, 3, draws=2000)
    alone = bootstrap_over_dialogues(gold, better, dialogue, 3, draws=2000).weighted_f1
    assert estimate.low > 0
    assert estimate.high - estimate.low < alone.high - alone.low
    assert (mirrored.value, mirrored.low, mirrored.high) == pytest.approx(
        (-estimate.value, -estimate.high, -estimate.low)
    )


def test_a_system_does_not_differ_from_itself() -> None:
    gold, predicted, dialogue = clustered(np.random.default_rng(8), 20, 0.2)
    for metric in HEADLINE:
        estimate = paired_difference(gold, predicted, predicted, dialogue, 3, draws=200, metric=metric)
        assert (estimate.value, estimate.low, estimate.high) == (0.0, 0.0, 0.0)


def test_the_mean_difference_resamples_dialogues_not_targets() -> None:
    rng = np.random.default_rng(0)
    dialogue = np.repeat(np.arange(40), 10)
    shared = np.repeat(rng.normal(size=40), 10)  # what is common to a dialogue decides
    a, b = shared + rng.normal(scale=0.01, size=400), np.zeros(400)
    found = paired_mean_difference(a, b, dialogue)
    assert found.value == pytest.approx(a.mean())
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.value <= found.high
    standard_error = shared.reshape(40, 10)[:, 0].std() / np.sqrt(40)
    assert found.high - found.low == pytest.approx(2 * 1.96 * standard_error, rel=0.15)
    again = paired_mean_difference(a, a, dialogue)
    assert (again.value, again.low, again.high) == (0, 0, 0)
    with pytest.raises(InternalError, match="two dialogues"):
        paired_mean_difference(a, b, np.zeros(400, dtype=np.int64))


def test_negative_log_likelihood_equals_sklearn() -> None:
    rng = np.random.default_rng(7)
    probabilities, gold = rng.dirichlet(np.ones(N), size=200), rng.integers(N, size=200)
    assert negative_log_likelihood(probabilities, gold) == pytest.approx(peer.log_loss(gold, probabilities))
    certain = np.eye(N)[(gold + 1) % N]
    assert negative_log_likelihood(certain, gold) == pytest.approx(-np.log(np.finfo(np.float64).eps))


def test_the_brier_score_by_hand_and_of_two_labels_as_sklearn() -> None:
    assert brier_score(np.array([[0.7, 0.2, 0.1]]), np.array([0])) == pytest.approx(0.3**2 + 0.2**2 + 0.1**2)
    assert brier_score(np.eye(3), np.array([0, 1, 2])) == 0
    assert brier_score(np.eye(3), np.array([1, 2, 0])) == 2
    rng = np.random.default_rng(3)
    probabilities, gold = rng.dirichlet(np.ones(2), size=50), rng.integers(2, size=50)
    assert brier_score(probabilities, gold) == pytest.approx(2 * peer.brier_score_loss(gold, probabilities[:, 1]))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 4), st.integers(-1, 4)), min_size=1, max_size=40))
def test_kappa_equals_sklearn(pairs: list[tuple[int, int]]) -> None:
    a, b = np.array(pairs).T
    if len(np.union1d(a, b)) > 1:
        assert kappa(a, b) == pytest.approx(peer.cohen_kappa_score(a, b))
    else:
        assert kappa(a, b) is None


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.0, 1.0]])
    gold = np.array([0, 1, 0, 1])
    # bins of a tenth: (0.9, 0.9) half right, (0.6) right, (1.0) right
    expected = (2 * abs(0.5 - 0.9) + abs(1 - 0.6) + abs(1 - 1.0)) / 4
    assert expected_calibration_error(probabilities, gold, bins=10) == pytest.approx(expected)


def test_the_calibration_error_of_clusters_together_is_that_of_their_gaps() -> None:
    rng = np.random.default_rng(4)
    probabilities, gold, dialogue = rng.dirichlet(np.ones(N), size=200), rng.integers(N, size=200), np.arange(200) // 8
    gaps = calibration_gaps(probabilities, gold, dialogue, 25)
    assert np.abs(gaps.sum(axis=0)).sum() / 200 == pytest.approx(expected_calibration_error(probabilities, gold))


def test_intervals_of_the_calibration_error_cover_it() -> None:
    """Probabilities too sure by a tenth: the error of the whole population is 0.1, and resamples alone lie above."""
    rng, covered, times = np.random.default_rng(5), 0, 100
    for _ in range(times):
        sure = np.repeat(rng.uniform(0.65, 0.95, size=80), 10)
        probabilities = np.stack([sure, 1 - sure], axis=1)
        gold = (rng.random(800) > sure - 0.1).astype(np.int64)
        found = calibration_error_over_dialogues(probabilities, gold, np.arange(800) // 10, draws=200)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.1 <= found.high
    assert covered >= 0.9 * times
    with pytest.raises(InternalError, match="at least two"):
        calibration_error_over_dialogues(probabilities, gold, np.zeros(800, dtype=np.int64))


def test_calibration_error_is_small_for_honest_probabilities() -> None:
    rng = np.random.default_rng(9)
    probabilities = rng.dirichlet(np.full(N, 0.5), size=20_000)
    gold = np.array([rng.choice(N, p=p) for p in probabilities])
    assert expected_calibration_error(probabilities, gold) < 0.02
    assert expected_calibration_error(probabilities, rng.integers(N, size=20_000)) > 0.3


def test_probabilities_must_fit_the_targets() -> None:
    with pytest.raises(InternalError):
        negative_log_likelihood(np.ones((2, N)) / N, np.array([0]))
    with pytest.raises(InternalError):
        expected_calibration_error(np.ones((0, N)), np.array([], dtype=np.int64))
