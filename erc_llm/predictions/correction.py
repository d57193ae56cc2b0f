"""Correction of label scores: applies a prior shift, a calibration and a decision rule to raw log-likelihoods.

Live sessions and batches use the same two methods. A table's `log_likelihoods` always stay raw, so that every step can
be undone.

Input: log-likelihoods (..., labels) and a `Correction`, given or read from a table's metadata. Output: probabilities,
label decisions, or a corrected table.
Does not depend on: how a correction is fitted, models, runs, gold labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from erc_llm.errors import PredictionsError
from erc_llm.metrics import Floats, Integers
from erc_llm.predictions.info import PredictionsInfo
from erc_llm.predictions.table import Predictions

Rule = Literal["weighted_f1", "macro_f1", "weights"]
Way = Literal["inductive", "transductive"]
CORPUS_PRIOR = "corpus"  # name of the prior that was counted in train; any other name means that a user gave the prior
MOST_PROBABLE = "the most probable label"
CORRECTED = "corrected"  # by a prior or a calibration


@dataclass(frozen=True, slots=True)
class PriorShift:
    """Shift from the label distribution of the training loss to the wanted one.

    With p(x | y) unchanged, p'(y | x) is proportional to p(y | x) p'(y) / p(y): M. Saerens, P. Latinne and
    C. Decaestecker, "Adjusting the Outputs of a Classifier to New a Priori Probabilities: A Simple Procedure",
    Neural Computation 14 (2002) 21-41.

    Attributes:
        name: Origin of the wanted label distribution: `corpus` for that of train, another word otherwise.
        training: (labels,) label distribution of the training loss.
        wanted: (labels,) label distribution to correct predictions to.
    """

    name: str
    training: tuple[float, ...]
    wanted: tuple[float, ...]

    @property
    def log_ratio(self) -> Floats:
        """(labels,) ln wanted - ln training, in nats.

        Minus infinity where the wanted probability is 0: the corrected probability becomes 0, even for a label that
        training never saw. 0 where training never saw a label that is wanted: there is no training prior to divide by,
        so the label keeps its log-likelihood. Also 0 where both training and the prior `corpus` have probability 0: a
        label that is absent from the corpus is still possible.
        """
        training, wanted = np.array(self.training), np.array(self.wanted)
        with np.errstate(divide="ignore"):
            ratio = np.log(wanted) - np.log(np.where(training > 0, training, 1.0))
        kept = (training == 0) & ((wanted > 0) | (self.name == CORPUS_PRIOR))
        return np.where(kept, 0.0, ratio)

    @property
    def changes(self) -> bool:
        """Whether it changes scores; rounding does not count, so that they stay bit-identical."""
        return not np.allclose(self.log_ratio, 0, rtol=0, atol=1e-9)

    @property
    def words(self) -> str:
        """Description for the user, stored in `PredictionsInfo.prior`."""
        return f"{self.name}: each log-likelihood + ln(share in prior_shares / share in training_prior)"


def corpus_shift(training: tuple[float, ...] | None, corpus: tuple[float, ...] | None) -> PriorShift | None:
    """The shift from the label distribution of the training loss back to that of train.

    None if it changes nothing, because training did not balance the classes, or if a distribution is not known.
    """
    if training is None or corpus is None:
        return None
    shift = PriorShift(CORPUS_PRIOR, training, corpus)
    return shift if shift.changes else None


@dataclass(frozen=True, slots=True)
class Scaling:
    """A calibration: divides the scores by a temperature, then adds an offset per label.

    Temperature scaling: C. Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017).

    Attributes:
        temperature: Divisor of the scores, above 0; 1 changes nothing.
        offsets: (labels,) in nats; only their differences matter.
        words: Origin of the calibration, for the user.
    """

    temperature: float
    offsets: tuple[float, ...]
    words: str = "given"


@dataclass(frozen=True, slots=True)
class Mixing:
    """Interpolation with the labels of neighbours: (1 - weight) p + weight q, with q their label distribution.

    U. Khandelwal et al., "Generalization through Memorization: Nearest Neighbor Language Models" (ICLR 2020).

    Attributes:
        weight: Weight of the neighbours, from 0 to 1.
        words: Origin of the neighbours and of the weight, for the user.
    """

    weight: float
    words: str = "given"


def decide(probabilities: Floats, gains: Sequence[float] | Floats, costs: Sequence[float] | Floats) -> Integers:
    """(...) label indices argmax_k(gains_k p_k - costs_k) of distributions (..., labels); the first of equal ones."""
    decided: Integers = (probabilities * np.asarray(gains) - np.asarray(costs)).argmax(axis=-1)
    return decided


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision rule: the predicted label is argmax_k(gains_k p_k - costs_k).

    Attributes:
        rule: The metric that it maximises in expectation; `weights`: factors that were fitted with gold labels.
        way: `inductive`: found on other distributions than those it decides; `transductive`: found on the very table
            that it decides, so that an answer depends on the other rows.
        gains: (labels,) factors of the probabilities, at least 0.
        costs: (labels,) subtracted from the products.
        table_sha256: Hash of the table that it was found on; None if unknown.
    """

    rule: Rule
    way: Way
    gains: tuple[float, ...]
    costs: tuple[float, ...]
    table_sha256: str | None = None

    def decide(self, probabilities: Floats) -> Integers:
        """(...) index of the predicted label of (..., labels) probabilities."""
        return decide(probabilities, self.gains, self.costs)

    @property
    def step(self) -> str:
        """Name among the steps of a correction."""
        if self.rule == "weights":
            return "decision weights"
        return f"{self.rule}, on itself" if self.way == "transductive" else f"decision: {self.rule}"

    @property
    def words(self) -> str:
        """Description for the user."""
        best = "fitted weights" if self.rule == "weights" else f"the label that is best for {_METRICS[self.rule]}"
        where = "this table itself" if self.way == "transductive" else "other data"
        return f"{best}, by a rule found on {where} ({self.way})"


