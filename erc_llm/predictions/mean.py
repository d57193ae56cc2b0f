"""Mean of predictions: one table with the mean of the distributions of several, which are about the same targets.

Input: predictions tables. Output: a predictions table.
Does not depend on: models, runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from erc_llm.errors import PredictionsError
from erc_llm.metrics import Floats
from erc_llm.predictions.table import Predictions


def mean_prediction(tables: Sequence[Predictions]) -> Predictions:
    """The first table with the mean of the probabilities of all; its metadata stay for the caller to change.

    Raises:
        PredictionsError: The tables have different targets or labels, or one has no probabilities.
    """
    first = tables[0]
    if len({table.keys for table in tables}) > 1:
        raise PredictionsError(
            f"the tables of {first.info.split} have different targets, so they have no mean; predict them again on one "
            "corpus"
        )
    if len({table.info.labels for table in tables}) > 1:
        raise PredictionsError(f"the tables of {first.info.split} have different labels, so they have no mean")
    distributions = [table.probabilities for table in tables if table.probabilities is not None]
    if len(distributions) < len(tables):
        raise PredictionsError("a table has no probabilities, so there is no mean of them")
    mean = np.mean(distributions, axis=0)
    predicted = tuple(first.info.labels[k] for k in mean.argmax(axis=1))
    alone = first.with_neighbours(None, None)
    return replace(alone, probabilities=mean, log_likelihoods=log_probabilities(mean), predicted=predicted)


def log_probabilities(found: Floats) -> Floats:
    """ln of (..., labels) probabilities; where one is below the smallest float, ln of that."""
    logs: Floats = np.log(np.maximum(found, np.finfo(np.float64).tiny))
    return logs
