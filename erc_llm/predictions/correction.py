"""From raw label scores to corrected ones: another prior, a calibration, decision weights. Applied, never fitted.

In: log-likelihoods (..., labels), and a `Correction`, chosen elsewhere or read from a table's metadata. Out:
probabilities, decisions, or a whole table. A live session and a batch go through the same two methods, and a table's
`log_likelihoods` always stay the raw ones, so that every step can be taken back. Knows no model, no run and no gold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from erc_llm.errors import PredictionsError
from erc_llm.predictions.table import Predictions, PredictionsInfo

Floats = NDArray[np.float64]
CORPUS_PRIOR = "corpus"  # name of the prior whose shares were counted; others are somebody's wish


@dataclass(frozen=True, slots=True)
class PriorShift:
    """From the label shares that training saw to those that are wanted.

    With p(x | y) unchanged, p'(y | x) is proportional to p(y | x) p'(y) / p(y): M. Saerens, P. Latinne and
    C. Decaestecker, "Adjusting the Outputs of a Classifier to New a Priori Probabilities: A Simple Procedure",
    Neural Computation 14 (2002) 21-41.

    Attributes:
        name: Where the wanted shares come from: `corpus` for those of train, else another word.
        training: (labels,) shares that training saw.
        wanted: (labels,) shares to answer by.
    """

    name: str
    training: tuple[float, ...]
    wanted: tuple[float, ...]

    @property
    def log_ratio(self) -> Floats:
        """(labels,) ln wanted - ln training, in nats.

        Minus infinity where a label is wanted with share 0: its probability becomes 0, whether training saw it or not.
        0 where training saw nothing of a label that is wanted: there is no share to take back, so it keeps its
        log-likelihood. So does a label that neither training nor the prior `corpus` knows: that it is not in the corpus
        does not say that it cannot be.
        """
        training, wanted = np.array(self.training), np.array(self.wanted)
        with np.errstate(divide="ignore"):
            ratio = np.log(wanted) - np.log(np.where(training > 0, training, 1.0))
        kept = (training == 0) & ((wanted > 0) | (self.name == CORPUS_PRIOR))
        return np.where(kept, 0.0, ratio)

    @property
    def words(self) -> str:
        """What it does, for people."""
        return f"{self.name}: each log-likelihood + ln(share in prior_shares / share in training_prior)"


@dataclass(frozen=True, slots=True)
class Scaling:
    """A calibration: scores are divided by a temperature, then each label's offset is added.

    The temperature is that of C. Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017).

    Attributes:
        temperature: Above 0; 1 changes nothing.
        offsets: (labels,) in nats; only their differences count.
        words: Where it comes from, for people.
    """

    temperature: float
    offsets: tuple[float, ...]
    words: str = "given"


@dataclass(frozen=True, slots=True)
class Correction:
    """What is done to raw scores, in this order; without any step, nothing.

    Attributes:
        prior: Another prior.
        scaling: A calibration, fitted on top of that prior.
        decision_weights: (labels,) above 0: the label answered is the one whose probability times weight is largest.
            Probabilities stay as they are.
    """

    prior: PriorShift | None = None
    scaling: Scaling | None = None
    decision_weights: tuple[float, ...] | None = None

    def probabilities(self, log_likelihoods: Floats) -> Floats:
        """Corrected probabilities of (..., labels) raw log-likelihoods; the last axis sums to 1.

        Raises:
            PredictionsError: Nothing is left of a row, because the labels that the prior allows have likelihood 0.
        """
        scores = log_likelihoods
        if self.prior is not None:
            scores = scores + self.prior.log_ratio
        if self.scaling is not None:
            scores = scores / self.scaling.temperature + np.array(self.scaling.offsets)
        return normalise(scores)

    def decide(self, probabilities: Floats) -> NDArray[np.int64]:
        """(...) index of the label answered, for (..., labels) corrected probabilities."""
        if self.decision_weights is not None:
            probabilities = probabilities * np.array(self.decision_weights)
        decided: NDArray[np.int64] = probabilities.argmax(axis=-1)
        return decided

    @property
    def steps(self) -> tuple[tuple[str, Correction], ...]:
        """(name, correction so far) from `raw` on, one for each step it has."""
        found = [("raw", Correction())]
        if self.prior is not None:
            found.append((f"prior: {self.prior.name}", Correction(self.prior)))
        if self.scaling is not None:
            found.append(("calibration", Correction(self.prior, self.scaling)))
        if self.decision_weights is not None:
            found.append(("decision weights", self))
        return tuple(found)

    @property
    def metadata(self) -> dict[str, Any]:
        """The fields of `PredictionsInfo` that tell of it; `of` takes them back."""
        fields: dict[str, Any] = {
            "prior": self.prior and self.prior.words,
            "prior_shares": self.prior and self.prior.wanted,
            "calibration": self.scaling and self.scaling.words,
            "temperature": self.scaling and self.scaling.temperature,
            "offsets": self.scaling and self.scaling.offsets,
            "decision_weights": self.decision_weights,
        }
        return fields if self.prior is None else fields | {"training_prior": self.prior.training}

    @classmethod
    def of(cls, info: PredictionsInfo) -> Correction:
        """The correction a table's metadata names."""
        prior = scaling = None
        if info.prior_shares is not None and info.training_prior is not None:
            name = (info.prior or "given").partition(":")[0]
            prior = PriorShift(name, info.training_prior, info.prior_shares)
        if info.temperature is not None:
            offsets = info.offsets or (0.0,) * len(info.labels)
            scaling = Scaling(info.temperature, offsets, info.calibration or "given")
        return cls(prior, scaling, info.decision_weights)


