"""The fits of a calibration: temperature, offsets and weight by likelihood, decision weights by expected weighted F1.

Input: arrays of scores and gold labels. Output: the fitted parameters.
Does not depend on: predictions tables, folds, files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from erc_llm.metrics import Floats, Integers

SOFTNESS = 0.1  # nats; temperature of the soft decision in `fit_decision`, where a lead of 0.5 is nearly decisive
_FLOOR = -1e4  # nats; replaces ln 0, so that probability 0 times its score stays 0
_INVERSE_RANGE = (0.01, 100.0)  # bounds of 1 / temperature


@dataclass(frozen=True, slots=True)
class Fit:
    """Divisor of the scores, and `offsets`, (labels,) in nats, added afterwards; then the weight of neighbours."""

    temperature: float
    offsets: tuple[float, ...]
    weight: float = 0.0


def fit_scaling(scores: Floats, gold: Integers, strength: float, with_offsets: bool) -> Fit:
    """The temperature and offsets with the smallest regularised negative log-likelihood.

    Minimises mean(-ln softmax(b scores + c)[gold]) + strength / 2 ((b - 1)^2 + |c|^2), which is convex in the inverse
    temperature b and the offsets c. Temperature: C. Guo et al., "On Calibration of Modern Neural Networks" (2017).

    Args:
        scores: (targets, labels) log-probabilities, up to a constant per target.
        gold: (targets,) label indices.
        strength: Regularisation towards temperature 1 and offsets 0, in nats per target; must be above 0 with offsets,
            because the offset of a label that never occurs would otherwise go to minus infinity.
        with_offsets: Whether to fit offsets; otherwise all are 0.
    """
    from scipy.optimize import minimize

    labels = scores.shape[1]
    centred = np.maximum(scores - scores.max(axis=1, keepdims=True), _FLOOR)
    of_gold = centred[np.arange(len(gold)), gold].mean()
    shares = np.bincount(gold, minlength=labels) / len(gold)

    def loss(values: Floats) -> tuple[float, Floats]:
        inverse, offsets = values[0], values[1:]
        mixed = inverse * centred + (offsets if with_offsets else 0.0)
        top = mixed.max(axis=1, keepdims=True)
        weights = np.exp(mixed - top)
        total = weights.sum(axis=1, keepdims=True)
        probabilities = weights / total
        log_total = float((top + np.log(total)).mean())
        slope = (probabilities * centred).sum() / len(gold) - of_gold + strength * (inverse - 1)
        value = log_total - inverse * of_gold + strength / 2 * (inverse - 1) ** 2
        if not with_offsets:
            return value, np.array([slope])
        value += strength / 2 * offsets @ offsets - offsets @ shares
        return value, np.concatenate([[slope], probabilities.mean(axis=0) - shares + strength * offsets])

    start = np.concatenate([[1.0], np.zeros(labels if with_offsets else 0)])
    bounds = [_INVERSE_RANGE] + [(None, None)] * (len(start) - 1)
    options = {"maxiter": 500, "ftol": 1e-13, "gtol": 1e-9}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    return Fit(1 / float(found[0]), tuple(found[1:].tolist()) if with_offsets else (0.0,) * labels)


def fit_weight(probabilities: Floats, neighbours: Floats, gold: Integers) -> float:
    """The weight w in [0, 1] with the smallest negative log-likelihood of (1 - w) p + w q.

    Args:
        probabilities: (targets, labels) p.
        neighbours: (targets, labels) q, the label distributions of the neighbours.
        gold: (targets,) label indices.
    """
    from scipy.optimize import minimize_scalar

    own, other = (values[np.arange(len(gold)), gold] for values in (probabilities, neighbours))
    tiny = np.finfo(np.float64).tiny

    def loss(weight: float) -> float:
        return float(-np.log(np.maximum((1 - weight) * own + weight * other, tiny)).mean())

    found = float(minimize_scalar(loss, bounds=(0.0, 1.0), method="bounded", options={"xatol": 1e-4}).x)
    return found if loss(found) < loss(0.0) else 0.0


def fit_decision(probabilities: Floats, strength: float) -> tuple[float, ...]:
    """(labels,) weights that increase the expected weighted F1 of the decision argmax(probability times weight).

    The expectation assumes calibrated probabilities and uses no gold labels: of n decisions for a label with
    probability p each, n p are right, and the label's support is the sum of p over all targets. To obtain a gradient,
    decisions are softened to softmax(ln(probability times weight) / 0.1). The penalty is strength / 2 |ln weights|^2.
    The optimisation starts at equal weights and ends at a local optimum.

    Args:
        probabilities: (targets, labels), calibrated.
        strength: Regularisation towards equal weights, in units of F1.
    """
    from scipy.optimize import minimize

    with np.errstate(divide="ignore"):
        logs = np.maximum(np.log(probabilities), _FLOOR)
    support = probabilities.sum(axis=0)
    shares = support / support.sum()

    def loss(values: Floats) -> tuple[float, Floats]:
        mixed = (logs + values) / SOFTNESS
        answers = np.exp(mixed - mixed.max(axis=1, keepdims=True))
        answers /= answers.sum(axis=1, keepdims=True)
        hits, size = (answers * probabilities).sum(axis=0), answers.sum(axis=0) + support
        size = np.maximum(size, np.finfo(np.float64).tiny)  # a label without any probability
        f1 = 2 * hits / size
        slope = shares * (2 * probabilities - f1) / size  # of weighted F1, with respect to each soft decision
        slope = answers * (slope - (answers * slope).sum(axis=1, keepdims=True)) / SOFTNESS
        return float(strength / 2 * values @ values - shares @ f1), strength * values - slope.sum(axis=0)

    start = np.zeros(probabilities.shape[1])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
    return tuple(np.exp(found - found.mean()).tolist())
