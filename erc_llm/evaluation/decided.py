"""Most probable and decided answers of each system, side by side.

Input: the tables of a comparison, on their common targets. Output: `DecidedMetrics` of each system.
Does not depend on: how a decision rule is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from erc_llm import metrics
from erc_llm.evaluation.matching import Matched
from erc_llm.evaluation.systems import System
from erc_llm.metrics import Integers
from erc_llm.predictions.correction import MOST_PROBABLE, answers_in_words


@dataclass(frozen=True, slots=True)
class DecidedMetrics:
    """Metrics of one system's answers by one rule, means over its runs; fractions.

    Attributes:
        system: Name of the system.
        answers: The rule, in words.
        weighted_f1: Over all labels.
        macro_f1: Likewise.
        accuracy: Fraction of right answers.
    """

    system: str
    answers: str
    weighted_f1: float
    macro_f1: float
    accuracy: float


def decided_metrics(matched: Matched, systems: Sequence[System]) -> tuple[DecidedMetrics, ...]:
    """The answers of each table, and before them its most probable labels where a rule has decided otherwise.

    Empty if no table states a decision rule. Systems without probabilities have their answers only.
    """
    infos = [named.table.info for named in matched.tables]
    if not any(info.decided for info in infos):
        return ()
    found = []
    for system in systems:
        info, tables = infos[system.runs[0]], [matched.probabilities(run) for run in system.runs]
        probabilities = [table for table in tables if table is not None]
        if info.decided and len(probabilities) == len(tables):
            most_probable = [
                np.where(np.isnan(table).any(axis=1), matched.answers(run), table.argmax(axis=1))
                for run, table in zip(system.runs, probabilities, strict=True)
            ]
            found.append(_mean(system.name, MOST_PROBABLE, matched, most_probable))
        found.append(_mean(system.name, answers_in_words(info), matched, [matched.answers(run) for run in system.runs]))
    return tuple(found)


def _mean(system: str, words: str, matched: Matched, answers: Sequence[Integers]) -> DecidedMetrics:
    n = len(matched.first.info.labels)
    counts = np.stack([metrics.confusion(matched.gold, labels, n) for labels in answers])
    scores = metrics.scores_from_confusion(counts)
    values = (float(np.mean(value)) for value in (scores.weighted_f1, scores.macro_f1, scores.accuracy))
    return DecidedMetrics(system, words, *values)
