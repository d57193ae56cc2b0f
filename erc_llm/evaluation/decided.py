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
from erc_llm.metrics import Floats, Integers
from erc_llm.predictions.correction import CORRECTED, MOST_PROBABLE, answers_in_words


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

    The most probable labels are those of the raw scores and, if a prior or a calibration was applied, those after it.
    Empty if no table states a decision rule. Systems without probabilities have their answers only.
    """
    infos = [named.table.info for named in matched.tables]
    if not any(info.decided for info in infos):
        return ()
    found = []
    for system in systems:
        info = infos[system.runs[0]]
        if info.decided:
            columns = {MOST_PROBABLE: [matched.probabilities(run) for run in system.runs]}
            if info.prior is not None or info.calibration is not None:
                raw = [matched.log_likelihoods(run) for run in system.runs]
                columns = {MOST_PROBABLE: raw, f"{MOST_PROBABLE}, {CORRECTED}": columns[MOST_PROBABLE]}
            for words, scores in columns.items():
                if (most_probable := _highest(matched, system.runs, scores)) is not None:
                    found.append(_mean(system.name, words, matched, most_probable))
        found.append(_mean(system.name, answers_in_words(info), matched, [matched.answers(run) for run in system.runs]))
    return tuple(found)


def _highest(matched: Matched, runs: Sequence[int], scores: Sequence[Floats | None]) -> list[Integers] | None:
    """Each run's labels with the highest score; its own answers where a row has none; None if a run has no scores."""
    known = [of_run for of_run in scores if of_run is not None]
    if len(known) < len(runs):
        return None
    return [
        np.where(np.isnan(of_run).any(axis=1), matched.answers(run), of_run.argmax(axis=1))
        for run, of_run in zip(runs, known, strict=True)
    ]


def _mean(system: str, words: str, matched: Matched, answers: Sequence[Integers]) -> DecidedMetrics:
    n = len(matched.first.info.labels)
    counts = np.stack([metrics.confusion(matched.gold, labels, n) for labels in answers])
    scores = metrics.scores_from_confusion(counts)
    values = (float(np.mean(value)) for value in (scores.weighted_f1, scores.macro_f1, scores.accuracy))
    return DecidedMetrics(system, words, *values)
