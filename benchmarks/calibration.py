"""Seconds and memory for correcting a million predictions, and for fitting a calibration.

The scores are random. Each measurement is a fresh process; `python -m benchmarks calibration` prints this section
alone.

Input: the number of predictions. Output: a section of the report.
Does not depend on: models, corpora.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from resource import RUSAGE_SELF, getrusage
from statistics import median

import numpy as np

from benchmarks.measure import Job, Result, resident_mb, run_alternating
from erc_llm.corpus.labels import EMORYNLP
from erc_llm.predictions import Correction, Decision, Predictions, PredictionsInfo, PriorShift, Scaling, correct
from erc_llm.predictions.correction import normalise

CORRECTED, FITTED = 1_000_000, 10_000
PER_DIALOGUE = 10
FLAT = (1 / 7,) * 7
CORPUS = (0.22, 0.11, 0.30, 0.09, 0.08, 0.07, 0.13)
PARTS = ("arrays", "table", "fit", "fit with decision weights")


def compare(rounds: int, on_run: Callable[[int, Job, Result], None] | None = None) -> Result:
    """Measure correcting bare arrays and a whole table, and the two fits with their cross-validation."""
    sizes = {part: FITTED if part.startswith("fit") else CORRECTED for part in PARTS}
    jobs = [
        Job(part, "benchmarks.calibration:run", {"part": part, "predictions": size}) for part, size in sizes.items()
    ]
    results = run_alternating(jobs, rounds, on_run)
    return {
        part: {
            "predictions": sizes[part],
            "seconds": median(run["seconds"] for run in runs),
            "seconds_rounds": [run["seconds"] for run in runs],
            "peak_mb": max(run["peak_mb"] - run["before_mb"] for run in runs),
        }
        for part, runs in results.items()
    }


def run(part: str, predictions: int) -> Result:
    """One measurement, without drawing the scores."""
    from erc_llm.calibration.select import calibrate

    table = _table(predictions)
    assert table.log_likelihoods is not None
    shift = PriorShift("corpus", FLAT, CORPUS)
    rule = Decision("weights", "inductive", (1.0, 1.2, 0.7, 1.1, 1.3, 1.2, 1.0), (0.0,) * 7)
    correction = Correction(shift, Scaling(1.5, (0.3, -0.2, 0.1, 0.0, -0.5, 0.4, 0.2)), rule)
    before, began = resident_mb(getrusage(RUSAGE_SELF)), time.perf_counter()
    if part == "arrays":
        correction.decide(correction.probabilities(table.log_likelihoods))
    elif part == "table":
        correct(table, correction)
    else:
        calibrate(table, shift, "nll" if part == "fit" else "weighted_f1")
    return {"seconds": time.perf_counter() - began, "before_mb": before, "peak_mb": resident_mb(getrusage(RUSAGE_SELF))}


def _table(n: int) -> Predictions:
    """Random scores around each gold label, overconfident by a factor of two."""
    rng = np.random.default_rng(0)
    gold = np.searchsorted(np.cumsum(CORPUS[:-1]), rng.random(n))
    scores = rng.normal(size=(n, 7))
    scores[np.arange(n), gold] += 1.0
    scores *= 2
    names = np.array(EMORYNLP.names, dtype=object)
    info = PredictionsInfo(
        system="drawn",
        labels=EMORYNLP.names,
        corpus_sha256="0" * 64,
        corpus_name="drawn",
        corpus_version="own",
        split="selection",
        training_prior=FLAT,
    )
    return Predictions(
        info,
        dialogue_id=tuple(f"d{i // PER_DIALOGUE}" for i in range(n)),
        utterance_id=tuple(f"u{i % PER_DIALOGUE}" for i in range(n)),
        predicted=tuple(names[scores.argmax(axis=1)].tolist()),
        gold=tuple(names[gold].tolist()),
        log_likelihoods=scores,
        probabilities=normalise(scores),
    )
