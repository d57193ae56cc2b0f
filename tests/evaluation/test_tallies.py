"""Figures from counts by cluster: scikit-learn's, with intervals that cover and p-values that are uniform."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as peer

from erc_llm import metrics
from erc_llm.errors import InternalError
from erc_llm.evaluation.significance import mcnemar
from erc_llm.evaluation.tallies import Layout, bootstrap, metrics_of, permutation_p_values, tally

N = 3
Vectors = tuple[np.ndarray, list[np.ndarray], np.ndarray]


def clustered(rng: np.random.Generator, dialogues: int, chances: tuple[float, ...], spread: float = 0.25) -> Vectors:
    """Gold, the answers of several systems and the dialogue of targets; a system's chance varies by dialogue."""
    dialogue = np.repeat(np.arange(dialogues), rng.integers(4, 20, size=dialogues))
    gold = rng.choice(N, size=len(dialogue), p=[0.6, 0.3, 0.1])
    answers = []
    for chance in chances:
        right = rng.random(len(gold)) < np.clip(rng.normal(chance, spread, size=dialogues), 0.02, 0.98)[dialogue]
        answers.append(np.where(right, gold, (gold + rng.integers(1, N, size=len(gold))) % N))
    return gold, answers, dialogue


def test_every_figure_equals_sklearn_in_every_group() -> None:
    rng = np.random.default_rng(0)
    gold, answers, dialogue = clustered(rng, 30, (0.6, 0.4))
    answers[1][::7] = -1
    level = rng.integers(-1, 4, size=len(gold))
    layout = Layout(5, N)
    found = metrics_of(tally(gold, answers, dialogue, [(level, 4)], N))
    options = {"labels": range(N), "zero_division": 0}
    for run, predicted in enumerate(answers):
        said = np.where(predicted < 0, N, predicted)
        assert found[run, 0] == pytest.approx(peer.f1_score(gold, said, average="weighted", **options))
        macro, accuracy = (found[run, layout.headline(f)] for f in ("macro_f1", "accuracy"))
        assert macro == pytest.approx(peer.f1_score(gold, said, average="macro", **options))
        assert accuracy == pytest.approx(peer.accuracy_score(gold, said))
        for label, f1 in enumerate(peer.f1_score(gold, said, average=None, **options)):
            assert found[run, layout.label(label)] == pytest.approx(f1)
        for group in range(4):
            of = level == group
            expected = peer.f1_score(gold[of], said[of], average="weighted", **options)
            assert found[run, 1 + group] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("gold", "predicted"),
    [
        pytest.param([0, 0, 1, 1], [0, 1, 1, 1], id="a class is absent"),
        pytest.param([0, 1, 2, 2], [2, 2, 2, 2], id="classes never predicted"),
        pytest.param([0, 0, 0], [1, 1, 1], id="a predicted class without support"),
        pytest.param([0, 1, 2], [-1, -1, -1], id="all invalid"),
    ],
)
def test_edge_cases_equal_sklearn(gold: list[int], predicted: list[int]) -> None:
    found = metrics_of(tally(np.array(gold), [np.array(predicted)], np.arange(len(gold)), [], N))[0]
    said = [N if p < 0 else p for p in predicted]
    options = {"labels": range(N), "zero_division": 0}
    assert found[0] == pytest.approx(peer.f1_score(gold, said, average="weighted", **options))
    assert found[1] == pytest.approx(peer.f1_score(gold, said, average="macro", **options))


def test_losses_are_means_over_targets_that_all_runs_have_probabilities_for() -> None:
    rng = np.random.default_rng(1)
    gold, answers, dialogue = clustered(rng, 20, (0.6, 0.5))
    probabilities = [rng.dirichlet(np.ones(N), size=len(gold)) for _ in answers]
    probabilities[1][:5] = np.nan
    tallies = tally(gold, answers, dialogue, [], N, probabilities)
    layout, found = tallies.layout, metrics_of(tallies)
    for run in (0, 1):
        expected = metrics.negative_log_likelihood(probabilities[run][5:], gold[5:])
        assert found[run, layout.nll] == pytest.approx(expected)
        one_hot = np.eye(N)[gold[5:]]
        expected = metrics.expected_calibration_error(probabilities[run][5:], gold[5:])
        assert found[run, layout.calibration] == pytest.approx(expected)
        assert found[run, layout.brier] == pytest.approx(((probabilities[run][5:] - one_hot) ** 2).sum(axis=1).mean())
    resampled = bootstrap(tallies, 500, seed=0)
    expected = metrics.paired_mean_difference(
        *(metrics.gold_surprise(p[5:], gold[5:]) for p in probabilities), dialogue[5:], draws=500
    )
    differences = resampled[:, 0, layout.nll] - resampled[:, 1, layout.nll]
    assert np.quantile(differences, [0.025, 0.975]) == pytest.approx([expected.low, expected.high], abs=1e-5)
    without = tally(gold, answers, dialogue, [], N)
    assert np.isnan(metrics_of(without)[:, layout.nll :]).all()
    assert np.isnan(permutation_p_values(without, [0], [1], 20, 0)[layout.nll :]).all()


def test_the_bootstrap_is_the_one_of_the_metrics() -> None:
    gold, answers, dialogue = clustered(np.random.default_rng(2), 25, (0.6, 0.5))
    resampled = bootstrap(tally(gold, answers, dialogue, [], N), 2000, seed=3)
    for place, metric in enumerate(metrics.HEADLINE):
        expected = metrics.paired_difference(gold, *answers, dialogue, N, 2000, 3, metric)
        found = np.quantile(resampled[:, 0, place] - resampled[:, 1, place], [0.025, 0.975])
        assert found.tolist() == [expected.low, expected.high]