_METRICS = {"weighted_f1": "weighted F1", "macro_f1": "macro F1"}


@dataclass(frozen=True, slots=True)
class Correction:
    """Steps applied to raw scores: prior, calibration, neighbours, decision rule; without one, scores are normalised.

    Attributes:
        prior: Prior shift.
        scaling: Calibration, fitted on scores after the prior shift.
        decision: Decision rule, on the probabilities after all other steps, which it does not change; None for the most
            probable label.
        mixing: Interpolation of the calibrated probabilities with the labels of neighbours.
    """

    prior: PriorShift | None = None
    scaling: Scaling | None = None
    decision: Decision | None = None
    mixing: Mixing | None = None

    def probabilities(self, log_likelihoods: Floats, neighbours: Floats | None = None) -> Floats:
        """Corrected probabilities of (..., labels) raw log-likelihoods; the last axis sums to 1.

        Args:
            log_likelihoods: Raw scores.
            neighbours: Label distributions of the neighbours, of the same shape; needed for `mixing`.

        Raises:
            PredictionsError: In some row, every label that the prior allows has likelihood 0; or there are no
                neighbours to mix with.
        """
        scores = log_likelihoods
        if self.prior is not None:
            scores = scores + self.prior.log_ratio
        if self.scaling is not None:
            scores = scores / self.scaling.temperature + np.array(self.scaling.offsets)
        probabilities = normalise(scores)
        return probabilities if self.mixing is None else mix(probabilities, neighbours, self.mixing.weight)

    def decide(self, probabilities: Floats) -> Integers:
        """(...) index of the predicted label, from (..., labels) corrected probabilities."""
        if self.decision is not None:
            return self.decision.decide(probabilities)
        decided: Integers = probabilities.argmax(axis=-1)
        return decided

    @property
    def steps(self) -> tuple[tuple[str, Correction], ...]:
        """(name, cumulative correction) of `raw` and of each step."""
        found = [("raw", Correction())]
        if self.prior is not None:
            found.append((f"prior: {self.prior.name}", Correction(self.prior)))
        if self.scaling is not None:
            found.append(("calibration", Correction(self.prior, self.scaling)))
        if self.mixing is not None:
            found.append(("neighbours", replace(self, decision=None)))
        if self.decision is not None:
            found.append((self.decision.step, self))
        return tuple(found)

    @property
    def metadata(self) -> dict[str, Any]:
        """The fields of `PredictionsInfo` that describe the correction; `of` is the inverse."""
        fields: dict[str, Any] = {
            "prior": self.prior and self.prior.words,
            "prior_shares": self.prior and self.prior.wanted,
            "calibration": self.scaling and self.scaling.words,
            "temperature": self.scaling and self.scaling.temperature,
            "offsets": self.scaling and self.scaling.offsets,
            "decision": self.decision and self.decision.rule,
            "decision_way": self.decision and self.decision.way,
            "decision_table": self.decision and self.decision.table_sha256,
            "decision_weights": self.decision and self.decision.gains,
            "decision_costs": self.decision and self.decision.costs,
            "neighbours_weight": self.mixing and self.mixing.weight,
        }
        return fields if self.prior is None else fields | {"training_prior": self.prior.training}

    @classmethod
    def of(cls, info: PredictionsInfo) -> Correction:
        """The correction that a table's metadata describes."""
        prior = scaling = decision = None
        if info.prior_shares is not None and info.training_prior is not None:
            name = (info.prior or "given").partition(":")[0]
            prior = PriorShift(name, info.training_prior, info.prior_shares)
        if info.temperature is not None:
            offsets = info.offsets or (0.0,) * len(info.labels)
            scaling = Scaling(info.temperature, offsets, info.calibration or "given")
        if (gains := info.decision_weights) is not None:
            costs, rule = info.decision_costs or (0.0,) * len(gains), info.decision or "weights"  # in older tables
            way: Way = "transductive" if info.decision_way == "transductive" else "inductive"
            decision = Decision(rule, way, gains, costs, info.decision_table)
        mixing = None if info.neighbours_weight is None else Mixing(info.neighbours_weight, info.neighbours or "given")
        return cls(prior, scaling, decision, mixing)

    @property
    def calibrated(self) -> bool:
        """Whether a step was fitted with labels, or a rule found, on held-out data of train."""
        found_there = self.decision is not None and self.decision.way == "inductive"
        return self.scaling is not None or self.mixing is not None or found_there


