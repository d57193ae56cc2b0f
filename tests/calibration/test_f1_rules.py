from itertools import permutations, product
from typing import get_args

import numpy as np
import pytest
from scipy.optimize import linprog

from erc_llm import metrics
from erc_llm.calibration.f1_rules import F1Rule, Metric, expected_score, find_rule
from erc_llm.errors import PredictionsError
from erc_llm.metrics import Floats, Integers
from erc_llm.predictions.correction import decide

METRICS: tuple[Metric, ...] = get_args(Metric)
SHARES = np.array([0.3, 0.25, 0.13, 0.12, 0.09, 0.07, 0.04])

both_metrics = pytest.mark.parametrize("metric", METRICS)


def score_of_all(probabilities: Floats, metric: Metric) -> tuple[Integers, Floats]:
    """All assignments, (assignments, rows), and their expected scores, by the definition."""
    rows, labels = probabilities.shape
    assignments = np.array(list(product(range(labels), repeat=rows)))
    chosen = assignments[:, :, None] == np.arange(labels)
    support = probabilities.sum(axis=0)
    f1 = 2 * (chosen * probabilities).sum(axis=1) / (support + chosen.sum(axis=1))
    scores: Floats = f1 @ (support / rows) if metric == "weighted_f1" else f1.mean(axis=1)
    return assignments, scores


def is_rule(probabilities: Floats, decided: Integers) -> bool:
    """Whether some rule with gains of at least 0 decides so, by a linear program."""
    labels = probabilities.shape[1]
    unit = np.eye(labels)
    margins = [
        np.concatenate([probabilities[i, k] * unit[k] - probabilities[i, y] * unit[y], unit[y] - unit[k]])
        for i, y in enumerate(decided)
        for k in range(labels)
        if k != y
    ]
    bounds = [(0, None)] * labels + [(None, None)] * labels
    found = linprog(np.zeros(2 * labels), np.array(margins), -np.ones(len(margins)), bounds=bounds)
    return bool(found.status == 0)


def best_of_rules(probabilities: Floats, metric: Metric) -> float:
    assignments, scores = score_of_all(probabilities, metric)
    for left, right in zip(*np.triu_indices(len(probabilities), 1), strict=True):
        if np.array_equal(probabilities[left], probabilities[right]):
            same = assignments[:, left] == assignments[:, right]
            assignments, scores = assignments[same], scores[same]
    return next(float(scores[i]) for i in np.argsort(-scores) if is_rule(probabilities, assignments[i]))


def small_set(generator: np.random.Generator) -> Floats:
    labels = int(generator.choice([2, 3, 3, 4]))
    rows = int(generator.integers(1, 6 if labels == 4 else 8))
    shares = generator.dirichlet(np.full(labels, 2.0)) + 0.01
    drawn = generator.dirichlet(generator.choice([0.3, 1, 3, 10]) * labels * shares, size=rows) + 1e-9
    drawn /= drawn.sum(axis=1, keepdims=True)
    return drawn


def tied_set(generator: np.random.Generator) -> Floats:
    labels = int(generator.choice([2, 3, 3, 4]))
    rows, parts = int(generator.integers(1, 6 if labels == 4 else 7)), int(generator.choice([4, 5, 10]))
    while True:
        drawn = generator.multinomial(parts, generator.dirichlet(np.full(labels, 2.0)), size=rows) / parts
        if drawn.sum(axis=0).all():
            return drawn


def large_set(rows: int, seed: int) -> tuple[Floats, Integers]:
    """Distributions, and gold labels drawn from them."""
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(3 * SHARES, size=rows)
    gold = (probabilities.cumsum(axis=1) < generator.random((rows, 1))).sum(axis=1)
    return probabilities, np.minimum(gold, len(SHARES) - 1)


def applied(rule: F1Rule, probabilities: Floats) -> Integers:
    return decide(probabilities, rule.gains, rule.costs)


def real_score(gold: Integers, decided: Integers, metric: Metric) -> float:
    scores = metrics.scores_from_confusion(metrics.confusion(gold, decided, len(SHARES)))
    return float(getattr(scores, metric))


def standard_error(rows: int, metric: Metric) -> float:
    """Bound of the standard error of a score: that of one label's F1 is about 1 / sqrt(its support) or smaller."""
    support = rows * SHARES
    weights = SHARES if metric == "weighted_f1" else np.full(len(SHARES), 1 / len(SHARES))
    return float(np.sqrt((weights**2 / support).sum()))


