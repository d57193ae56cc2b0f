"""References that need no model, and paired differences between two tables on the same targets.

Input: predictions tables. Output: tables with the same rows and a reference's answers; differences in weighted F1 (over
all labels, Neutral included) with intervals from a paired bootstrap over whole dialogues.
Does not depend on: models, files, the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from erc_llm import metrics
from erc_llm.errors import PredictionsError
from erc_llm.evaluation.matching import NamedTable, match
from erc_llm.metrics import Estimate
from erc_llm.predictions import Predictions, PredictionsInfo

PRIOR_RANDOM = "prior-random"
PERSISTENCE = "persistence"
CONSTANT = "all-"


@dataclass(frozen=True)
class Difference:
    """Weighted F1 of system `a` minus that of system `b`, on the same targets; fractions between -1 and 1.

    Attributes:
        a: Name of the first system.
        b: Name of the second.
        weighted_f1_a: Weighted F1 of the first.
        weighted_f1_b: Weighted F1 of the second.
        estimate: a minus b with the 95 % interval; no interval where all targets are from one dialogue.
        targets: Number of targets with a gold label, on which both are scored.
        dialogues: Number of their dialogues.
        notes: Sentences about other differences between the tables.
        flips: Targets on which the two answer differently; two invalid answers count as the same.
        kappa: Cohen's kappa of the two, 1 for equal answers and 0 for agreement by chance; None where both give one and
            the same answer throughout.
    """

    a: str
    b: str
    weighted_f1_a: float
    weighted_f1_b: float
    estimate: Estimate
    targets: int
    dialogues: int
    notes: tuple[str, ...] = ()
    flips: int = 0
    kappa: float | None = None

    @property
    def agreement(self) -> float:
        """Share of targets on which the two answer alike."""
        return 1 - self.flips / self.targets

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `not shown`, by the side of zero on which the whole interval lies."""
        if self.estimate.low is not None and self.estimate.low > 0:
            return "better"
        if self.estimate.high is not None and self.estimate.high < 0:
            return "worse"
        return "not shown"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"verdict": self.verdict, "agreement": self.agreement}


def constant_reference(predictions: Predictions, label: str) -> Predictions:
    """The same rows, all answered with `label` (case is ignored); the system is called `all-<label>`.

    Raises:
        PredictionsError: The label is not in the table's label set.
    """
    folded = {name.casefold(): name for name in predictions.info.labels}
    name = folded.get(label.strip().casefold())
    if name is None:
        raise PredictionsError(f"'{label}' is not among the labels {', '.join(predictions.info.labels)}")
    return _reference(predictions, CONSTANT + name, (name,) * len(predictions), None)


def prior_random_reference(
    predictions: Predictions, train_shares: Sequence[float] | None = None, seed: int = 0
) -> Predictions:
    """The same rows, each answered with a label drawn by its share in train; the system is called `prior-random`.

    Its probabilities are the shares, so that its log-likelihood is that of knowing the label distribution only.

    Args:
        predictions: The table whose rows are answered.
        train_shares: Shares or counts in train, in the order of `info.labels`; None takes `info.train_shares`.
        seed: Seed of the draw.

    Raises:
        PredictionsError: No shares are known, or they do not fit the labels.
    """
    shares = predictions.info.train_shares if train_shares is None else train_shares
    if shares is None:
        raise PredictionsError("the table does not know the label shares of train, which prior-random draws from")
    weights = np.asarray(shares, dtype=np.float64)
    n = len(predictions.info.labels)
    if weights.shape != (n,) or not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
        raise PredictionsError(f"label shares of train: expected {n} numbers of at least 0, found {list(shares)}")
    weights = weights / weights.sum()
    drawn = np.random.default_rng(seed).choice(n, size=len(predictions), p=weights)
    names = tuple(predictions.info.labels[i] for i in drawn)
    return _reference(predictions, PRIOR_RANDOM, names, np.tile(weights, (len(predictions), 1)), seed)


