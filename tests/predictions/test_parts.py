"""Tables in parts: what is no such folder, and parts that do not belong together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from erc_llm.errors import PredictionsError
from erc_llm.predictions import Predictions, PredictionsInfo, read_predictions, write_predictions
from erc_llm.predictions.parts import INDEX, write_index

INFO = PredictionsInfo(
    system="a system",
    labels=("Joyful", "Sad"),
    corpus_sha256="0" * 64,
    corpus_name="talks",
    corpus_version="own",
    split="all",
)


def _part(folder: Path, number: int, info: PredictionsInfo = INFO, gold: str | None = "Sad") -> str:
    columns = {"dialogue_id": [f"d{number}"], "utterance_id": ["u1"], "predicted": ["Sad"], "gold": [gold]}
    write_predictions(Predictions.from_columns(info, columns), folder / f"part-{number}.parquet")
    return f"part-{number}.parquet"


def test_a_column_that_some_parts_lack_is_empty_there(tmp_path: Path) -> None:
    names = [_part(tmp_path, 0, gold=None), _part(tmp_path, 1)]
    write_index(tmp_path, names, 2, 2, 0)
    table = read_predictions(tmp_path)
    assert table.dialogue_id == ("d0", "d1")
    assert table.gold == (None, "Sad")


def test_parts_of_other_systems_are_refused(tmp_path: Path) -> None:
    names = [_part(tmp_path, 0), _part(tmp_path, 1, replace(INFO, system="another"))]
    write_index(tmp_path, names, 2, 2, 0)
    with pytest.raises(PredictionsError, match=r"part-1\.parquet: its metadata differs"):
        read_predictions(tmp_path)


def test_an_id_that_occurs_in_two_parts_is_refused(tmp_path: Path) -> None:
    names = [_part(tmp_path, 0)]
    (tmp_path / "part-1.parquet").write_bytes((tmp_path / "part-0.parquet").read_bytes())
    write_index(tmp_path, [*names, "part-1.parquet"], 2, 2, 0)
    with pytest.raises(PredictionsError, match="occurs in 2 rows"):
        read_predictions(tmp_path)


def test_a_part_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    names = [_part(tmp_path, 0), _part(tmp_path, 1)]
    write_index(tmp_path, names, 2, 2, 0)
    (tmp_path / "part-1.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(PredictionsError, match=r"part-1\.parquet: damaged or cut off"):
        read_predictions(tmp_path)
    (tmp_path / "part-1.parquet").unlink()
    with pytest.raises(PredictionsError, match=r"1 of 2 parts are missing, such as part-1\.parquet"):
        read_predictions(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        (json.dumps({"format_version": 9, "parts": []}), "format version 9"),
        (json.dumps({"format_version": 1, "parts": ["../secret.parquet"]}), "expected a file of this folder"),
        (json.dumps({"format_version": 1, "parts": []}), "every dialogue failed"),
    ],
)
def test_an_index_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / INDEX).write_text(content, "utf-8")
    with pytest.raises(PredictionsError, match=message):
        read_predictions(tmp_path)