def test_one_cluster_cannot_be_resampled() -> None:
    with pytest.raises(InternalError, match="at least two clusters"):
        bootstrap(tally(np.array([0, 1]), [np.array([0, 1])], np.zeros(2), [], N), 10, 0)


@pytest.mark.slow
def test_intervals_cover_the_truth() -> None:
    """95 % intervals of a metric and of a difference, on clustered targets, 1,000 times."""
    rng = np.random.default_rng(5)
    truth = metrics_of(tally(*clustered(rng, 200_000, (0.6, 0.5)), [], N))
    covered = np.zeros(2)
    for trial in range(1000):
        found = bootstrap(tally(*clustered(rng, 120, (0.6, 0.5)), [], N), 500, seed=trial)[:, :, 0]
        for i, (resampled, true) in enumerate(
            [(found[:, 0], truth[0, 0]), (found[:, 0] - found[:, 1], truth[0, 0] - truth[1, 0])]
        ):
            low, high = np.quantile(resampled, [0.025, 0.975])
            covered[i] += low <= true <= high
    assert (covered / 1000 >= 0.93).all(), covered
    assert (covered / 1000 <= 0.97).all(), covered


@pytest.mark.slow
def test_p_values_are_uniform_under_the_null_hypothesis() -> None:
    """Two systems of which neither is better, 1,000 times; the test by utterance is no good for that."""
    rng, p_values, by_utterance = np.random.default_rng(6), [], []
    for trial in range(1000):
        gold, answers, dialogue = clustered(rng, 50, (0.55, 0.55))
        p_values.append(permutation_p_values(tally(gold, answers, dialogue, [], N), [0], [1], 199, seed=trial)[:3])
        a, b = (found == gold for found in answers)
        by_utterance.append(mcnemar(int(np.sum(a & ~b)), int(np.sum(b & ~a))))
    found = np.array(p_values) - rng.random((1000, 3)) / 200  # p-values of 199 draws come in steps of 1/200
    for metric in range(3):
        assert stats.kstest(found[:, metric], "uniform").pvalue > 0.01
    assert np.mean(np.array(by_utterance) < 0.05) > 0.2, "McNemar's test ignores dialogues, which is why we call it so"


def test_swapping_all_dialogues_by_hand() -> None:
    """Three dialogues that `a` has all right and `b` all wrong: of eight swaps two are as far apart."""
    gold, dialogue = np.array([0, 1, 0, 1, 0, 1]), np.array([0, 0, 1, 1, 2, 2])
    tallies = tally(gold, [gold, 1 - gold], dialogue, [], 2)
    found = permutation_p_values(tallies, [0], [1], 20_000, seed=0)[tallies.layout.headline("accuracy")]
    assert found == pytest.approx(2 / 8, abs=0.01)
    same = permutation_p_values(tallies, [0], [0], 100, seed=0)
    assert (same[: tallies.layout.nll] == 1).all()


def test_a_swap_exchanges_whole_dialogues() -> None:
    """One dialogue decides: whatever the number of its targets, it is one coin."""
    gold = np.zeros(100, dtype=np.int64)
    a, b = gold.copy(), gold.copy()
    b[:50] = 1
    tallies = tally(gold, [a, b], np.repeat([0, 1], 50), [], 2)
    assert permutation_p_values(tallies, [0], [1], 500, seed=0)[0] == 1.0, (
        "one dialogue differs, so all swaps are equal"
    )


def test_several_runs_are_swapped_together_whatever_their_number() -> None:
    gold, answers, dialogue = clustered(np.random.default_rng(7), 40, (0.7, 0.45))
    one = permutation_p_values(tally(gold, answers, dialogue, [], N), [0], [1], 500, seed=1)
    repeated = tally(gold, [answers[0]] * 3 + [answers[1]] * 2, dialogue, [], N)
    several = permutation_p_values(repeated, [0, 1, 2], [3, 4], 500, seed=1)
    np.testing.assert_array_equal(one, several)


@pytest.mark.parametrize(("a", "b"), [([0, 1], [2, 3]), ([0], [1, 2]), ([0, 1, 2], [3, 4])])
def test_the_p_value_of_several_runs_is_that_of_the_mean_of_their_metrics(a: list[int], b: list[int]) -> None:
    """All swaps of six dialogues by brute force, with runs that lose different labels, whose pool loses none."""
    gold, answers, dialogue = clustered(np.random.default_rng(9), 6, (0.8, 0.6, 0.7, 0.4, 0.5))
    answers = [np.where(predicted == run % N, (run + 1) % N, predicted) for run, predicted in enumerate(answers)]
    pairs = [(a[k % len(a)], b[k % len(b)]) for k in range(np.lcm(len(a), len(b)))]

    def apart(swapped: np.ndarray) -> float:
        sides = [
            [np.where(swapped[dialogue], answers[that], answers[this]) for this, that in order]
            for order in (pairs, [(j, i) for i, j in pairs])
        ]
        one, other = (
            np.mean([peer.f1_score(gold, x, labels=range(N), average="weighted", zero_division=0) for x in side])
            for side in sides
        )
        return abs(float(one - other))

    swaps = [np.array([number >> bit & 1 for bit in range(6)], dtype=bool) for number in range(64)]
    expected = np.mean([apart(swapped) >= apart(swaps[0]) - 1e-9 for swapped in swaps])
    found = permutation_p_values(tally(gold, answers, dialogue, [], N), a, b, 20_000, seed=0)[0]
    assert found == pytest.approx(expected, abs=0.015)
