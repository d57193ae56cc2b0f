"""Class balancing: resamples an epoch's targets, or weights their losses.

Drawing and weighting give the same expected gradient. Let w be the weight of a target's class, scaled to a mean of 1
over the T targets. Resampling draws T times in an epoch, each target w times in expectation; weighting asks about every
target once and multiplies its loss by w. So at equal weights the expected sum of an epoch's gradients is the same. The
noise differs: drawing skips some targets of frequent classes and repeats some of rare ones. A step divides that sum by
the number of its drawn targets or, if the loss is weighted, by its sum of weights (normalised) or its number of targets
(unnormalised). All three divisors are equal in expectation. The sum of weights varies with the step, so with it the
gradients are equal to first order only.

Input: the class of every labelled target, a scheme, a seed. Output: the targets of every epoch and scene with their
weights, and the label distribution that the loss sees. A scene keeps all its lines; only its questions vary.
Does not depend on: text, trees, models, files.
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
Asked = Sequence[dict[int, float]]  # for each scene: weight of each target's question by the target's position


@dataclass(frozen=True, eq=False)
class Targets:
    """The labelled targets of the training scenes.

    Attributes:
        scene: (targets,) number of each target's scene.
        position: (targets,) position of each target in its scene.
        label: (targets,) index of each target's label.
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
        """(labels,) number of targets of each label."""
        return np.bincount(self.label, minlength=self.labels)

    @property
    def shares(self) -> tuple[float, ...]:
        """(labels,) relative frequency of each label among the targets; the sum is 1."""
        return tuple((self.counts / self.counts.sum()).tolist())

    @property
    def absent(self) -> list[int]:
        """Labels that no target has."""
        return np.flatnonzero(self.counts == 0).tolist()


@dataclass(frozen=True, eq=False)
class Sampler:
    """Chooses the targets of each epoch, as a function of seed and epoch alone, for any number of processes.

    Attributes:
        targets: All labelled targets.
        weights: (labels,) weights from `class_weights`.
        resampled: Whether targets are drawn by these weights; else each is asked about once and its loss is weighted.
        seed: Seed of the run.
    """

    targets: Targets
    weights: Floats
    resampled: bool
    seed: int

    @property
    def prior(self) -> tuple[float, ...]:
        """Expected label distribution that the loss sees, in label order; it sums to 1."""
        mass = self.targets.counts * self.weights
        return tuple((mass / mass.sum()).tolist())

    def asked(self, epoch: int) -> Asked:
        """Positions of the targets in each scene with their weights; a scene without any has an empty entry.

        The weight is the number of times the target was drawn, or the weight of its class if targets are not drawn.
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
        counts: (labels,) number n of targets of each label; at least one is not 0.
        scheme: `none` weights all equally, `inverse_frequency` by 1 / n, `square_root` by 1 / sqrt(n),
            `effective_number` by (1 - beta) / (1 - beta^n), see Cui et al., "Class-Balanced Loss Based on Effective
            Number of Samples", CVPR 2019.
        beta: Parameter of `effective_number`, between 0 (all equal) and 1 (inverse frequency), both excluded.
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
    """Return (targets,) how often each target is drawn in an epoch: its weight in expectation, T draws for T targets.

    Draws are systematic. Targets are intervals on a line, each as long as its weight, those of a class next to each
    other in random order; evenly spaced points with a random offset select them. So a target of weight 1.3 is drawn
    once or twice, and the number of draws of each class differs from the scheme's by less than one. Independent draws
    would leave out more than a third of the targets in an epoch even at equal weights. See W. G. Madow, "On the Theory
    of Systematic Sampling, II", Ann. Math. Statist. 20 (1949).

    Args:
        weights: (targets,) weights up to a common factor, equal within a class, not negative, at least one above 0.
        label: (targets,) class of each target.
        seed: Seed of the run, not negative.
        epoch: Number of the epoch, from 0.
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
