"""The predictions table in memory, checked when it is built."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from erc_llm.corpus.dialogues import Dialogue
from erc_llm.corpus.speakers import GENERIC_NAMES
from erc_llm.errors import PredictionsError
from erc_llm.predictions.columns import KINDS, NullableTexts, Texts, column, plain
from erc_llm.predictions.corpus_columns import corpus_columns, history_lengths

FORMAT_VERSION = 1
REQUIRED = ("dialogue_id", "utterance_id", "predicted")
LABELS_ONLY = "constrained generation"  # the decoding whose text can be nothing but a label
_TOLERANCE = 1e-3  # of the sum of probabilities


@dataclass(frozen=True)
class Prediction:
    """What a system said about one target.

    Attributes:
        predicted: A label name; None only for an invalid answer.
        invalid: The answer was no label; it counts as wrong whatever `predicted` falls back to.
        raw_answer: What a generating model wrote.
        log_likelihoods: ln p(label and its end tokens) for each label; None where the system has none.
        probabilities: Normalised over the labels; None where the system has none.
        label_mass: Total probability of the labels among all answers, before normalisation.
    """

    predicted: str | None
    invalid: bool = False
    raw_answer: str | None = None
    log_likelihoods: Sequence[float] | None = None
    probabilities: Sequence[float] | None = None
    label_mass: float | None = None


@dataclass(frozen=True, kw_only=True)
class PredictionsInfo:
    """Where a table comes from; stored with it.

    Attributes:
        system: Name of what answered, for people; such as `smollm2-135m` or `all-Neutral`.
        labels: Label names; the order of the lists `log_likelihoods` and `probabilities`.
        corpus_sha256: Hash of the corpus's content; with dialogue and utterance id the key of a row.
        corpus_name: What the user calls the corpus.
        corpus_version: `original`, `aligned`, `compm` or `own`.
        split: The split the rows are from.
        selection: The split on which the best epoch and anything else was chosen; `none` where nothing was chosen, None
            if unknown.
        healed: Whether the corpus was gap-healed.
        run_id: The training run, if there was one.
        seed: Of the run.
        context: `past`, `full`, or None for a system that reads no dialogue.
        template_sha256: Hash of the prompt template.
        base_model: Name of the base model.
        base_model_sha256: Hash of its weights.
        config_sha256: Hash of the run's resolved configuration.
        recipe_sha256: The same without the seed, equal for runs that differ in their seed only; None if unknown.
        train_sha256: Hash of train, selection split included, in the corpus of the rows; None if unknown.
        trained_on_version: Version of the corpus that the run was trained on; None without a run, or if unknown.
        trained_on_sha256: Hash of train in that corpus, as `train_sha256`.
        profile: Kind of speaker profile in the prompt; `none` without.
        retrieval: Source of retrieved evidence; `none` without.
        prior: Prior applied to the label distribution, in words; None if none was.
        prior_shares: Its share of each label, in the order of `labels`; the shares taken back are `training_prior`.
        calibration: Calibration applied on top, in words; None if none was.
        temperature: Of the calibration: by which scores are divided; above 0.
        offsets: Of the calibration: nats added to each label's divided score, in the order of `labels`.
        decision_weights: By which probabilities are multiplied to choose `predicted` (not stored so), each above 0.
        abstain_below: Rows whose largest probability is below it count as not answered; None without a threshold.
        invalid_policy: What happens to answers that are no label, in words; None if unknown.
        decoding: How answers were found, in words; None for the most probable label of one prompt.
        train_shares: Share of each label in train, in the order of `labels`; what a prior-random reference draws from.
        training_prior: Share of each label in what the run's loss saw, in the order of `labels`; None if unknown.
        created_with: Package name to version.
        format_version: Of the table.
    """

    system: str
    labels: Texts
    corpus_sha256: str
    corpus_name: str
    corpus_version: str
    split: str
    selection: str | None = None
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
    profile: str = "none"
    retrieval: str = "none"
    prior: str | None = None
    prior_shares: tuple[float, ...] | None = None
    calibration: str | None = None
    temperature: float | None = None
    offsets: tuple[float, ...] | None = None
    decision_weights: tuple[float, ...] | None = None
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
        for name in ("train_shares", "training_prior", "prior_shares", "offsets", "decision_weights"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.labels):
                what = "shares" if name in ("train_shares", "training_prior") else "numbers"
                raise PredictionsError(f"{name}: expected {len(self.labels)} {what}, found {len(values)}")
        _check_correction(self)

    def as_dict(self) -> dict[str, Any]:
        """The metadata as plain values that JSON can hold."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: dict(v) if isinstance(v, Mapping) else v for name, v in values.items()}


