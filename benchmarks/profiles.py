"""What profiles cost: seconds and memory for all scenes of a corpus, and how that grows when the corpus is repeated.

In: settings. Out: a section of the report. Repetitions come later in time than what they repeat, so that every history
grows as it would in a longer series. Each measurement is a fresh process.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from statistics import median
from typing import Any

from benchmarks.measure import Job, Result, ratio, run_alternating
from benchmarks.workload import Settings

TIMES = (1, 4, 16)
WRITERS = ("statistics", "lines")


def compare(settings: Settings, rounds: int, on_run: Callable[[int, Job, Result], None]) -> Result:
    """Every writer on every length of the corpus."""
    arguments = {"settings": asdict(settings)}
    jobs = [
        Job(_name(writer, times), "benchmarks.profiles:run", {**arguments, "writer": writer, "times": times})
        for writer in WRITERS
        for times in TIMES
    ]
    results = run_alternating(jobs, rounds, on_run)
    return {writer: _section(results, writer) for writer in WRITERS}


def _section(results: Mapping[str, list[Result]], writer: str) -> Result:
    once = [run["seconds"] for run in results[_name(writer, 1)]]
    section: Result = {}
    for times in TIMES:
        runs = results[_name(writer, times)]
        growth = ratio([run["seconds"] for run in runs], once)
        section[str(times)] = {
            "profiles": runs[0]["profiles"],
            "seconds": median(run["seconds"] for run in runs),
            "growth": growth.median,
            "growth_rounds": growth.values,
            "peak_mb": max(run["peak_mb"] - run["before_mb"] for run in runs),
        }
    return section


def run(settings: Mapping[str, Any], writer: str, times: int) -> Result:
    """All profiles of a corpus that is told `times` times over; reading it is not counted."""
    from erc_llm.config import CorpusConfig, load_config
    from erc_llm.pipeline import open_corpus
    from erc_llm.profiling import make_profiler

    config = load_config(settings["config"], settings["overrides"])
    corpus = open_corpus(CorpusConfig(path=settings["corpus"]), config.label_set())
    seasons = 1 + max(d.season or 0 for d in corpus.dialogues())
    told = {
        split: tuple(
            replace(d, id=f"{d.id}/{time}", season=(d.season or 0) + time * seasons)
            for time in range(times)
            for d in dialogues
        )
        for split, dialogues in corpus.splits.items()
    }
    before = _resident_mb()
    began = time.perf_counter()
    profiler = make_profiler(config.profile.model_copy(update={"writer": writer}), replace(corpus, splits=told))
    profiles = sum(len(profiler.profiles(d)) for dialogues in told.values() for d in dialogues)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "profiles": profiles, "before_mb": before, "peak_mb": _resident_mb()}


def _name(writer: str, times: int) -> str:
    return f"profiles, {writer}, {times}x"


def _resident_mb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