def persistence_reference(predictions: Predictions) -> Predictions:
    """The same rows, each answered with the gold label of the line before; the system is called `persistence`.

    It is the reference of a forecast, and not of a classifier: it knows the true label of the line before. The first
    labelled line of a dialogue, and one after an unlabelled line, gets the most frequent label of train.

    Raises:
        PredictionsError: The label distribution of train is not known.
    """
    shares = predictions.info.train_shares
    if shares is None:
        raise PredictionsError(
            "the table does not know the label shares of train, of which persistence takes the largest"
        )
    if predictions.position is None or predictions.gold is None:
        raise PredictionsError("the table has no column position or gold, which persistence is read from")
    usual = predictions.info.labels[int(np.argmax(shares))]
    places = list(zip(predictions.dialogue_id, predictions.position.tolist(), strict=True))
    gold = dict(zip(places, predictions.gold, strict=True))
    answers = tuple(gold.get((dialogue, position - 1)) or usual for dialogue, position in places)
    return _reference(predictions, PERSISTENCE, answers, None)


def reference_by_name(predictions: Predictions, name: str, seed: int = 0) -> Predictions | None:
    """The reference called `all-<label>`, `prior-random` or `persistence`; None for any other name, such as a file's.

    Raises:
        PredictionsError: As the functions that build them.
    """
    folded = name.casefold()
    if folded == PRIOR_RANDOM:
        return prior_random_reference(predictions, seed=seed)
    if folded == PERSISTENCE:
        return persistence_reference(predictions)
    if folded in {CONSTANT + label.casefold() for label in predictions.info.labels}:
        return constant_reference(predictions, name[len(CONSTANT) :])
    return None


def difference(a: Predictions, b: Predictions, *, draws: int = 10_000, seed: int = 0) -> Difference:
    """How much better `a` is than `b` in weighted F1 on the same targets, with a paired 95 % interval.

    The rows of `b` may stand in another order and its labels too. Rows without gold are left out.

    Raises:
        PredictionsError: Targets, gold labels or label sets differ, or no row has a gold label.
    """
    names = (f"the table of {table.info.system}" for table in (a, b))
    matched = match([NamedTable(name, table) for name, table in zip(names, (a, b), strict=True)], same_corpus=False)
    gold, dialogue, n = matched.gold, matched.dialogue, len(a.info.labels)
    answers = matched.answers(0), matched.answers(1)
    f1_a, f1_b = (float(metrics.scores_from_confusion(metrics.confusion(gold, p, n)).weighted_f1) for p in answers)
    dialogues = len(np.unique(dialogue))
    if dialogues > 1:
        estimate = metrics.paired_difference(gold, *answers, dialogue, n, draws, seed)
    else:
        estimate = Estimate(f1_a - f1_b)
    return Difference(
        a.info.system,
        b.info.system,
        f1_a,
        f1_b,
        estimate,
        len(gold),
        dialogues,
        matched.notes,
        flips=int(np.sum(answers[0] != answers[1])),
        kappa=metrics.kappa(*answers),
    )


def _reference(
    predictions: Predictions,
    system: str,
    predicted: tuple[str, ...],
    probabilities: NDArray[np.float64] | None,
    seed: int | None = None,
) -> Predictions:
    """The rows of a table with other answers, and metadata without the model that gave the original ones."""
    kept = predictions.info
    info = PredictionsInfo(
        system=system,
        labels=kept.labels,
        corpus_sha256=kept.corpus_sha256,
        corpus_name=kept.corpus_name,
        corpus_version=kept.corpus_version,
        split=kept.split,
        selection="none",
        healed=kept.healed,
        seed=seed,
        train_sha256=kept.train_sha256,
        train_shares=kept.train_shares,
        invalid_policy=kept.invalid_policy,
        created_with=kept.created_with,
    )
    return replace(
        predictions,
        info=info,
        predicted=predicted,
        invalid=np.zeros(len(predictions), dtype=np.bool_),
        raw_answer=None,
        log_likelihoods=None,
        probabilities=probabilities,
        label_mass=None,
    )
