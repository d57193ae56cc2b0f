"""Approximate search beside exact search: recall and time, by the number of lines in the index.

The vectors are synthetic: unit vectors of 384 dimensions (those of all-minilm-l6-v2) in clusters of about 50, where two
of a cluster have a similarity of about 0.5. The queries are further vectors of the same clusters; each has an own
episode in the index, whose lines are left out.

Input: numbers of lines. Output: a Markdown table, and the memory of the process.
Does not depend on: models, runs, corpora.

    python -m benchmarks.neighbour_search 10000 100000 1000000
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.outcome import exit_code
from erc_llm.retrieval.approximate import find_cells
from erc_llm.retrieval.index import Index, Nearest

DIMENSIONS, IN_CLUSTER, IN_EPISODE = 384, 50, 100
QUERIES, NEAREST = 1000, 8
ROUNDS, LARGE = 3, 500_000  # from LARGE lines on, a search is timed once
_PART = 50_000

HEADER = (
    "| lines | exact (s) | approximate (s) | times faster | recall@8 | build (s) | open (s) | peak memory |\n"
    "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)


class Timed(NamedTuple):
    """The lines that a search found, and its time in seconds."""

    nearest: Nearest
    seconds: float


def clustered(lines: int, seed: int) -> npt.NDArray[np.float32]:
    """(lines, dimensions) unit vectors in clusters."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, lines // IN_CLUSTER), DIMENSIONS), dtype=np.float32)
    vectors = np.empty((lines, DIMENSIONS), dtype=np.float32)
    for start in range(0, lines, _PART):
        part = vectors[start : start + _PART]
        part[:] = rng.standard_normal(part.shape, dtype=np.float32)
        part += centres[rng.integers(0, len(centres), len(part))]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def index_of(vectors: npt.NDArray[np.float32]) -> Index:
    """An index over vectors, whose lines all have the same label."""
    episode = np.arange(len(vectors)) // IN_EPISODE
    names = tuple(f"e{number}" for number in range(int(episode.max()) + 1))
    return Index("synthetic", None, "", ("Neutral",), vectors, np.zeros(len(vectors), np.int64), names, episode)


def timed(index: Index, queries: npt.NDArray[np.float32], episodes: Sequence[str]) -> Timed:
    """One search for the nearest lines."""
    began = time.perf_counter()
    nearest = index.nearest(queries, episodes, NEAREST)
    return Timed(nearest, time.perf_counter() - began)


def recall(found: Nearest, exact: Nearest) -> float:
    """Share of the nearest lines that were found."""
    pairs = zip(found.rows.tolist(), exact.rows.tolist(), strict=True)
    return float(np.mean([len(set(ours) & set(theirs)) / NEAREST for ours, theirs in pairs]))


def row(lines: int, seed: int) -> str:
    """The row of the table for a number of lines."""
    vectors = clustered(lines + QUERIES, seed)
    index, queries = index_of(vectors[QUERIES:]), vectors[:QUERIES]
    episodes = [index.episodes[i] for i in np.random.default_rng(seed).integers(0, len(index.episodes), QUERIES)]
    began = time.perf_counter()
    near = replace(index, cells=find_cells(index.vectors))
    divided = time.perf_counter()
    near.nearest(queries[:1], episodes[:1], NEAREST)  # the first search fills the cells
    opened = time.perf_counter()
    pairs = [
        (timed(index, queries, episodes), timed(near, queries, episodes))
        for _ in range(1 if lines >= LARGE else ROUNDS)
    ]
    exact, approximate = (float(np.median([pair[i].seconds for pair in pairs])) for i in (0, 1))
    found = recall(pairs[0][1].nearest, pairs[0][0].nearest)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2  # kilobytes on Linux
    return (
        f"| {lines:,} | {exact:.2f} | {approximate:.2f} | {exact / approximate:.1f} | {100 * found:.2f} % | "
        f"{divided - began:.1f} | {opened - divided:.1f} | {peak:.1f} GiB |"
    )


def lines(counts: Sequence[int], seed: int) -> Iterator[str]:
    """The lines of the report."""
    yield HEADER
    for count in sorted(counts):
        yield row(count, seed)
    yield f"\n{QUERIES:,} queries, {NEAREST} nearest lines of other episodes of {IN_EPISODE} lines; seed {seed}."


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns exit code 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.neighbour_search", description=__doc__)
    parser.add_argument("counts", nargs="*", type=int, default=[10_000, 100_000, 1_000_000], help="numbers of lines")
    parser.add_argument("--seed", type=int, default=0, help="seed of the vectors")
    options = parser.parse_args(arguments)

    def report() -> None:
        for line in lines(options.counts, options.seed):
            print(line, flush=True)

    return exit_code(report)


if __name__ == "__main__":
    sys.exit(main())
