"""The table of ingredients: arms against the plain recipe, on its rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import ingredients
from erc_llm.calibration.choose import decide_by_others
from erc_llm.evaluation.report import evaluate
from erc_llm.predictions import Predictions, write_predictions
from tests.benchmarks.test_decided_tables import cross_fitted, percent, rows_of
from tests.predictions.scored_tables import CORPUS


def without_episode(table: Predictions, episode: str) -> Predictions:
    """The table less the rows of an episode."""
    columns = table.columns()
    kept = np.flatnonzero([name != episode for name in columns["episode"]])
    return Predictions.from_columns(table.info, {k: [values[i] for i in kept] for k, values in columns.items()})


def test_tables_are_compared_with_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = cross_fitted(0, CORPUS)
    for name in ("plain", "other"):
        write_predictions(plain, tmp_path / f"{name}.parquet")
    assert ingredients.main([f"{name}={tmp_path / name}.parquet" for name in ("plain", "other")]) == 0
    first, second = rows_of(capsys.readouterr().out)
    expected = percent(evaluate(decide_by_others(plain, "weighted_f1"), draws=20).headline.weighted_f1.value)
    assert first[0] == "plain"
    assert first[1].startswith(f"{expected} (")
    assert first[2:4] == ["", ""]
    assert second[:4] == ["other", first[1], *["+0.00 (+0.00 to +0.00)"] * 2]
    assert second[7:] == ["+0.0000 (+0.0000 to +0.0000)"] * 2


def test_a_table_with_more_rows_counts_on_those_of_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = cross_fitted(0, CORPUS)
    part = without_episode(whole, "e3")
    paths = [tmp_path / "part.parquet", tmp_path / "whole.parquet"]
    for path, table in zip(paths, (part, whole), strict=True):
        write_predictions(table, path)
    assert ingredients.main([f"part={paths[0]}", f"whole={paths[1]}"]) == 0
    (_, row) = rows_of(capsys.readouterr().out)
    assert row[0] == "whole"
    assert " to " in row[2]
    assert ingredients.main([f"whole={paths[1]}", f"part={paths[0]}"]) == 2
    assert "part: its table lacks 50 of the 600 rows" in capsys.readouterr().err


def test_a_stopped_cross_fitting_is_compared_on_what_its_finished_folds_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = cross_fitted(0, CORPUS)
    episodes = sorted(set(whole.columns()["episode"]))
    part = whole
    for episode in episodes[-2:]:
        part = without_episode(part, episode)
    folds = tmp_path / "arm-folds"
    for number, own in enumerate((episodes[0], episodes[1:-2]), start=1):
        left_out = part
        for episode in set(episodes[:-2]) - set([own] if isinstance(own, str) else own):
            left_out = without_episode(left_out, episode)
        left_out = replace(left_out, info=replace(left_out.info, folds=None))
        write_predictions(left_out, folds / f"fold-{number}" / "left_out.parquet")
    (folds / "fold-3").mkdir()  # not finished
    for name, table in (("whole", whole), ("part", part)):
        write_predictions(table, tmp_path / f"{name}.parquet")
    assert len(ingredients.read_folds(folds)) == len(part)
    assert ingredients.main([f"whole={tmp_path / 'whole.parquet'}", f"arm={folds}"]) == 0
    (first, second) = rows_of(capsys.readouterr().out)
    assert second[2] == second[3] == "+0.00 (+0.00 to +0.00)", "calibrated on the same rows"
    assert ingredients.main([f"part={tmp_path / 'part.parquet'}", f"whole={tmp_path / 'whole.parquet'}"]) == 0
    (alone, _) = rows_of(capsys.readouterr().out)
    assert alone[1:] == first[1:]
    assert ingredients.main([f"whole={tmp_path / 'whole.parquet'}", f"arm={folds / 'fold-3'}"]) == 2
    assert "expected the folds of a cross-fitting" in capsys.readouterr().err


def test_a_table_without_a_name_is_the_users_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert ingredients.main(["a.parquet"]) == 2
    assert "expected NAME=FILE" in capsys.readouterr().err
