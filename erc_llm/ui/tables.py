"""Predictions tables as the page shows them: their errors, filtered and page by page, each in its scene.

Input: files of tables. Output: summaries, rows and scenes; text only where a table has it.
Does not depend on: HTTP, models.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from erc_llm.errors import PredictionsError
from erc_llm.evaluation.confident_errors import SceneLine, lines_around, scene_line
from erc_llm.metrics import Floats, Integers
from erc_llm.predictions import Predictions, read_predictions

_OPEN = 4  # tables in memory
SPEAKERS = 200  # that can be chosen from, those with most lines first


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rows of a table are shown.

    Attributes:
        wrong: Only rows whose answer is not the gold label.
        gold: Only rows with this gold label; None for all.
        answer: Only rows with this answer; None for all.
        speaker: Only rows of this speaker; None for all.
        least: Smallest probability of the answer, 0 to 1.
        most: Largest probability of the answer, 0 to 1.
        order: `confidence`: the largest probability of the answer first; `place`: in the order of the table.
    """

    wrong: bool = True
    gold: str | None = None
    answer: str | None = None
    speaker: str | None = None
    least: float = 0.0
    most: float = 1.0
    order: Literal["confidence", "place"] = "confidence"


@dataclass(frozen=True, slots=True)
class Summary:
    """What a table holds.

    Attributes:
        system: The system that wrote it.
        split: The split that was predicted.
        corpus: Name of the corpus.
        labels: Names of the labels, in order.
        rows: Number of targets.
        wrong: Number of wrong answers.
        speakers: Names and lines of the speakers with most lines.
        has_text: Whether the lines can be shown.
        has_probabilities: Whether there are probabilities.
    """

    system: str
    split: str
    corpus: str
    labels: tuple[str, ...]
    rows: int
    wrong: int
    speakers: tuple[tuple[str, int], ...]
    has_text: bool
    has_probabilities: bool


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table: its number, its line, and the probability of each label (None if unknown)."""

    row: int
    dialogue_id: str
    utterance_id: str
    line: SceneLine
    probabilities: tuple[float, ...] | None


class Tables:
    """The tables of the page; the latest ones stay in memory until their files change.

    Args:
        paths: Their files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._open: OrderedDict[tuple[int, int], Predictions] = OrderedDict()

    def table(self, number: int) -> Predictions:
        """One of the tables.

        Raises:
            PredictionsError: There is no such table, or it cannot be read.
        """
        if not 0 <= number < len(self.paths):
            raise PredictionsError(f"table {number}: found {len(self.paths)} tables; reload the page")
        path = self.paths[number]
        try:
            key = number, path.stat().st_mtime_ns
        except OSError as error:
            raise PredictionsError(f"{path}: cannot be read: {error.strerror or error}") from None
        table = self._open.pop(key, None) or read_predictions(path)
        self._open[key] = table
        while len(self._open) > _OPEN:
            self._open.popitem(last=False)
        return table


def summary(table: Predictions) -> Summary:
    """What a table holds."""
    spoken = Counter(name for names in table.speakers or () for name in names)
    return Summary(
        system=table.info.system,
        split=table.info.split,
        corpus=table.info.corpus_name,
        labels=table.info.labels,
        rows=len(table),
        wrong=int(np.sum(_wrong(table))),
        speakers=tuple(spoken.most_common(SPEAKERS)),
        has_text=table.text is not None,
        has_probabilities=table.probabilities is not None,
    )


def matching(table: Predictions, wanted: Filter) -> Integers:
    """Numbers of the rows that a filter leaves, in its order.

    Raises:
        PredictionsError: The table has no such label.
    """
    kept = _wrong(table) if wanted.wrong else np.ones(len(table), dtype=np.bool_)
    for name, index in ((wanted.gold, table.gold_index), (wanted.answer, table.predicted_index)):
        if name is not None:
            kept = kept & (index == _label(table, name))
    if wanted.speaker is not None:
        kept = kept & np.array([wanted.speaker in names for names in table.speakers or ((),) * len(table)], dtype=bool)
    sure = confidences(table)
    if wanted.least > 0 or wanted.most < 1:
        kept = kept & (sure >= wanted.least) & (sure <= wanted.most)  # never true of NaN
    rows = np.flatnonzero(kept)
    return rows[np.argsort(-sure[rows], kind="stable")] if wanted.order == "confidence" else rows


def confidences(table: Predictions) -> Floats:
    """(rows,) probability of each row's answer; NaN where unknown."""
    if table.probabilities is None:
        return np.full(len(table), np.nan)
    answer = table.predicted_index
    found = table.probabilities[np.arange(len(table)), np.maximum(answer, 0)]
    return np.where(answer >= 0, found, np.nan)


def row_of(table: Predictions, row: int) -> Row:
    """One row.

    Raises:
        PredictionsError: The table has no such row.
    """
    if not 0 <= row < len(table):
        raise PredictionsError(f"row {row}: the table has {len(table)} rows; reload the page")
    given = None if table.probabilities is None else table.probabilities[row]
    known = None if given is None or np.isnan(given).any() else tuple(given.tolist())
    return Row(row, table.dialogue_id[row], table.utterance_id[row], scene_line(table, row), known)


def scene_around(table: Predictions, row: int) -> tuple[Row, ...]:
    """The rows of the same scene around a row, in order, itself included.

    Raises:
        PredictionsError: The table has no such row.
    """
    row_of(table, row)
    return tuple(row_of(table, other) for other in lines_around(table, row).tolist())


def _wrong(table: Predictions) -> np.ndarray:
    found: np.ndarray = (table.gold_index >= 0) & (table.gold_index != table.predicted_index)
    return found


def _label(table: Predictions, name: str) -> int:
    if name not in table.info.labels:
        raise PredictionsError(f"label '{name}': the table has {', '.join(table.info.labels)}")
    return table.info.labels.index(name)
