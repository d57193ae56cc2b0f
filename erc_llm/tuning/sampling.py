"""Class balancing: resamples an epoch's targets, or weights their losses.

Input: the class of every labelled target, a scheme, a seed. Output: the targets of every epoch and scene with their
weights, and the label distribution that training effectively sees. A scene keeps all its lines; its questions vary.
Does not depend on: text, trees, models, files.

Drawing and weighting are two ways to the same expected gradient. With w the weight of a target's class, scaled to a
mean of 1 over the targets, an epoch of T targets either draws T times, a target w times in expectation, or asks every
target once and multiplies its loss by w. So at matched weights the expected sum of an epoch's gradients is the same.
The noise is not: drawing passes over some targets of a frequent class and repeats some of a rare one. Steps divide that
sum by their drawn targets, or, where the loss is weighted, by their sum of weights (normalised) or their number of
targets (unnormalised). All three divisors are equal in expectation; one that varies with the step, the sum of weights,
makes the match one to first order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Scheme = Literal["none", "inverse_frequency", "square_root", "effective_number"]
Asked = Sequence[dict[int, float]]  # for each scene: position of a target -> weight of its question


@dataclass(frozen=True, eq=False)
class Targets:
    """The labelled targets of the training scenes.

    Attributes:
        scene: (targets,) number of the scene each is in.
        position: (targets,) its position there.
        label: (targets,) index of its label.
        scenes: Number of scenes.
        labels: Number of labels.
    """

    scene: Ints
    position: Ints
    label: Ints
    scenes: int
    labels: int

    def __len__(self) -> int:
        return len(self.label)

    @property
    def counts(self) -> Ints:
        """(labels,) targets of each label."""
        return np.bincount(self.label, minlength=self.labels)

    @property
    def absent(self) -> list[int]:
        """Labels that no target has."""
        return np.flatnonzero(self.counts == 0).tolist()


@dataclass(frozen=True, eq=False)
class Sampler:
    """What each epoch asks, as a function of seed and epoch alone, however many processes there are.

    Attributes:
        targets: What there is to ask about.
        weights: (labels,) from `class_weights`.
        resampled: Whether targets are drawn by these weights; else each is asked once and its loss has the weight.
        seed: Of the run.
    """

    targets: Targets
    weights: Floats
    resampled: bool
    seed: int

    @property
    def prior(self) -> tuple[float, ...]:
        """Expected share of each label in what the loss sees, in label order; they sum to 1."""
        mass = self.targets.counts * self.weights
        return tuple((mass / mass.sum()).tolist())

    def asked(self, epoch: int) -> Asked:
        """Positions asked about in each scene, with the weight of each; a scene without any has an empty entry.

        The weight is how often the target was drawn, or the weight of its class where nothing is drawn.
        """
        weights = self.weights[self.targets.label]
        if self.resampled:
            weights = draw(weights, self.targets.label, self.seed, epoch).astype(np.float64)
        kept = np.flatnonzero(weights)
        columns = (self.targets.scene[kept], self.targets.position[kept], weights[kept])
        asked: list[dict[int, float]] = [{} for _ in range(self.targets.scenes)]
        for scene, position, weight in zip(*(column.tolist() for column in columns), strict=True):
            asked[scene][position] = weight
        return asked


def class_weights(counts: Ints, scheme: Scheme, beta: float) -> Floats:
    """(labels,) weight of one target of each label, with a mean of 1 over all targets; 0 for a label without any.

    Args:
        counts: (labels,) targets of each label, n; at least one is not 0.
        scheme: `none` weighs all alike, `inverse_frequency` by 1 / n, `square_root` by 1 / sqrt(n),
            `effective_number` by (1 - beta) / (1 - beta^n), see Cui et al., "Class-Balanced Loss Based on Effective
            Number of Samples", CVPR 2019.
        beta: Of `effective_number`, between 0 (all alike) and 1 (inverse frequency), both excluded.
    """
    present = counts > 0
    n = counts[present].astype(np.float64)
    if scheme == "none":
        return present.astype(np.float64)
    if scheme == "inverse_frequency":
        raw = 1 / n
    elif scheme == "square_root":
        raw = 1 / np.sqrt(n)
    else:
        raw = (1 - beta) / -np.expm1(n * math.log(beta))  # 1 - beta^n without cancellation
    weights = np.zeros(len(counts))
    weights[present] = raw * n.sum() / (n * raw).sum()
    return weights


def draw(weights: Floats, label: Ints, seed: int, epoch: int) -> Ints:
    """(targets,) how often each target is drawn in an epoch: as many draws as targets, in expectation its weight.

    Draws are systematic: targets stand side by side, each as wide as its weight, those of a class together and in
    random order, and a comb of even teeth falls on them. So a target of weight 1.3 is drawn once or twice, and an epoch
    has of each class what the scheme says, to less than a draw; of independent draws, more than a third of the
    targets would miss an epoch even at equal weights. See W. G. Madow, "On the Theory of Systematic Sampling, II", Ann.
    Math. Statist. 20 (1949).

    Args:
        weights: (targets,) equal within a class and not negative, up to a factor; one at least is above 0.
        label: (targets,) the class of each.
        seed: Of the run, not negative.
        epoch: Of the training, from 0.
    """
    generator, targets = np.random.default_rng([seed, epoch]), len(weights)
    order = np.lexsort((generator.random(targets), label, weights))
    edges = np.cumsum(weights[order])
    edges *= targets / edges[-1]
    edges[-1] = targets
    teeth = np.floor(np.minimum(edges, targets) + generator.random())
    drawn = np.zeros(targets, dtype=np.int64)
    drawn[order] = np.diff(teeth, prepend=0)
    return drawn
