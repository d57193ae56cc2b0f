"""Matching: lines up the targets of several predictions tables, or raises the reason why they cannot be compared.

Input: tables with their names. Output: for each table the rows of the common targets, in one order, with answers and
probabilities in one order of labels.
Does not depend on: metrics, files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from erc_llm import metrics
from erc_llm.errors import PredictionsError
from erc_llm.metrics import Floats, Integers
from erc_llm.predictions import Predictions, PredictionsInfo

On = Literal["all", "intersection"]


@dataclass(frozen=True)
class NamedTable:
    """A table, its name in messages, such as its file, and its system, where the caller states that."""

    name: str
    table: Predictions
    system: str | None = None


@dataclass(frozen=True)
class Matched:
    """Tables with their rows lined up; targets without a gold label are left out.

    Attributes:
        tables: The tables; the first one sets the order of labels and rows.
        rows: For each table, (targets,) its rows.
        without_gold: Common targets that were left out because they have no gold label.
        notes: Sentences about targets and corpora that differ.
    """

    tables: tuple[NamedTable, ...]
    rows: tuple[Integers, ...]
    without_gold: int = 0
    notes: tuple[str, ...] = ()

    @property
    def first(self) -> Predictions:
        """The table that sets the order of labels and rows."""
        return self.tables[0].table

    @property
    def gold(self) -> Integers:
        """(targets,) index of the gold label."""
        gold: Integers = self.first.gold_index[self.rows[0]]
        return gold

    @property
    def dialogue(self) -> Integers:
        """(targets,) number of the dialogue."""
        dialogue: Integers = self.first.dialogue_index[self.rows[0]]
        return dialogue

    def answers(self, table: int) -> Integers:
        """(targets,) index of the label that a table predicts, -1 where invalid."""
        found = self.tables[table].table
        return _in_labels_of(self.first.info, found, found.predicted_index)[self.rows[table]]

    def probabilities(self, table: int) -> Floats | None:
        """(targets, labels) of a table; None where it has none."""
        return self._by_label(table, self.tables[table].table.probabilities)

    def log_likelihoods(self, table: int) -> Floats | None:
        """(targets, labels) raw scores of a table, in nats; None where it has none."""
        return self._by_label(table, self.tables[table].table.log_likelihoods)

    def _by_label(self, table: int, column: Floats | None) -> Floats | None:
        """A column of lists over labels, on the common targets and in the first table's label order."""
        if column is None:
            return None
        found = self.tables[table].table
        order = [found.info.labels.index(label) for label in self.first.info.labels]
        if order == sorted(order) and np.array_equal(self.rows[table], np.arange(len(found))):
            return column  # a copy of a large table would cost
        return column[self.rows[table]][:, order]

    def with_column(self, name: str) -> tuple[Predictions, Integers] | None:
        """The first table that has an optional column, and its rows; None where no table has it."""
        for named, rows in zip(self.tables, self.rows, strict=True):
            if getattr(named.table, name) is not None:
                return named.table, rows
        return None


def match(tables: Sequence[NamedTable], on: On = "all", *, same_corpus: bool = True) -> Matched:
    """Line up the rows of at least two tables.

    Args:
        tables: Tables whose rows and labels may be in any order.
        on: `all` requires the same targets in every table; `intersection` takes those that all have.
        same_corpus: Refuse tables of different corpora (unless on the intersection) and of different splits.

    Raises:
        PredictionsError: They cannot be compared; the message gives the reason and a remedy.
    """
    first, *others = tables
    for other in others:
        _check_pair(first, other, on, same_corpus)
    rows = [_rows_of(first.table, other.table) for other in others]
    kept = np.all([found >= 0 for found in rows], axis=0)
    if on == "all":
        for other, found in zip(others, rows, strict=True):
            _check_same_targets(first, other, found)
    elif not kept.any():
        raise PredictionsError(f"{_names(tables)} have no target in common, so there is nothing to compare")
    of_first = np.flatnonzero(kept)
    lined_up = (of_first, *(found[of_first] for found in rows))
    for other, found in zip(others, lined_up[1:], strict=True):
        _check_gold(first, other, of_first, found)
    labelled = first.table.gold_index[of_first] >= 0
    if not labelled.any():
        raise PredictionsError(
            f"{_names(tables)}: no row has a gold label, so there is nothing to compare; predict a labelled split"
        )
    return Matched(
        tuple(tables),
        tuple(found[labelled] for found in lined_up),
        int(np.sum(~labelled)),
        _notes(tables, len(of_first), on),
    )


