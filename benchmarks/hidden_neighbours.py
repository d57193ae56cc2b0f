"""What neighbours by the model's own hidden states are worth, beside words and encoders, on one fold of train.

The model has trained on all of train but the fold's episodes. As in use, the index holds lines that it has trained on,
and the queries are lines that it has not; both have the states of the same model. Index and queries of every arm are
the same lines. Calibration, weight and decision rule of a line are fitted on other episodes than its own.

Input: a fold's run directory, kept by `erc-llm crossfit`, and its corpus. Output: a Markdown table.
Does not depend on: how runs are trained.

    python -m benchmarks.hidden_neighbours runs/NAME-folds/fold-1 CORPUS words all-minilm-l6-v2 --share 0.3
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.ingredients import HEADER, decide, on_rows, row
from benchmarks.neighbours import of_arm
from benchmarks.outcome import exit_code
from erc_llm import read_corpus
from erc_llm.build import training_view
from erc_llm.calibration.neighbours import adapter_sha256, neighbourhood
from erc_llm.corpus import Dialogue
from erc_llm.corpus.dialogues import LEFT_OUT
from erc_llm.corpus.splits import episode_of
from erc_llm.predictions import read_predictions
from erc_llm.predictor import Predictor, load
from erc_llm.recipes.crossfit_folds import LEFT_OUT_TABLE
from erc_llm.retrieval.index import HiddenStates, build_index
from erc_llm.retrieval.vectors import States, state_vectors
from erc_llm.runs.directory import read_run


def some(dialogues: Sequence[Dialogue], share: float, seed: int) -> list[Dialogue]:
    """The dialogues of a random share of the episodes, at least one."""
    episodes = sorted({episode_of(dialogue) for dialogue in dialogues})
    kept = np.random.default_rng(seed).permutation(len(episodes))[: max(1, round(share * len(episodes)))]
    chosen = {episodes[i] for i in kept}
    return [dialogue for dialogue in dialogues if episode_of(dialogue) in chosen]


def states_of(predictor: Predictor, dialogues: Sequence[Dialogue]) -> States:
    """(targets, width) hidden states at the questions about every target."""
    scored = predictor.scores(dialogues, states=True)
    return np.array([scores.state for scene in scored for scores in scene], dtype=np.float32)


def lines(fold: Path, folder: Path, encoders: Sequence[str], share: float, seed: int) -> Iterator[str]:
    """The lines of the report."""
    run, corpus = read_run(fold), read_corpus(folder)
    view = training_view(corpus, run.config)
    train, left_out = some(view.split("train"), share, seed), some(view.split(LEFT_OUT), share, seed)
    predictor = load(fold, corpus, prior="none", calibration="none")
    states = states_of(predictor, left_out)
    known = HiddenStates(states_of(predictor, train), adapter_sha256(run))
    hidden = build_index(train, view.labels, known, corpus.train_sha256)
    labelled = [bool(d.utterances[k].label) for d in train for k in d.targets]
    nowhere = np.zeros_like(states[0])
    raw = replace(hidden, centre=nowhere, vectors=state_vectors(known.states[labelled], nowhere))
    indices = {name: build_index(train, view.labels, name, corpus.train_sha256) for name in encoders}
    indices |= {"hidden": hidden, "hidden, without taking off the mean": raw}

    asked = {(d.id, d.utterances[k].id) for d in left_out for k in d.targets if d.utterances[k].label}
    path = fold / LEFT_OUT_TABLE
    table = read_predictions(path)
    table = on_rows(table, str(path), [key for key in table.keys if key in asked])
    base = decide(table)
    rows, words = [row("no neighbours", base, None)], []
    for name, index in indices.items():
        found, sentence = of_arm(name, table, neighbourhood(index, table, left_out, states), base)
        rows.append(found)
        words.append(f"- {sentence}")
    yield from (HEADER, *rows, "", *words, "")
    yield f"{len(table):,} lines that the fold left out; {len(hidden):,} lines in the index, which it trained on."


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns exit code 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hidden_neighbours", description=__doc__)
    parser.add_argument("fold", type=Path, help="run directory of a fold")
    parser.add_argument("corpus", type=Path, help="its corpus")
    parser.add_argument("encoders", nargs="*", help="words, or names of encoders, to compare with")
    parser.add_argument("--share", type=float, default=1.0, help="share of the episodes, above 0 and up to 1")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of episodes")
    options = parser.parse_args(arguments)
    given = (options.fold, options.corpus, options.encoders, options.share, options.seed)
    return exit_code(lambda: print(*lines(*given), sep="\n"))


if __name__ == "__main__":
    sys.exit(main())
