"""Seconds and memory for the profiles of all scenes of a corpus, and their growth when the corpus is repeated.

Repetitions come later in time than the original, so that every history grows as in a longer series. An encoder embeds
each text once; that time is reported separately. Each measurement is a fresh process.

Input: settings. Output: a section of the report.
Does not depend on: language models.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from resource import RUSAGE_SELF, getrusage
from statistics import median
from typing import Any

from benchmarks.measure import Job, Result, ratio, resident_mb, run_alternating
from benchmarks.workload import Settings
from erc_llm.corpus.dialogues import Corpus

TIMES = (1, 4, 16)
ENCODER = "all-minilm-l6-v2"
ARMS: Mapping[str, Mapping[str, str]] = {
    "statistics": {"writer": "statistics"},
    "lines": {"writer": "lines"},
    "lines by an encoder": {"writer": "lines", "encoder": ENCODER},
    "statistics of somebody else": {"writer": "statistics", "control": "shuffled"},
}


def compare(settings: Settings, rounds: int, on_run: Callable[[int, Job, Result], None]) -> Result:
    """Measure every arm on every length of the corpus."""
    arguments = {"settings": asdict(settings)}
    jobs = [
        Job(_name(arm, times), "benchmarks.profiles:run", {**arguments, "profile": dict(profile), "times": times})
        for arm, profile in ARMS.items()
        for times in _lengths(arm)
    ]
    results = run_alternating(jobs, rounds, on_run)
    return {arm: _section(results, arm) for arm in ARMS}


def _section(results: Mapping[str, list[Result]], arm: str) -> Result:
    once = [run["seconds"] for run in results[_name(arm, 1)]]
    section: Result = {}
    for times in _lengths(arm):
        runs = results[_name(arm, times)]
        growth = ratio([run["seconds"] for run in runs], once)
        section[str(times)] = {
            "profiles": runs[0]["profiles"],
            "seconds": median(run["seconds"] for run in runs),
            "embedding_seconds": median(run["embedding_seconds"] for run in runs),
            "growth": growth.median,
            "growth_rounds": growth.values,
            "peak_mb": max(run["peak_mb"] - run["before_mb"] for run in runs),
        }
    return section


def _lengths(arm: str) -> tuple[int, ...]:
    """Numbers of repetitions; one for an encoder, which embeds each text once and takes minutes on a slow CPU."""
    return TIMES[:1] if "encoder" in ARMS[arm] else TIMES


def run(settings: Mapping[str, Any], profile: Mapping[str, str], times: int) -> Result:
    """Write all profiles of a corpus that is repeated `times` times; reading it is not counted.

    With an encoder, `seconds` is the time of a second pass, when every text has been embedded, and
    `embedding_seconds` the additional time of the first pass: loading the encoder and embedding lines and queries.
    """
    from erc_llm.build import build_profiler
    from erc_llm.config import CorpusConfig, load_config
    from erc_llm.recipes.data import open_corpus

    config = load_config(settings["config"], settings["overrides"])
    corpus = open_corpus(CorpusConfig(path=settings["corpus"]), config.label_set())
    repeated = _repeated(corpus, times)
    before = resident_mb(getrusage(RUSAGE_SELF))
    began = time.perf_counter()
    profiler = build_profiler(config.profile.model_copy(update=dict(profile)), repeated, seed=config.seed)
    profiles = sum(len(profiler.profiles(dialogue)) for dialogue in repeated.dialogues())
    first = seconds = time.perf_counter() - began
    if "encoder" in profile:
        began = time.perf_counter()
        for dialogue in repeated.dialogues():
            profiler.profiles(dialogue)
        seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "embedding_seconds": first - seconds,
        "profiles": profiles,
        "before_mb": before,
        "peak_mb": resident_mb(getrusage(RUSAGE_SELF)),
    }


def _repeated(corpus: Corpus, times: int) -> Corpus:
    """A corpus followed by repetitions of itself, with later seasons."""
    seasons = 1 + max(d.season or 0 for d in corpus.dialogues())
    splits = {
        split: tuple(
            replace(d, id=f"{d.id}/{time}", season=(d.season or 0) + time * seasons)
            for time in range(times)
            for d in dialogues
        )
        for split, dialogues in corpus.splits.items()
    }
    return replace(corpus, splits=splits)


def _name(arm: str, times: int) -> str:
    return f"profiles, {arm}, {times}x"
