"""Tables whose exact posteriors are known: scores drawn from a model of which everything is known."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from erc_llm.predictions import Predictions, PredictionsInfo
from erc_llm.predictions.correction import normalise

LABELS = ("Joyful", "Mad", "Neutral", "Sad")
TRAINED = (0.25, 0.25, 0.25, 0.25)
CORPUS = (0.2, 0.05, 0.65, 0.1)
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def draw(n: int, prior: tuple[float, ...] = CORPUS, seed: int = 0, lead: float = 1.0) -> tuple[Floats, Integers]:
    """(n, 4) ln p(x | y) up to a constant for each x, and (n,) labels y drawn by the prior.

    x is normal around a unit vector of its label, `lead` long, so that ln p(x | y) is lead x_y up to what is common.
    """
    rng = np.random.default_rng(seed)
    gold = np.searchsorted(np.cumsum(prior), rng.random(n) * sum(prior)).astype(np.int64)
    x = rng.normal(size=(n, len(prior)))
    x[np.arange(n), gold] += lead
    return lead * x, gold


def scored(log_likelihoods: Floats, gold: Integers, size: int = 10, **info: Any) -> Predictions:
    """A table of raw scores, `size` targets a dialogue."""
    n, labels = len(gold), info.pop("labels", LABELS)
    fields = {
        "system": "tuned", "labels": labels, "corpus_sha256": "ab" * 32, "corpus_name": "series",
        "corpus_version": "own", "split": "selection", "training_prior": TRAINED,
    } | info  # fmt: skip
    columns = {
        "dialogue_id": [f"d{i // size}" for i in range(n)],
        "utterance_id": [str(i) for i in range(n)],
        "gold": [labels[i] for i in gold],
        "predicted": [labels[i] for i in log_likelihoods.argmax(axis=1)],
        "invalid": [False] * n,
        "log_likelihoods": log_likelihoods.tolist(),
        "probabilities": normalise(log_likelihoods).tolist(),
    }
    return Predictions.from_columns(PredictionsInfo(**fields), columns)
