"""Metadata of a predictions table: its system, corpus, run and corrections, checked when it is built.

Input: values. Output: a frozen `PredictionsInfo`.
Does not depend on: rows, files, models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from erc_llm.errors import PredictionsError
from erc_llm.predictions.columns import Texts

FORMAT_VERSION = 1
_SHARES = ("train_shares", "training_prior")
OF_TRAIN, LEAK = "of train", "LEAK"  # words of `retrieval` that other modules look for


@dataclass(frozen=True, kw_only=True)
class PredictionsInfo:
    """Metadata of a table: its system, corpus, run and corrections; stored with the table.

    Attributes:
        system: Display name of the system, such as `smollm2-135m` or `all-Neutral`.
        labels: Label names; the order of the lists `log_likelihoods` and `probabilities`.
        corpus_sha256: Hash of the corpus's content; together with dialogue and utterance id the key of a row.
        corpus_name: Name of the corpus.
        corpus_version: `original`, `aligned`, `compm` or `own`.
        split: The split of the rows.
        selection: The split on which the best epoch and everything else was chosen; `none` if nothing was chosen, None
            if unknown.
        folds: Number of folds of a cross-fitting: each row of split `train` is predicted by the one model that did not
            see its episode, a row of another split by all of them; None for a table of one model.
        healed: Whether the corpus was gap-healed.
        run_id: Id of the training run; None without one.
        seed: Seed of the run.
        context: `past`, `full`, or None for a system that reads no dialogue.
        template_sha256: Hash of the prompt template.
        base_model: Name of the base model.
        base_model_sha256: Hash of its weights.
        config_sha256: Hash of the run's resolved configuration.
        recipe_sha256: The same without the seed, equal for runs that differ only in their seed; None if unknown.
        train_sha256: Hash of train, selection split included, in the corpus of the rows; None if unknown.
        trained_on_version: Version of the corpus that the run was trained on; None without a run, or if unknown.
        trained_on_sha256: Hash of train in the corpus that the run was trained on, computed as `train_sha256`.
        started_from: Run and corpus that the training run started from; None if it started from nothing.
        training_precision: Precision of the training run, such as `bfloat16`; None without a run, or if unknown.
        profile: Kind of speaker profile in the prompt; `none` without profiles.
        retrieval: Source of the lines that prompts quote: the similarity for those of profiles; number, encoder, place
            and hash of train for those of train, and the leak of a control; `none` without.
        neighbours: Source of the column `neighbours`; None without it.
        neighbours_weight: Weight of the column `neighbours` in the probabilities, 0 to 1; None if it was not mixed in.
        prior: Description of the prior that predictions were corrected to; None if none was applied.
        prior_shares: Label distribution of that prior, in label order; `training_prior` is the one it replaces.
        calibration: Description of the calibration applied after the prior; None if none was applied.
        temperature: Divisor of the scores in the calibration, above 0.
        offsets: Nats that the calibration adds to each label's divided score, in label order.
        decision: Decision rule by which `predicted` is chosen: `weighted_f1`, `macro_f1`, or `weights` (fitted with
            labels; older tables state only these); None for the most probable label. `probabilities` do not change.
        decision_way: `inductive`: found on other distributions; `transductive`: on those of this table;
            `cross_fitted`: each row by a rule found on other rows of this table, so that it states no weights.
        decision_table: Hash of the rows and raw scores, without gold labels, of the table that the rule was found on.
        decision_weights: Factors of the probabilities when `predicted` is chosen, in label order, at least 0.
        decision_costs: Subtracted from these products, in label order; None for 0.
        abstain_below: Rows whose largest probability is below it count as abstained; None without a threshold.
        invalid_policy: Description of how answers that are not a label are treated; None if unknown.
        decoding: Description of the decoding; None for the most probable label of one prompt.
        train_shares: Label distribution of train, in label order; the prior-random reference draws from it.
        training_prior: Label distribution of what the run's loss was computed on, in label order; None if unknown.
        created_with: Package name to version.
        format_version: Format version of the table.
    """

    system: str
    labels: Texts
    corpus_sha256: str
    corpus_name: str
    corpus_version: str
    split: str
    selection: str | None = None
    folds: int | None = None
    healed: bool = False
    run_id: str | None = None
    seed: int | None = None
    context: Literal["past", "full"] | None = None
    template_sha256: str | None = None
    base_model: str | None = None
    base_model_sha256: str | None = None
    config_sha256: str | None = None
    recipe_sha256: str | None = None
    train_sha256: str | None = None
    trained_on_version: str | None = None
    trained_on_sha256: str | None = None
    started_from: str | None = None
    training_precision: str | None = None
    profile: str = "none"
    retrieval: str = "none"
    neighbours: str | None = None
    neighbours_weight: float | None = None
    prior: str | None = None
    prior_shares: tuple[float, ...] | None = None
    calibration: str | None = None
    temperature: float | None = None
    offsets: tuple[float, ...] | None = None
    decision: Literal["weighted_f1", "macro_f1", "weights"] | None = None
    decision_way: Literal["inductive", "transductive", "cross_fitted"] | None = None
    decision_table: str | None = None
    decision_weights: tuple[float, ...] | None = None
    decision_costs: tuple[float, ...] | None = None
    abstain_below: float | None = None
    invalid_policy: str | None = None
    decoding: str | None = None
    train_shares: tuple[float, ...] | None = None
    training_prior: tuple[float, ...] | None = None
    created_with: Mapping[str, str] = field(default_factory=dict, hash=False)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        object.__setattr__(self, "created_with", MappingProxyType(dict(self.created_with)))
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels) or not all(self.labels):
            raise PredictionsError(f"labels: expected at least two different names, found {list(self.labels)}")
        for name in (*_SHARES, "prior_shares", "offsets", "decision_weights", "decision_costs"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.labels):
                what = "shares" if name in _SHARES else "numbers"
                raise PredictionsError(f"{name}: expected {len(self.labels)} {what}, found {len(values)}")
        _check_correction(self)

    @property
    def decided(self) -> bool:
        """Whether a decision rule chose the answers, not the largest probability."""
        return self.decision is not None or self.decision_weights is not None

    def as_dict(self) -> dict[str, Any]:
        """The metadata as JSON-compatible values."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: dict(v) if isinstance(v, Mapping) else v for name, v in values.items()}