@dataclass(frozen=True, eq=False)
class Predictions:
    """One row per target; columns of equal length, None where the table lacks an optional one.

    Build it with `from_corpus` or `from_columns`. Lists are in the order of `info.labels`; arrays are read-only.

    Attributes:
        info: Where the table comes from.
        dialogue_id: Scene of the target.
        utterance_id: The target within its scene.
        predicted: Label name; None only where invalid.
        position: Index of the utterance in its dialogue, from 0.
        episode: Name of the episode.
        scene_order: Index of the dialogue in its split, from 0.
        speakers: Global identities of who speaks.
        text: What was said.
        gold: Gold label.
        previous_gold_same_speaker: Gold label of the first speaker's previous utterance in this dialogue.
        history_length: Lines of the first speaker in strictly earlier dialogues of the whole corpus.
        first_seen: Whether `history_length` is 0.
        invalid: Whether the answer was no label.
        raw_answer: What a generating model wrote.
        log_likelihoods: (rows, labels) in nats; a row of NaN where a system has none.
        probabilities: (rows, labels), rows sum to 1; a row of NaN where a system has none.
        label_mass: (rows,) total probability of the labels before normalisation; NaN where unknown.
    """

    info: PredictionsInfo
    dialogue_id: Texts
    utterance_id: Texts
    predicted: NullableTexts
    position: NDArray[np.int64] | None = None
    episode: NullableTexts | None = None
    scene_order: NDArray[np.int64] | None = None
    speakers: tuple[Texts, ...] | None = None
    text: Texts | None = None
    gold: NullableTexts | None = None
    previous_gold_same_speaker: NullableTexts | None = None
    history_length: NDArray[np.int64] | None = None
    first_seen: NDArray[np.bool_] | None = None
    invalid: NDArray[np.bool_] | None = None
    raw_answer: NullableTexts | None = None
    log_likelihoods: NDArray[np.float64] | None = None
    probabilities: NDArray[np.float64] | None = None
    label_mass: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        _check_lengths(self)
        _check_keys(self)
        _check_labels(self)
        _check_distributions(self)

    def __len__(self) -> int:
        return len(self.dialogue_id)

    @property
    def missing(self) -> Texts:
        """Names of the optional columns this table lacks."""
        return tuple(name for name in KINDS if getattr(self, name) is None)

    @property
    def keys(self) -> tuple[tuple[str, str], ...]:
        """(dialogue id, utterance id) of each row."""
        return tuple(zip(self.dialogue_id, self.utterance_id, strict=True))

    @cached_property
    def gold_index(self) -> NDArray[np.int64]:
        """(rows,) index of the gold label, -1 where there is none."""
        return self._indices(self.gold or (None,) * len(self))

    @cached_property
    def predicted_index(self) -> NDArray[np.int64]:
        """(rows,) index of the predicted label, -1 where the answer is invalid."""
        indices = self._indices(self.predicted)
        return indices if self.invalid is None else np.where(self.invalid, -1, indices)

    def abstained(self, below: float | None = None) -> NDArray[np.bool_]:
        """(rows,) whether the largest probability is below a threshold, by default the table's own.

        Without a threshold no row abstains, nor does a row without probabilities. `predicted` is there all the same.
        """
        below = self.info.abstain_below if below is None else below
        if below is None or self.probabilities is None:
            return np.zeros(len(self), dtype=np.bool_)
        abstained: NDArray[np.bool_] = self.probabilities.max(axis=1) < below
        return abstained

    @cached_property
    def dialogue_index(self) -> NDArray[np.int64]:
        """(rows,) number of the row's dialogue, in order of appearance."""
        order = {name: i for i, name in enumerate(dict.fromkeys(self.dialogue_id))}
        return np.array([order[name] for name in self.dialogue_id], dtype=np.int64)

    def _indices(self, names: NullableTexts) -> NDArray[np.int64]:
        order: dict[str | None, int] = {name: i for i, name in enumerate(self.info.labels)}
        return np.array([order.get(name, -1) for name in names], dtype=np.int64)

    def columns(self) -> dict[str, list[Any]]:
        """The columns it has, as lists of plain values with None for null; `from_columns` takes them back."""
        present = {name: getattr(self, name) for name in KINDS}
        return {name: plain(KINDS[name], values) for name, values in present.items() if values is not None}

    @classmethod
    def from_columns(cls, info: PredictionsInfo, columns: Mapping[str, Sequence[Any] | None]) -> Predictions:
        """Build a table from plain columns; unknown names are ignored, a column of nothing but None is missing.

        Raises:
            PredictionsError: A required column is missing, or a value breaks the rules of its column.
        """
        lacking = [name for name in REQUIRED if columns.get(name) is None]
        if lacking:
            raise PredictionsError(f"no column {', '.join(lacking)}; every table needs {', '.join(REQUIRED)}")
        built: dict[str, Any] = {}
        for name in KINDS:
            values = columns.get(name)
            if values is None or (name not in REQUIRED and all(v is None for v in values)):
                continue
            built[name] = column(name, values, len(info.labels))
        return cls(info, **built)

    @classmethod
    def from_corpus(
        cls,
        info: PredictionsInfo,
        dialogues: Sequence[Dialogue],
        predictions: Iterable[Prediction],
        history: Iterable[Dialogue] | None = None,
        generic: Collection[str] = GENERIC_NAMES,
    ) -> Predictions:
        """Put a system's predictions beside what the corpus knows about their targets.

        Args:
            info: Where the table comes from.
            dialogues: Those that were predicted, in split order; it is the order of the rows.
            predictions: One for every target, in the order of `dialogues` and of the targets in each.
            history: All dialogues of the whole corpus, from which `history_length` and `first_seen` are counted;
                without it these two columns are missing.
            generic: Names that stand for somebody else in every episode; give `corpus.generic`.

        Raises:
            PredictionsError: More or fewer predictions than targets, or a value that breaks a rule.
        """
        spoken = None if history is None else history_lengths(history, generic)
        rows = [
            corpus_columns(dialogue, position, order, spoken)
            for order, dialogue in enumerate(dialogues)
            for position in dialogue.targets
        ]
        given = list(predictions)
        if len(given) != len(rows):
            raise PredictionsError(
                f"expected one prediction for each of the {len(rows)} targets of these dialogues, found {len(given)}"
            )
        for row, prediction in zip(rows, given, strict=True):
            row |= {f.name: getattr(prediction, f.name) for f in fields(Prediction)}
        return cls.from_columns(info, {name: [row[name] for row in rows] for name in KINDS})

    def without_text(self) -> Predictions:
        """The table without what was said: its lines, and raw answers that may quote them.

        Raw answers stay only where generation was constrained to the labels; free text, and reasons before a label, may
        quote the prompt.
        """
        only_labels = self.info.decoding == LABELS_ONLY
        if self.text is None and (self.raw_answer is None or only_labels):
            return self
        return replace(self, text=None, raw_answer=self.raw_answer if only_labels else None)


