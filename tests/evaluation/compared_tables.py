"""Tables of made-up systems on made-up scenes, with every column that a comparison looks at."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from erc_llm.corpus.labels import EMORYNLP
from erc_llm.evaluation.comparison import compare
from erc_llm.evaluation.evidence import Comparison
from erc_llm.evaluation.matching import NamedTable
from erc_llm.predictions import Predictions, PredictionsInfo

LABELS = ("Joyful", "Mad", "Neutral", "Sad")
SHARES = (0.2, 0.1, 0.6, 0.1)
INFO = PredictionsInfo(
    system="tuned",
    labels=LABELS,
    corpus_sha256="ab" * 32,
    corpus_name="series",
    corpus_version="own",
    split="dev",
    selection="selection",
    context="past",
    run_id="run-1",
    seed=1,
    recipe_sha256="cd" * 32,
    trained_on_version="own",
    trained_on_sha256="de" * 32,
    invalid_policy="an invalid answer counts as wrong",
)
SPEAKERS = ("Ann", "Bob", "Cy", "Dee")
SIZE = 6  # targets in a scene
NASTY = "<script>alert(1)</script> | a*b_c `d` \x1b[31m\n## no"


def table(right: float = 0.6, system: str = "tuned", dialogues: int = 40, draw: int = 101, **info: Any) -> Predictions:
    """Answers of which a share of about `right` is the gold label; gold labels and scenes are those of every table."""
    n, rng = dialogues * SIZE, np.random.default_rng(draw)
    gold = np.random.default_rng(77).choice(4, size=n, p=SHARES)
    sharpness = np.where(rng.random(n) < right, 2.0, 0.0)
    scores = rng.gumbel(size=(n, 4))
    scores[np.arange(n), gold] += 4 * sharpness
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    names = [LABELS[i] for i in gold]
    columns = {
        "dialogue_id": [f"d{i // SIZE}" for i in range(n)],
        "utterance_id": [str(i % SIZE) for i in range(n)],
        "position": [i % SIZE * 2 for i in range(n)],
        "episode": [f"e{i // SIZE // 4}" for i in range(n)],
        "scene_order": [i // SIZE for i in range(n)],
        "speakers": [[SPEAKERS[i % 2] if i % 24 else SPEAKERS[2 + i % 48 // 24]] for i in range(n)],
        "text": [f"line {i}" for i in range(n)],
        "gold": names,
        "previous_gold_same_speaker": [names[i - 2] if i % SIZE > 1 else None for i in range(n)],
        "history_length": [60 * (i // SIZE) for i in range(n)],
        "first_seen": [i < SIZE for i in range(n)],
        "predicted": [LABELS[i] for i in scores.argmax(axis=1)],
        "invalid": [False] * n,
        "probabilities": probabilities.tolist(),
    }
    return Predictions.from_columns(replace(INFO, system=system, **info), columns)


def changed(given: Predictions, **others: Any) -> Predictions:
    """The same table with other columns; None leaves one out."""
    return Predictions.from_columns(given.info, given.columns() | others)


def rows(given: Predictions, kept: list[int]) -> Predictions:
    """Some rows of a table, in the order asked for."""
    columns = {name: [values[i] for i in kept] for name, values in given.columns().items()}
    return Predictions.from_columns(given.info, columns)


def named(*tables: Predictions) -> list[NamedTable]:
    """Tables called `0.parquet`, `1.parquet` and so on."""
    return [NamedTable(f"{i}.parquet", found) for i, found in enumerate(tables)]


def compared_with_markup() -> Comparison:
    """Two systems of EmoryNLP's labels; the text and a name hold what HTML, Markdown and terminals read as markup."""

    def dressed(given: Predictions) -> Predictions:
        info = replace(given.info, labels=EMORYNLP.names, corpus_version="original")
        others = {"probabilities": [[*row[:2], row[2], 0, 0, row[3], 0] for row in given.columns()["probabilities"]]}
        return Predictions.from_columns(info, given.columns() | others | {"text": [NASTY] * len(given)})

    first = dressed(table(selection="dev"))
    return compare(named(first, dressed(table(0.3, "zero <shot>", draw=7, context="full"))), draws=200)