def _check_correction(info: PredictionsInfo) -> None:
    """Check that the correction described by the metadata can be recomputed."""
    if info.prior_shares is not None and info.training_prior is None:
        raise PredictionsError("prior_shares: without training_prior, the correction cannot be recomputed")
    if info.temperature is not None and not 0 < info.temperature < np.inf:
        raise PredictionsError(f"temperature: expected a number above 0, found {info.temperature}")
    if info.offsets is not None and not np.isfinite(info.offsets).all():
        raise PredictionsError(f"offsets: expected finite numbers, found {list(info.offsets)}")
    if info.neighbours_weight is not None and not 0 <= info.neighbours_weight <= 1:
        raise PredictionsError(f"neighbours_weight: expected a number from 0 to 1, found {info.neighbours_weight}")
    weights = np.array(info.decision_weights or (1.0,))
    if not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
        raise PredictionsError(f"decision_weights: expected numbers of at least 0, not all 0, found {weights.tolist()}")
    if info.decision_costs is not None and not np.isfinite(info.decision_costs).all():
        raise PredictionsError(f"decision_costs: expected finite numbers, found {list(info.decision_costs)}")
    if info.decision is not None and info.decision_weights is None and info.decision_way != "cross_fitted":
        raise PredictionsError("decision: without decision_weights, the answers cannot be recomputed")
    for name in ("training_prior", "prior_shares"):
        shares = np.array(getattr(info, name) or (0.0,))
        if not (np.isfinite(shares) & (shares >= 0)).all():
            raise PredictionsError(f"{name}: expected shares of at least 0, found {shares.tolist()}")
    if info.abstain_below is not None and not 0 <= info.abstain_below <= 1:
        raise PredictionsError(f"abstain_below: expected a probability between 0 and 1, found {info.abstain_below}")