def _check_correction(info: PredictionsInfo) -> None:
    """What a table says was done to its scores must be something that can be recomputed."""
    if info.prior_shares is not None and info.training_prior is None:
        raise PredictionsError("prior_shares: without training_prior nobody can tell what was corrected")
    if info.temperature is not None and not 0 < info.temperature < np.inf:
        raise PredictionsError(f"temperature: expected a number above 0, found {info.temperature}")
    if info.offsets is not None and not np.isfinite(info.offsets).all():
        raise PredictionsError(f"offsets: expected finite numbers, found {list(info.offsets)}")
    weights = np.array(info.decision_weights or (1.0,))
    if not (np.isfinite(weights) & (weights > 0)).all():
        raise PredictionsError(f"decision_weights: expected numbers above 0, found {weights.tolist()}")
    for name in ("training_prior", "prior_shares"):
        shares = np.array(getattr(info, name) or (0.0,))
        if not (np.isfinite(shares) & (shares >= 0)).all():
            raise PredictionsError(f"{name}: expected shares of at least 0, found {shares.tolist()}")
    if info.abstain_below is not None and not 0 <= info.abstain_below <= 1:
        raise PredictionsError(f"abstain_below: expected a probability between 0 and 1, found {info.abstain_below}")


def _check_lengths(table: Predictions) -> None:
    for name in KINDS:
        values = getattr(table, name)
        if values is not None and len(values) != len(table.dialogue_id):
            raise PredictionsError(f"column '{name}' has {len(values)} rows, 'dialogue_id' has {len(table)}")


def _check_keys(table: Predictions) -> None:
    if len(set(table.keys)) < len(table):
        key, times = Counter(table.keys).most_common(1)[0]
        raise PredictionsError(f"target {key} stands in {times} rows; a table has one row per target")


def _check_labels(table: Predictions) -> None:
    known = {None, *table.info.labels}
    for name in ("predicted", "gold", "previous_gold_same_speaker"):
        labels = getattr(table, name) or ()
        if known.issuperset(labels):  # a loop over a million rows would take longer than correcting them
            continue
        for i, label in enumerate(labels):
            if label not in known:
                expected = ", ".join(table.info.labels)
                raise PredictionsError(f"column '{name}', row {i + 1}: '{label}' is not among the labels {expected}")
    for i, label in enumerate(table.predicted) if None in table.predicted else ():
        if label is None and not (table.invalid is None or table.invalid[i]):
            raise PredictionsError(f"column 'predicted', row {i + 1}: no label, yet not marked invalid")


def _check_distributions(table: Predictions) -> None:
    shape = (len(table), len(table.info.labels))
    for name in ("log_likelihoods", "probabilities"):
        values = getattr(table, name)
        if values is not None and values.shape != shape:
            raise PredictionsError(f"column '{name}' has shape {values.shape}, expected (rows, labels) = {shape}")
    if table.probabilities is None:
        return
    sums, present = table.probabilities.sum(axis=1), ~np.isnan(table.probabilities).all(axis=1)
    negative = np.any(table.probabilities < 0, axis=1)
    wrong = np.flatnonzero(present & (negative | ~(np.abs(sums - 1) <= _TOLERANCE)))
    if len(wrong):
        i = int(wrong[0])
        found = "a negative value" if negative[i] else f"a sum of {sums[i]:.6g}"
        raise PredictionsError(f"column 'probabilities', row {i + 1}: expected values that sum to 1, found {found}")