@both_metrics
def test_a_rule_scores_as_the_best_of_all_assignments(metric: Metric) -> None:
    generator = np.random.default_rng(0)
    for _ in range(150):
        probabilities = small_set(generator)
        rule = find_rule(probabilities, metric)
        assert rule.expected == pytest.approx(score_of_all(probabilities, metric)[1].max(), abs=1e-9), probabilities
        assert rule.expected == expected_score(probabilities, applied(rule, probabilities), metric)


@both_metrics
def test_with_ties_a_rule_scores_as_the_best_of_all_rules(metric: Metric) -> None:
    generator = np.random.default_rng(1)
    for _ in range(60):
        probabilities = tied_set(generator)
        found = find_rule(probabilities, metric).expected
        assert found == pytest.approx(best_of_rules(probabilities, metric), abs=1e-9), probabilities


@both_metrics
def test_the_expected_score_is_that_of_gold_labels_drawn_from_the_distributions(metric: Metric) -> None:
    probabilities, gold = large_set(200_000, seed=2)
    rule = find_rule(probabilities, metric)
    decided, probable = applied(rule, probabilities), probabilities.argmax(axis=1)
    real = real_score(gold, decided, metric)
    assert real == pytest.approx(rule.expected, abs=4 * standard_error(len(gold), metric))
    # Only rows that are decided differently add noise to the difference of the scores.
    noise = standard_error(len(gold), metric) * np.sqrt((decided != probable).mean())
    gain = rule.expected - rule.probable
    assert gain > 0.002
    assert real - real_score(gold, probable, metric) == pytest.approx(gain, abs=4 * noise)


@both_metrics
def test_a_rule_of_one_half_scores_as_expected_on_the_other(metric: Metric) -> None:
    probabilities, _ = large_set(4_000, seed=3)
    one, other = probabilities[::2], probabilities[1::2]
    rule, best = find_rule(one, metric), find_rule(other, metric)
    found = expected_score(other, applied(rule, other), metric)
    assert found == pytest.approx(rule.expected, abs=2 * standard_error(len(one), metric))
    assert best.probable < best.expected - 0.002
    assert found > best.expected - 0.001