def normalise(scores: Floats) -> Floats:
    """exp of (..., labels) scores, divided by its sum over the labels.

    Raises:
        PredictionsError: All scores of a row are minus infinity.
    """
    top = scores.max(axis=-1, keepdims=True)
    if np.isneginf(top).any():
        raise PredictionsError("a target has likelihood 0 for every label that the prior allows; give each a share")
    shifted = np.exp(scores - top)
    normalised: Floats = shifted / shifted.sum(axis=-1, keepdims=True)
    return normalised


def scored_rows(table: Predictions) -> NDArray[np.bool_]:
    """(rows,) which rows have a log-likelihood for every label."""
    if table.log_likelihoods is None:
        return np.zeros(len(table), dtype=np.bool_)
    known: NDArray[np.bool_] = np.logical_not(np.isnan(table.log_likelihoods).any(axis=1))
    return known


def correct(table: Predictions, correction: Correction) -> Predictions:
    """The table with corrected probabilities and answers, and metadata that says so in words and numbers.

    Always starts at the raw log-likelihoods, so an earlier correction is replaced. Rows without log-likelihoods keep
    what they have. A correction without a step gives back the very table, unless that was corrected before.

    Raises:
        PredictionsError: The table has no log-likelihoods, or is of another number of labels.
    """
    if correction == Correction() == Correction.of(table.info):
        return table
    if table.log_likelihoods is None:
        raise PredictionsError("the table has no log-likelihoods, which a prior or calibration would correct")
    info = replace(table.info, **correction.metadata)
    rows = np.flatnonzero(scored_rows(table))
    probabilities = np.full(table.log_likelihoods.shape, np.nan)
    if table.probabilities is not None:
        probabilities[:] = table.probabilities
    probabilities[rows] = correction.probabilities(table.log_likelihoods[rows])
    probabilities.setflags(write=False)
    predicted = np.array(table.predicted, dtype=object)
    predicted[rows] = np.array(info.labels, dtype=object)[correction.decide(probabilities[rows])]
    return replace(table, info=info, probabilities=probabilities, predicted=tuple(predicted.tolist()))


def shares_of(given: Sequence[float], n_labels: int) -> tuple[float, ...]:
    """Label shares that a person gave, divided by their sum.

    Raises:
        PredictionsError: Not one share a label, a negative one, or a sum that is off 1 by more than 0.01.
    """
    shares = np.array(given, dtype=np.float64)
    if shares.shape != (n_labels,):
        raise PredictionsError(f"prior: expected {n_labels} shares, one per label, found {len(given)}")
    if not np.isfinite(shares).all() or (shares < 0).any():
        raise PredictionsError(f"prior: expected shares of at least 0, found {list(given)}")
    if abs(shares.sum() - 1) > 0.01:
        raise PredictionsError(f"prior: expected shares that sum to 1 (to 0.01), found a sum of {shares.sum():.6g}")
    return tuple((shares / shares.sum()).tolist())
