"""Tables of the page: what a filter leaves, the scene around an error, and files that change."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from erc_llm.errors import PredictionsError
from erc_llm.predictions import write_predictions
from erc_llm.ui.tables import Filter, Tables, confidences, matching, row_of, scene_around, summary
from tests.evaluation.compared_tables import LABELS, SIZE, changed, table


def test_the_summary_counts_lines_and_errors() -> None:
    given = table()
    found = summary(given)
    assert (found.rows, found.labels, found.system) == (len(given), LABELS, "tuned")
    assert found.wrong == sum(g != p for g, p in zip(given.gold or (), given.predicted, strict=True))
    spoken = [name for names in given.speakers or () for name in names]
    assert dict(found.speakers) == {name: spoken.count(name) for name in set(spoken)}
    assert (found.has_text, found.has_probabilities) == (True, True)
    bare = summary(changed(given, text=None, probabilities=None))
    assert (bare.has_text, bare.has_probabilities) == (False, False)


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(),
        Filter(wrong=False),
        Filter(gold="Neutral"),
        Filter(answer="Sad"),
        Filter(gold="Joyful", answer="Neutral", speaker="Ann"),
        Filter(speaker="Dee", wrong=False),
        Filter(least=0.5, most=0.8),
        Filter(speaker="nobody"),
    ],
)
def test_a_filter_leaves_exactly_the_rows_that_it_names(wanted: Filter) -> None:
    given = table()
    assert given.gold is not None
    assert given.speakers is not None
    expected = set()
    for i in range(len(given)):
        sure = confidences(given)[i]
        expected |= {i} if (
            (not wanted.wrong or given.gold[i] != given.predicted[i])
            and wanted.gold in (None, given.gold[i])
            and wanted.answer in (None, given.predicted[i])
            and (wanted.speaker is None or wanted.speaker in given.speakers[i])
            and wanted.least <= sure <= wanted.most
        ) else set()  # fmt: skip
    rows = matching(given, wanted).tolist()
    assert set(rows) == expected
    assert len(rows) == len(expected)
    assert bool(rows) == (wanted.speaker != "nobody")
    falling = confidences(given)[rows]
    assert (np.diff(falling) <= 0).all()


def test_the_order_of_the_table_is_kept_on_request() -> None:
    rows = matching(table(), Filter(order="place")).tolist()
    assert rows == sorted(rows)


def test_without_probabilities_every_error_is_found_unless_a_confidence_is_asked_for() -> None:
    given = changed(table(), probabilities=None)
    assert len(matching(given, Filter())) == summary(given).wrong
    assert len(matching(given, Filter(least=0.1))) == 0
    assert row_of(given, 0).probabilities is None


def test_a_row_is_shown_in_its_scene() -> None:
    given = table()
    row = int(matching(given, Filter())[0])
    scene = scene_around(given, row)
    assert row in [each.row for each in scene]
    assert {each.dialogue_id for each in scene} == {given.dialogue_id[row]}
    assert len(scene) <= SIZE
    shown = row_of(given, row)
    assert given.probabilities is not None
    assert shown.probabilities == tuple(given.probabilities[row])
    assert (shown.line.gold, shown.line.answer) == ((given.gold or ())[row], given.predicted[row])


def test_what_is_not_in_the_table_is_said() -> None:
    with pytest.raises(PredictionsError, match="label 'Bored': the table has Joyful, Mad, Neutral, Sad"):
        matching(table(), Filter(gold="Bored"))
    with pytest.raises(PredictionsError, match="row 240: the table has 240 rows"):
        scene_around(table(), 240)
    with pytest.raises(PredictionsError, match="row -1"):
        row_of(table(), -1)


def test_a_table_is_read_once_and_again_when_its_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "dev.parquet"
    write_predictions(table(), path)
    tables = Tables([path])
    first = tables.table(0)
    assert tables.table(0) is first
    write_predictions(table(system="other"), path)
    os.utime(path, ns=(1, 1))
    assert tables.table(0).info.system == "other"
    path.unlink()
    with pytest.raises(PredictionsError, match=r"dev\.parquet: cannot be read: No such file"):
        tables.table(0)
    with pytest.raises(PredictionsError, match="table 1: found 1 tables"):
        tables.table(1)