def answers_in_words(info: PredictionsInfo) -> str:
    """How the answers of a table were chosen."""
    if (decision := Correction.of(info).decision) is not None:
        return decision.words
    if info.decision in _METRICS:
        return (
            f"the label that is best for {_METRICS[info.decision]}, by rules found on the rest of train (cross-fitted)"
        )
    return info.decoding or MOST_PROBABLE


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


def mix(probabilities: Floats, neighbours: Floats | None, weight: float) -> Floats:
    """(..., labels) probabilities interpolated with those of neighbours: (1 - weight) p + weight q.

    Raises:
        PredictionsError: There are no neighbours, or a row has none.
    """
    if neighbours is None or np.isnan(neighbours).any():
        raise PredictionsError(
            "the neighbours of some targets are not known, and the correction mixes their labels in; predict again"
        )
    mixed: Floats = (1 - weight) * probabilities + weight * neighbours
    return mixed


def scored_rows(table: Predictions) -> NDArray[np.bool_]:
    """(rows,) whether the row has a log-likelihood for every label."""
    if table.log_likelihoods is None:
        return np.zeros(len(table), dtype=np.bool_)
    known: NDArray[np.bool_] = np.logical_not(np.isnan(table.log_likelihoods).any(axis=1))
    return known


def correct(table: Predictions, correction: Correction) -> Predictions:
    """The table with corrected probabilities and predicted labels, and metadata that describes the correction.

    Starts from the raw log-likelihoods, so an earlier correction is replaced. Rows without log-likelihoods stay
    unchanged. If neither the table nor `correction` has a step, the same object is returned. A decision rule alone also
    applies to uncorrected probabilities, of a table without log-likelihoods.

    Raises:
        PredictionsError: The table has no log-likelihoods for a prior or calibration to correct, no probabilities for a
            rule to decide by, or another number of labels; or it states other neighbours than those to mix in.
    """
    before = Correction.of(table.info)
    if correction == Correction() == before:
        return table
    if correction.mixing is not None and table.info.neighbours != correction.mixing.words:
        raise PredictionsError(
            f"the table states {table.info.neighbours or 'no neighbours'}, and the correction mixes in the "
            f"{correction.mixing.words}; predict the table again, or leave the calibration out (--calibration none)"
        )
    info = replace(table.info, **correction.metadata)
    if table.log_likelihoods is None:
        if any(step is not None for of in (before, correction) for step in (of.prior, of.scaling, of.mixing)):
            raise PredictionsError("the table has no log-likelihoods; a prior or calibration can only correct those")
        return _decide_again(table, info, correction)
    rows = np.flatnonzero(scored_rows(table))
    probabilities = np.full(table.log_likelihoods.shape, np.nan)
    if table.probabilities is not None:
        probabilities[:] = table.probabilities
    neighbours = None if table.neighbours is None else table.neighbours[rows]
    probabilities[rows] = correction.probabilities(table.log_likelihoods[rows], neighbours)
    probabilities.setflags(write=False)
    return _decided(replace(table, probabilities=probabilities), info, rows, correction)


def _decide_again(table: Predictions, info: PredictionsInfo, correction: Correction) -> Predictions:
    """Other answers for the same probabilities."""
    if table.probabilities is None:
        raise PredictionsError("the table has no probabilities, which a decision rule decides by")
    return _decided(table, info, np.flatnonzero(~np.isnan(table.probabilities).any(axis=1)), correction)


def _decided(table: Predictions, info: PredictionsInfo, rows: Integers, correction: Correction) -> Predictions:
    """The table with other metadata, and with the correction's answers in these rows."""
    assert table.probabilities is not None, "the caller has checked that there are some"
    predicted = np.array(table.predicted, dtype=object)
    predicted[rows] = np.array(info.labels, dtype=object)[correction.decide(table.probabilities[rows])]
    return replace(table, info=info, predicted=tuple(predicted.tolist()))


def shares_of(given: Sequence[float], n_labels: int) -> tuple[float, ...]:
    """Normalise a label distribution that the user gave.

    Raises:
        PredictionsError: The number of values differs from the number of labels, a value is negative, or the sum
            differs from 1 by more than 0.01.
    """
    shares = np.array(given, dtype=np.float64)
    if shares.shape != (n_labels,):
        raise PredictionsError(f"prior: expected {n_labels} shares, one per label, found {len(given)}")
    if not np.isfinite(shares).all() or (shares < 0).any():
        raise PredictionsError(f"prior: expected shares of at least 0, found {list(given)}")
    if abs(shares.sum() - 1) > 0.01:
        raise PredictionsError(f"prior: expected shares that sum to 1 (to 0.01), found a sum of {shares.sum():.6g}")
    return tuple((shares / shares.sum()).tolist())
