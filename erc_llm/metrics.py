"""Classification metrics with confidence intervals from resampling whole dialogues.

Weighted F1 is over *all* labels, Neutral included, as in the papers on EmoryNLP. An *invalid* prediction has the index
-1, which is not a label, so it always counts as wrong.

Input: integer label indices `gold` and `predicted`, shape (targets,); probabilities, shape (targets, labels); the index
of each target's dialogue, shape (targets,). Output: confusion counts, scores, intervals.
Does not depend on: files, label names, prompts, models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from erc_llm.errors import InternalError
from erc_llm.resampling import percentile_interval, resampled_sums

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
HeadlineMetric = Literal["weighted_f1", "macro_f1", "accuracy"]

HEADLINE: tuple[HeadlineMetric, ...] = ("weighted_f1", "macro_f1", "accuracy")
INVALID = -1
INVALID_POLICY = "an invalid answer counts as wrong"


@dataclass(frozen=True)
class Scores:
    """Scores of one or many confusion matrices; `...` are the leading axes of the input.

    Attributes:
        weighted_f1: (...) F1 averaged over all labels, weighted by their support.
        macro_f1: (...) unweighted mean of F1 over all labels, including those without support.
        accuracy: (...) fraction of targets with the correct label.
        precision: (..., labels).
        recall: (..., labels).
        f1: (..., labels).
        support: (..., labels) number of targets with that gold label.
    """

    weighted_f1: Floats
    macro_f1: Floats
    accuracy: Floats
    precision: Floats
    recall: Floats
    f1: Floats
    support: Floats


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; `low` and `high` are None if no interval can be computed."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Headline:
    """The three headline metrics, each between 0 and 1, with their intervals."""

    weighted_f1: Estimate
    macro_f1: Estimate
    accuracy: Estimate


@dataclass(frozen=True)
class Reliability:
    """Targets binned by the probability of their likeliest label; bin i of equal width is (i / bins, (i + 1) / bins].

    Attributes:
        count: (bins,) number of targets.
        confidence: (bins,) sum of their largest probabilities.
        right: (bins,) number of targets whose likeliest label is the gold label.
    """

    count: Integers
    confidence: Floats
    right: Floats


def confusion(gold: Integers, predicted: Integers, n: int) -> Integers:
    """Count targets by gold label (row) and predicted label (column), shape (n, n + 1).

    The last column counts invalid predictions (index -1), so that the sum of a row is the label's support.

    Raises:
        InternalError: The vectors differ in length, or an index is outside the label set.
    """
    one_cluster = np.zeros(len(gold), dtype=np.int64)
    counts: Integers = _confusions(gold, predicted, one_cluster, n, clusters=1)[0]
    return counts


def confusion_by_dialogue(gold: Integers, predicted: Integers, dialogue_index: Integers, n: int) -> Integers:
    """`confusion` of each dialogue, shape (dialogues, n, n + 1), sorted by dialogue index.

    Raises:
        InternalError: As for `confusion`.
    """
    names, dialogue = np.unique(np.asarray(dialogue_index), return_inverse=True)
    return _confusions(gold, predicted, dialogue, n, len(names))


def scores_from_confusion(confusion: NDArray[Any]) -> Scores:
    """Scores of confusion counts of shape (..., n, n), or (..., n, n + 1) with a last column of invalid predictions.

    The definitions are those of scikit-learn's `precision_recall_fscore_support(labels=range(n), zero_division=0)`: a
    division by zero yields zero. Weighted F1 and macro F1 are over all n labels, Neutral included; a label that never
    occurs has weight zero in the former and counts as zero in the latter.

    Raises:
        InternalError: The last two axes are neither (n, n) nor (n, n + 1).
    """
    counts = np.asarray(confusion, dtype=np.float64)
    if counts.ndim < 2 or counts.shape[-1] - counts.shape[-2] not in (0, 1):
        raise InternalError(f"a confusion matrix must be (..., n, n) or (..., n, n + 1), found shape {counts.shape}")
    n = counts.shape[-2]
    hits = np.diagonal(counts[..., :n], axis1=-2, axis2=-1)
    return scores_from_counts(hits, counts[..., :n].sum(axis=-2), counts.sum(axis=-1))


def scores_from_counts(hits: Floats, answered: Floats, support: Floats) -> Scores:
    """Scores from the required sums of a confusion matrix, each (..., labels) of float64; shapes are broadcast.

    Args:
        hits: Number of targets with the label as both gold and predicted label.
        answered: Number of targets with the label as predicted label.
        support: Number of targets with the label as gold label.
    """
    hits, answered, support = np.broadcast_arrays(hits, answered, support)
    f1 = _ratio(2 * hits, support + answered)
    total = support.sum(axis=-1)
    return Scores(
        weighted_f1=_ratio((f1 * support).sum(axis=-1), total),
        macro_f1=f1.mean(axis=-1),
        accuracy=_ratio(hits.sum(axis=-1), total),
        precision=_ratio(hits, answered),
        recall=_ratio(hits, support),
        f1=f1,
        support=support,
    )


def bootstrap_over_dialogues(
    gold: Integers,
    predicted: Integers,
    dialogue_index: Integers,
    n_labels: int,
    draws: int = 10_000,
    seed: int = 0,
) -> Headline:
    """Headline metrics with percentile 95 % intervals from resampling whole dialogues.

    Utterances of a scene share speakers, topic and context, so they are not independent; dialogues nearly are. Each
    draw takes as many dialogues as there are, with replacement: the randomised cluster bootstrap of C. A. Field and
    A. H. Welsh, "Bootstrapping clustered data", J. R. Statist. Soc. B 69 (2007) 369-390.

    Args:
        gold: (targets,) label indices.
        predicted: (targets,) label indices, -1 where invalid.
        dialogue_index: (targets,) one arbitrary integer per dialogue.
        n_labels: Size of the label set.
        draws: Number of resamples.
        seed: Seed of the resampling.

    Raises:
        InternalError: Fewer than two dialogues, or vectors of different lengths.
    """
    per_dialogue = _per_dialogue(gold, (predicted,), dialogue_index, n_labels)
    point = scores_from_confusion(per_dialogue.sum(axis=0)[0])
    resampled = [scores_from_confusion(chunk[:, 0]) for chunk in _resample(per_dialogue, draws, seed)]
    estimates = {
        metric: _estimate(float(getattr(point, metric)), np.concatenate([getattr(s, metric) for s in resampled]))
        for metric in HEADLINE
    }
    return Headline(**estimates)


def paired_difference(
    gold: Integers,
    predicted_a: Integers,
    predicted_b: Integers,
    dialogue_index: Integers,
    n_labels: int,
    draws: int = 10_000,
    seed: int = 0,
    metric: HeadlineMetric = "weighted_f1",
) -> Estimate:
    """Difference of a metric between `a` and `b` on the same targets (a minus b), with its percentile 95 % interval.

    Every draw scores both on the same resampled dialogues, so the difficulty that a dialogue has for both cancels out.
    Weighted F1 is over all labels, Neutral included. Arguments and errors as in `bootstrap_over_dialogues`.
    """
    per_dialogue = _per_dialogue(gold, (predicted_a, predicted_b), dialogue_index, n_labels)
    point = getattr(scores_from_confusion(per_dialogue.sum(axis=0)), metric)
    chunks = [getattr(scores_from_confusion(chunk), metric) for chunk in _resample(per_dialogue, draws, seed)]
    resampled = np.concatenate(chunks)
    return _estimate(float(point[0] - point[1]), resampled[:, 0] - resampled[:, 1])


def paired_mean_difference(
    a: Floats, b: Floats, dialogue_index: Integers, draws: int = 10_000, seed: int = 0
) -> Estimate:
    """Mean of `a` minus mean of `b`, (targets,) each, with its percentile 95 % interval over whole dialogues.

    Raises:
        InternalError: Fewer than two dialogues, or vectors of different lengths.
    """
    names, dialogue = np.unique(np.asarray(dialogue_index), return_inverse=True)
    if len(names) < 2 or not a.shape == b.shape == dialogue.shape:
        raise InternalError(f"expected values of at least two dialogues, found {len(names)}, {a.shape} and {b.shape}")
    per_dialogue = np.stack([np.bincount(dialogue, weights=a - b), np.bincount(dialogue)], axis=1)
    sums, counts = per_dialogue.sum(axis=0)
    resampled = np.concatenate(list(resampled_sums(per_dialogue, draws, seed)))
    return _estimate(float(sums / counts), resampled[:, 0] / resampled[:, 1])


def kappa(a: Integers, b: Integers) -> float | None:
    """Cohen's kappa of two vectors of predicted labels: 1 for equal vectors, 0 for agreement by chance.

    None if both vectors consist of one and the same label. Invalid predictions count as a label of their own. J. Cohen,
    "A coefficient of agreement for nominal scales", Educ. Psychol. Meas. 20 (1960) 37-46.
    """
    answers, both = np.unique(np.concatenate([a, b]), return_inverse=True)
    one, other = np.split(both, 2)
    shares = np.bincount(one * len(answers) + other, minlength=len(answers) ** 2).reshape(len(answers), -1) / len(a)
    chance = float(shares.sum(axis=1) @ shares.sum(axis=0))
    return (float(shares.trace()) - chance) / (1 - chance) if len(answers) > 1 else None


def negative_log_likelihood(probabilities: Floats, gold: Integers) -> float:
    """Mean of `gold_surprise`, in nats; probabilities are (targets, labels)."""
    return float(gold_surprise(probabilities, gold).mean())


def gold_surprise(probabilities: Floats, gold: Integers) -> Floats:
    """(targets,) -ln p(gold label) in nats; probabilities are (targets, labels).

    Probabilities are clipped at the float64 epsilon, as in scikit-learn's `log_loss`, so that one confident mistake
    cannot make the mean infinite.
    """
    _check_probabilities(probabilities, gold)
    of_gold = probabilities[np.arange(len(gold)), gold]
    surprise: Floats = -np.log(np.clip(of_gold, np.finfo(np.float64).eps, 1.0))
    return surprise


def expected_calibration_error(probabilities: Floats, gold: Integers, bins: int = 15) -> float:
    """Mean absolute difference between confidence and accuracy of the likeliest label, over bins of equal width.

    It is the weighted sum over bins of |accuracy - mean confidence| of C. Guo et al., "On Calibration of Modern Neural
    Networks" (ICML 2017), who use 15 bins. Probabilities are (targets, labels).
    """
    found = reliability(probabilities, gold, bins)
    return float(np.abs(found.right - found.confidence).sum() / len(gold))


def calibration_error_over_dialogues(
    probabilities: Floats, gold: Integers, dialogue_index: Integers, draws: int = 10_000, seed: int = 0
) -> Estimate:
    """`expected_calibration_error` with a 95 % interval from resampling whole dialogues.

    Raises:
        InternalError: Fewer than two dialogues, or vectors of different lengths.
    """
    names, dialogue = np.unique(np.asarray(dialogue_index), return_inverse=True)
    if len(names) < 2:
        raise InternalError(f"resampling dialogues needs at least two of them, found {len(names)}")
    gaps = calibration_gaps(probabilities, gold, dialogue, len(names))
    per_dialogue = np.concatenate([gaps, np.bincount(dialogue)[:, None]], axis=1)
    resampled = np.concatenate(list(resampled_sums(per_dialogue, draws, seed)))
    errors = np.abs(resampled[:, :-1]).sum(axis=1) / resampled[:, -1]
    return calibration_estimate(expected_calibration_error(probabilities, gold), errors)


def calibration_gaps(probabilities: Floats, gold: Integers, cluster: Integers, clusters: int, bins: int = 15) -> Floats:
    """(clusters, bins) sum over a cluster's targets of (likeliest label correct, 0 or 1) minus its probability.

    The calibration error of a set of clusters is: sum the gaps over the clusters, then the absolute values over the
    bins, and divide by the number of targets.
    """
    _check_probabilities(probabilities, gold)
    confidence, bin_index = _confidence(probabilities, bins)
    gap = (probabilities.argmax(axis=1) == gold) - confidence
    return _sums(cluster * bins + bin_index, gap, clusters * bins).reshape(clusters, bins)


def calibration_estimate(value: float, resampled: Floats) -> Estimate:
    """A calibration error with its percentile interval over resamples, (draws,), corrected for their upward bias.

    A sum of absolute values grows with noise, and resamples are noisier than the sample, so their mean exceeds the
    value. The interval is shifted down by this excess and cut off at 0.
    """
    low, high = percentile_interval(resampled)
    added = float(resampled.mean()) - value
    return Estimate(value, max(0.0, low - added), max(0.0, high - added))


def reliability(probabilities: Floats, gold: Integers, bins: int = 15) -> Reliability:
    """Sums per bin of the expected calibration error; probabilities are (targets, labels)."""
    _check_probabilities(probabilities, gold)
    confidence, bin_index = _confidence(probabilities, bins)
    right = (probabilities.argmax(axis=1) == gold).astype(np.float64)
    count = np.bincount(bin_index, minlength=bins)
    return Reliability(count, *(_sums(bin_index, values, bins) for values in (confidence, right)))


def brier_score(probabilities: Floats, gold: Integers) -> float:
    """Mean of `squared_error`, from 0 (best) to 2 (worst); probabilities are (targets, labels)."""
    return float(squared_error(probabilities, gold).mean())


def squared_error(probabilities: Floats, gold: Integers) -> Floats:
    """(targets,) squared distance between the probabilities, (targets, labels), and the one-hot gold label.

    It is summed over all labels, as in G. W. Brier, "Verification of forecasts expressed in terms of probability",
    Monthly Weather Review 78 (1950) 1-3.
    """
    _check_probabilities(probabilities, gold)
    of_gold = probabilities[np.arange(len(gold)), gold]
    error: Floats = (probabilities**2).sum(axis=1) - 2 * of_gold + 1
    return error


def _check_probabilities(probabilities: Floats, gold: Integers) -> None:
    if probabilities.ndim != 2 or len(probabilities) != len(gold) or len(gold) == 0:
        raise InternalError(f"expected probabilities for {len(gold)} targets, found shape {probabilities.shape}")


def _confidence(probabilities: Floats, bins: int) -> tuple[Floats, Integers]:
    """Probability of the likeliest label and its bin, (targets,) each."""
    confidence = probabilities.max(axis=1)
    return confidence, np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)


def _sums(group: Integers, values: Floats, groups: int) -> Floats:
    return np.bincount(group, weights=values, minlength=groups).astype(np.float64)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    ratio: Floats = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
    return ratio


def _confusions(gold: Integers, predicted: Integers, cluster: Integers, n: int, clusters: int) -> Integers:
    """Confusion counts of each cluster, shape (clusters, n, n + 1); `cluster` has values 0 ... clusters - 1."""
    gold, predicted = np.asarray(gold, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    if not gold.shape == predicted.shape == cluster.shape or gold.ndim != 1:
        raise InternalError(f"expected vectors of one length, found {gold.shape}, {predicted.shape}, {cluster.shape}")
    if gold.size and (gold.min() < 0 or gold.max() >= n or predicted.min() < INVALID or predicted.max() >= n):
        raise InternalError(f"a label index is outside 0..{n - 1} (predictions may also be {INVALID})")
    column = np.where(predicted == INVALID, n, predicted)
    cell = (cluster * n + gold) * (n + 1) + column
    counts = np.bincount(cell, minlength=clusters * n * (n + 1)).reshape(clusters, n, n + 1)
    return counts.astype(np.int64, copy=False)


def _per_dialogue(gold: Integers, predictions: tuple[Integers, ...], dialogue_index: Integers, n: int) -> Integers:
    """Confusion counts by dialogue and prediction vector, shape (dialogues, vectors, n, n + 1)."""
    names, dialogue = np.unique(np.asarray(dialogue_index), return_inverse=True)
    if len(names) < 2:
        raise InternalError(f"resampling dialogues needs at least two of them, found {len(names)}")
    return np.stack([_confusions(gold, predicted, dialogue, n, len(names)) for predicted in predictions], axis=1)


def _resample(per_dialogue: Integers, draws: int, seed: int) -> Iterator[Floats]:
    """Summed confusion counts of resampled dialogues, in chunks of shape (draws of the chunk, vectors, n, n + 1)."""
    shape = per_dialogue.shape[1:]
    for sums in resampled_sums(per_dialogue.reshape(len(per_dialogue), -1), draws, seed):
        yield sums.reshape(-1, *shape)


def _estimate(value: float, resampled: Floats) -> Estimate:
    return Estimate(value, *percentile_interval(resampled))
