"""What neighbours are worth on a cross-fitted table, by encoder: mixed into its probabilities, and by themselves.

Number of neighbours and temperature are those that `calibrate` chooses on the table; calibration, weight and decision
rule of a row are fitted on other episodes than the row's. The control allows neighbours of the line's own episode,
whose labels nobody has when a new episode is labelled: it shows how much such a leak would seem to bring.

Input: an out-of-fold table and its corpus. Output: a Markdown table, and the time of the search.
Does not depend on: models, runs.

    python -m benchmarks.neighbours crossfit.parquet CORPUS words all-minilm-l6-v2
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.ingredients import HEADER, decide, labelled_keys, on_rows, row, shift_of
from benchmarks.outcome import exit_code
from erc_llm import read_corpus
from erc_llm.calibration.neighbours import neighbourhood
from erc_llm.calibration.select import Neighbourhood, calibrate
from erc_llm.corpus import Dialogue
from erc_llm.predictions import Predictions, read_predictions
from erc_llm.retrieval.index import Index, build_index

QUERIES, NEAREST, ROUNDS = 1000, 8, 5  # of the timed search; at most so many queries


def of_arm(name: str, table: Predictions, around: Neighbourhood, base: Predictions) -> tuple[str, str]:
    """The row of an arm, and a sentence about what was chosen."""
    chosen = calibrate(table, shift_of(table), neighbours=around).neighbours
    if chosen is None:
        return row(name, base, base), f"{name}: no candidate lowers held-out NLL"
    column = dict(around.distributions)[chosen.k, chosen.temperature]
    right = (column.argmax(axis=1) == table.gold_index).mean()
    decided = decide(table.with_neighbours(column, chosen.words))
    words = f"{name}: weight {chosen.weight:.2f}, {chosen.words}; by themselves right in {100 * right:.1f} %"
    return row(name, decided, base), words


def with_own_episode(index: Index, dialogues: Sequence[Dialogue]) -> Index:
    """The index with all lines but the query itself as neighbours; every line is called an episode of its own."""
    lines = [f"{d.id}/{k}" for d in dialogues for k in d.targets if d.utterances[k].label]
    return replace(index, episodes=tuple(lines), episode=np.arange(len(lines)))


def as_own_episodes(dialogues: Sequence[Dialogue]) -> list[Dialogue]:
    """A dialogue for every target, named as in `with_own_episode`."""
    return [Dialogue(f"{d.id}/{k}", (d.utterances[k],)) for d in dialogues for k in d.targets]


def seconds(index: Index, texts: Sequence[str]) -> float:
    """Median time of one search for the nearest lines of these, after encoding."""
    queries, times = index.embed(texts), []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        index.nearest(queries, ["another"] * len(texts), NEAREST)
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def lines(path: Path, folder: Path, encoders: Sequence[str]) -> Iterator[str]:
    """The lines of the report on a table of the labelled lines of a corpus."""
    table, corpus = read_predictions(path), read_corpus(folder)
    table = on_rows(table, str(path), labelled_keys(table))
    train = corpus.split("train")
    base = decide(table)
    rows, words, times = [row("no neighbours", base, None)], [], []
    queries = [d.utterances[k].text for d in train for k in d.targets][:QUERIES]
    for encoder in encoders:
        index = build_index(train, corpus.labels, encoder, corpus.train_sha256)
        times.append(f"{encoder}: {seconds(index, queries):.3f} s")
        for name, around in (
            (encoder, neighbourhood(index, table, train)),
            (f"{encoder}, own episode allowed (control)", _leaking(index, table, train)),
        ):
            found, sentence = of_arm(name, table, around, base)
            rows.append(found)
            words.append(f"- {sentence}")
    yield from (HEADER, *rows, "", *words, "")
    yield f"{NEAREST} nearest of {len(index):,} lines for {len(queries):,} lines, after encoding: {', '.join(times)}."


def _leaking(index: Index, table: Predictions, train: Sequence[Dialogue]) -> Neighbourhood:
    number = {(d.id, d.utterances[k].id): k for d in train for k in d.targets}
    alone = replace(table, dialogue_id=tuple(f"{d}/{number[d, u]}" for d, u in table.keys))
    return neighbourhood(with_own_episode(index, train), alone, as_own_episodes(train))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns exit code 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.neighbours", description=__doc__)
    parser.add_argument("table", type=Path, help="out-of-fold table, crossfit.parquet of a cross-fitted run")
    parser.add_argument("corpus", type=Path, help="its corpus")
    parser.add_argument("encoders", nargs="+", help="words, or names of encoders")
    options = parser.parse_args(arguments)
    return exit_code(lambda: print(*lines(options.table, options.corpus, options.encoders), sep="\n"))


if __name__ == "__main__":
    sys.exit(main())