@both_metrics
def test_on_larger_tables_further_starts_find_nothing_better(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [large_set(400, seed=seed)[0] for seed in range(3)]
    found = [find_rule(probabilities, metric).expected for probabilities in tables]
    monkeypatch.setattr("erc_llm.calibration.f1_search._SMALL", 1_000)
    monkeypatch.setattr("erc_llm.calibration.f1_search._exchange", lambda task, labels: labels)
    assert found == pytest.approx([find_rule(probabilities, metric).expected for probabilities in tables], abs=1e-12)


def test_search_on_a_part_of_the_rows_finds_nearly_the_best_rule_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    probabilities, _ = large_set(1_500, seed=4)
    best = find_rule(probabilities, "macro_f1")
    monkeypatch.setattr("erc_llm.calibration.f1_rules._SEARCH_CELLS", 1_400)
    monkeypatch.setattr("erc_llm.calibration.f1_rules._CLIMB_CELLS", 5_000)
    part = find_rule(probabilities, "macro_f1")
    assert best.expected - 0.002 < part.expected <= best.expected + 1e-12
    assert part.gains == pytest.approx(best.gains, rel=0.2)


@both_metrics
def test_the_order_of_rows_and_of_labels_does_not_matter(metric: Metric) -> None:
    generator = np.random.default_rng(5)
    probabilities = generator.dirichlet([1.0, 2.0, 0.5], size=30)
    rule = find_rule(probabilities, metric)
    shuffled = generator.permutation(probabilities)
    assert find_rule(shuffled, metric).expected == pytest.approx(rule.expected, abs=1e-9)
    for order in permutations(range(3)):
        permuted = find_rule(probabilities[:, order], metric)
        assert permuted.expected == pytest.approx(rule.expected, abs=1e-9)
        assert permuted.gains == pytest.approx(np.array(rule.gains)[list(order)])
        assert permuted.costs == pytest.approx(np.array(rule.costs)[list(order)])
        assert (
            np.array(order)[applied(permuted, probabilities[:, order])].tolist()
            == applied(rule, probabilities).tolist()
        )


@both_metrics
def test_a_label_without_mass_is_never_decided(metric: Metric) -> None:
    probabilities = np.random.default_rng(6).dirichlet([1.0, 0.4, 2.0], size=50)
    rule = find_rule(probabilities, metric)
    wider = find_rule(np.insert(probabilities, 1, 0.0, axis=1), metric)
    assert wider.expected == pytest.approx(rule.expected, abs=1e-12)
    assert wider.expected > wider.probable
    assert np.isfinite(wider.gains + wider.costs).all()
    assert wider.gains[1] == 0
    others = np.random.default_rng(7).dirichlet(np.ones(4), size=1_000)
    assert 1 not in applied(wider, np.concatenate([others, np.eye(4)]))


@both_metrics
@pytest.mark.parametrize(
    "probabilities",
    [
        np.array([[0.2, 0.5, 0.3]]),
        np.array([[1.0]]),
        np.array([[0.0, 1.0, 0.0]] * 4),
        np.eye(3)[[0, 1, 1, 2]],
        np.full((5, 2), 0.5),
    ],
    ids=["one row", "one label", "one label with mass", "one-hot", "equal rows and labels"],
)
def test_where_the_probable_label_is_best_the_rule_is_the_plain_one(probabilities: Floats, metric: Metric) -> None:
    rule = find_rule(probabilities, metric)
    assert rule.expected == rule.probable
    assert set(rule.gains) == {1.0}
    assert set(rule.costs) == {0.0}


@both_metrics
def test_equal_rows_get_the_best_single_label(metric: Metric) -> None:
    rule = find_rule(np.tile([0.2, 0.5, 0.3], (6, 1)), metric)
    constant = [expected_score(np.tile([0.2, 0.5, 0.3], (6, 1)), np.full(6, label), metric) for label in range(3)]
    assert rule.expected == pytest.approx(max(constant))


@both_metrics
def test_gains_are_scaled_and_the_rule_is_never_worse_than_the_probable_label(metric: Metric) -> None:
    generator = np.random.default_rng(8)
    for rows, labels in [(1, 2), (2, 5), (9, 9), (40, 2), (60, 4), (300, 3)]:
        probabilities = generator.dirichlet(generator.dirichlet(np.ones(labels)) * labels + 0.01, size=rows)
        rule = find_rule(probabilities, metric)
        assert rule.expected >= rule.probable
        assert rule.probable == expected_score(probabilities, probabilities.argmax(axis=1), metric)
        assert np.mean(rule.gains) == pytest.approx(1)
        assert find_rule(probabilities, metric) == rule


def test_decide_keeps_leading_axes_and_takes_the_first_of_equal_labels() -> None:
    probabilities = np.array([[[0.5, 0.5], [0.2, 0.8]], [[0.6, 0.4], [0.7, 0.3]]])
    assert decide(probabilities, (1, 1), (0, 0)).tolist() == [[0, 1], [0, 0]]
    assert decide(probabilities, (1, 2), (0, 0.3)).tolist() == [[1, 1], [0, 0]]


def test_the_expected_score_is_the_ratio_of_expectations() -> None:
    probabilities = np.array([[0.6, 0.4], [0.3, 0.7], [0.5, 0.5]])
    f1 = 2 * 1.1 / (1.4 + 2), 2 * 0.7 / (1.6 + 1)
    decided = np.array([0, 1, 0])
    assert expected_score(probabilities, decided, "macro_f1") == pytest.approx(sum(f1) / 2)
    assert expected_score(probabilities, decided, "weighted_f1") == pytest.approx((1.4 * f1[0] + 1.6 * f1[1]) / 3)


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        (np.zeros((0, 3)), "at least one row"),
        (np.array([0.5, 0.5]), "at least one row"),
        (np.array([[0.5, 0.5], [np.nan, 1.0]]), "row 1 .*nan"),
        (np.array([[0.5, 0.5], [0.5, 0.5], [0.5, 0.48]]), "row 2 .*sum to 1"),
        (np.array([[1.5, -0.5]]), "row 0 .*at least 0"),
    ],
)
def test_what_is_not_a_table_of_distributions_is_an_error(probabilities: Floats, message: str) -> None:
    with pytest.raises(PredictionsError, match=message):
        find_rule(probabilities, "weighted_f1")


@pytest.mark.parametrize("decided", [[0], [0, 2], [-1, 0]])
def test_decided_labels_that_do_not_fit_are_an_error(decided: list[int]) -> None:
    with pytest.raises(PredictionsError, match="expected 2 indices from 0 to 1"):
        expected_score(np.full((2, 2), 0.5), np.array(decided), "macro_f1")