def _in_labels_of(info: PredictionsInfo, table: Predictions, index: Integers) -> Integers:
    """(rows,) indices into the labels of `table` as indices into those of `info`; -1 (invalid, no gold) stays -1."""
    to = np.array([*(info.labels.index(label) for label in table.info.labels), metrics.INVALID], dtype=np.int64)
    found: Integers = to[index]
    return found


def _check_pair(a: NamedTable, b: NamedTable, on: On, same_corpus: bool) -> None:
    one, other = a.table.info, b.table.info
    if set(one.labels) != set(other.labels):
        found = f"{', '.join(one.labels)} and {', '.join(other.labels)}"
        raise PredictionsError(f"{_names((a, b))} have different label sets: {found}")
    if same_corpus and one.split != other.split:
        raise PredictionsError(
            f"{_names((a, b))} are about different splits, '{one.split}' and '{other.split}'; "
            "predict one split with both"
        )
    if same_corpus and on == "all" and one.corpus_sha256 != other.corpus_sha256:
        raise PredictionsError(
            f"{_names((a, b))} are about different corpora: {_corpus(one)} and {_corpus(other)}; predict one corpus "
            "with both, or compare what they have in common with --on intersection"
        )


def _corpus(info: PredictionsInfo) -> str:
    healed = ", gap-healed" if info.healed else ""
    return f"'{info.corpus_name}' (version {info.corpus_version}{healed}, hash {info.corpus_sha256[:12]})"


def _rows_of(a: Predictions, b: Predictions) -> Integers:
    """(rows of a,) the row of `b` with the same target, -1 where there is none."""
    if a.dialogue_id == b.dialogue_id and a.utterance_id == b.utterance_id:
        return np.arange(len(a), dtype=np.int64)
    rows = {key: i for i, key in enumerate(b.keys)}
    return np.array([rows.get(key, -1) for key in a.keys], dtype=np.int64)


def _check_same_targets(a: NamedTable, b: NamedTable, found: NDArray[np.int64]) -> None:
    common = int(np.sum(found >= 0))
    only_a, only_b = len(a.table) - common, len(b.table) - common
    if not (only_a or only_b):
        return
    one, other = (a, b) if only_a else (b, a)
    known = set(other.table.keys)
    lone = next(key for key in one.table.keys if key not in known)
    raise PredictionsError(
        f"{_names((a, b))} are about different targets: {only_a} only in the first, {only_b} only in the second, "
        f"such as {lone}; predict the same split of the same corpus with both"
    )


def _check_gold(a: NamedTable, b: NamedTable, rows_a: Integers, rows_b: Integers) -> None:
    gold = _in_labels_of(a.table.info, b.table, b.table.gold_index)[rows_b]
    differing = np.flatnonzero(a.table.gold_index[rows_a] != gold)
    if not len(differing):
        return
    for named, found in ((a, a.table.gold_index[rows_a]), (b, gold)):
        if not (found >= 0).any():
            raise PredictionsError(
                f"{_names((a, b))}: {named.name} has no gold labels, the other has; predict on the labelled corpus"
            )
    where = int(rows_a[differing[0]]), int(rows_b[differing[0]])
    said = " and ".join(
        t.table.gold[i] or "none" if t.table.gold else "none" for t, i in zip((a, b), where, strict=True)
    )
    raise PredictionsError(
        f"{_names((a, b))} have other gold labels in {len(differing)} rows, first {a.table.keys[where[0]]}: {said}; "
        "one of them is about another corpus, or damaged"
    )


def _notes(tables: Sequence[NamedTable], common: int, on: On) -> tuple[str, ...]:
    notes = []
    first = tables[0].table.info
    left_out = [f"{len(t.table) - common:,} of {t.name}" for t in tables if len(t.table) > common]
    if left_out:
        notes.append(
            f"Compared on the intersection: {common:,} utterances that all tables have; left out {', '.join(left_out)}."
        )
    elif on == "intersection":
        notes.append(f"Compared on the intersection, which leaves out nothing: all have the {common:,} utterances.")
    for other in (t.table.info for t in tables[1:]):
        if other.corpus_sha256 != first.corpus_sha256:
            notes.append(
                f"{first.system} and {other.system} answered from different corpora with the same targets "
                f"(hashes {first.corpus_sha256[:12]} and {other.corpus_sha256[:12]})."
            )
    return tuple(dict.fromkeys(notes))


def _names(tables: Sequence[NamedTable]) -> str:
    return " and ".join(named.name for named in tables)
