"""The record of a fitted calibration: what it corrects, how it was selected, and its metrics on held-out dialogues.

Input: fitted values. Output: a `Calibration`, which is stored with a run, and the `Correction` that it stands for.
Does not depend on: how a calibration is fitted, files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from erc_llm.predictions import Correction, Decision, Mixing, PriorShift, Scaling

Kind = Literal["identity", "temperature", "offsets"]
Goal = Literal["nll", "weighted_f1"]
Units = Literal["dialogues", "episodes"]
F1Decide = Literal["probable", "weighted_f1", "macro_f1"]
Decide = Literal[F1Decide, "weights"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One candidate: the kind of calibration, its regularisation strength, and its held-out NLL in nats."""

    kind: Kind
    strength: float | None
    nll: float


@dataclass(frozen=True, slots=True)
class DecisionCandidate:
    """Regularisation strength of candidate decision weights (None: no weights), and their held-out weighted F1."""

    strength: float | None
    weighted_f1: float


@dataclass(frozen=True, slots=True)
class NeighbourCandidate:
    """Number of neighbours and temperature of a candidate, and its held-out NLL in nats."""

    k: int
    temperature: float
    nll: float


@dataclass(frozen=True, slots=True)
class StoredNeighbours:
    """The neighbours whose labels are mixed into the calibrated probabilities, see `erc_llm.retrieval.index`.

    Attributes:
        encoder: `words`, or the name of the encoder.
        index_sha256: Hash of the index's file.
        lines: Number of lines in the index.
        k: Number of neighbours.
        temperature: Temperature of their weights, in units of cosine similarity.
        weight: Weight of their labels in the probabilities, 0 to 1.
    """

    encoder: str
    index_sha256: str
    lines: int
    k: int
    temperature: float
    weight: float

    @property
    def words(self) -> str:
        """Description for the user."""
        return (
            f"labels of the {self.k} nearest of {self.lines} lines of train ({self.encoder}, temperature "
            f"{self.temperature:g}, index {self.index_sha256[:12]})"
        )


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Metrics on held-out dialogues: fractions between 0 and 1, and `nll` in nats."""

    weighted_f1: float
    macro_f1: float
    nll: float
    calibration_error: float
    accuracy: float | None = None  # None in files of older versions


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """A decision rule on the calibrated probabilities, and its metrics on held-out dialogues."""

    decision: Decision
    held_out: HeldOut


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted calibration and how it was selected.

    Attributes:
        labels: Label names; the order of all lists over labels.
        prior: Prior shift that the calibration was fitted on top of; None: raw scores.
        kind: Kind of calibration that cross-validation selected.
        strength: Its regularisation strength; None for `identity`.
        temperature: Divisor of the scores.
        offsets: (labels,) in nats, added to the divided scores.
        fit_for: Goal of the fit; for `weighted_f1`, decision weights were candidates too.
        decision_strength: Regularisation strength of the decision weights; None if none were selected.
        targets: Number of targets in the fit.
        dialogues: Number of the dialogues, or episodes, that the folds consist of.
        folds: Number of cross-validation folds.
        seed: Seed of the assignment to folds.
        table_sha256: Hash of the data of the fit, see `table_hash`.
        before: Metrics without the calibration.
        after: Metrics with it on held-out dialogues; slightly optimistic, because the same folds served for selection.
        candidates: All candidates.
        decision_candidates: All candidates for decision weights.
        decisions: The decision rules for weighted and for macro F1, and the decision weights if some were selected.
        split: The split of the table: `selection`, or `train` if it is cross-fitted.
        units: What a fold consists of: whole dialogues or, on a cross-fitted table, whole episodes.
        decide: Name of the rule that predictions use unless another one is asked for; None: they use no calibration
            and no rule unless asked for.
        neighbours: The neighbours that are mixed in; None for none.
        neighbour_candidates: All candidates for them.
    """

    labels: tuple[str, ...]
    prior: PriorShift | None
    kind: Kind
    strength: float | None
    temperature: float
    offsets: tuple[float, ...]
    fit_for: Goal
    decision_strength: float | None
    targets: int
    dialogues: int
    folds: int
    seed: int
    table_sha256: str
    before: HeldOut
    after: HeldOut
    candidates: tuple[Candidate, ...]
    decision_candidates: tuple[DecisionCandidate, ...]
    decisions: tuple[StoredDecision, ...] = ()
    split: str = "selection"
    units: Units = "dialogues"
    decide: Decide | None = None
    neighbours: StoredNeighbours | None = None
    neighbour_candidates: tuple[NeighbourCandidate, ...] = ()

    def correction(self, decide: Decide = "probable") -> Correction:
        """The correction of raw scores: the prior shift, the calibration, the neighbours and a decision rule.

        Raises:
            KeyError: The calibration has no such rule.
        """
        rules: dict[Decide, Decision | None] = {"probable": None}
        rules |= {stored.decision.rule: stored.decision for stored in self.decisions}
        mixing = None if self.neighbours is None else Mixing(self.neighbours.weight, self.neighbours.words)
        return Correction(self.prior, Scaling(self.temperature, self.offsets, self.words), rules[decide], mixing)

    def held_out(self, decide: Decide) -> HeldOut | None:
        """Metrics of a rule on held-out dialogues; None if there is no such rule."""
        rules: dict[Decide, HeldOut] = {"probable": self.after}
        rules |= {stored.decision.rule: stored.held_out for stored in self.decisions}
        return rules.get(decide)

    @property
    def words(self) -> str:
        """Description for the user."""
        what = {
            "identity": "identity, which cross-validation preferred to any calibration",
            "temperature": f"temperature {self.temperature:.4g}",
            "offsets": f"temperature {self.temperature:.4g} and an offset for each label",
        }[self.kind]
        return (
            f"{what}; fitted on {self.targets} targets of {self.where} (table {self.table_sha256[:12]}), "
            f"chosen by {self.folds} folds over {self.units}"
        )

    @property
    def where(self) -> str:
        """The part of train that it was fitted on, in words."""
        return "cross-fitted train" if self.split == "train" else "the selection split"
