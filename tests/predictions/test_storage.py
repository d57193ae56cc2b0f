"""Files of predictions: they give back what they got, or say what is wrong with them."""

from __future__ import annotations

import builtins
import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from erc_llm.errors import PredictionsError
from erc_llm.predictions import (
    Predictions,
    read_predictions,
    strip_text,
    write_predictions,
)
from tests.predictions.small_tables import FIRST, INFO, LABELS, SECOND, answers, columns

SUFFIXES = (".parquet", ".jsonl")

words = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
labels = st.sampled_from(LABELS)
weights = st.lists(st.floats(0.01, 1), min_size=3, max_size=3)


def probabilities(values: list[float]) -> list[float]:
    return [value / sum(values) for value in values]


@st.composite
def tables(draw: st.DrawFn) -> Predictions:
    """Any table: each optional column there or not, nulls wherever a row may have one."""
    n = draw(st.integers(0, 5))
    keys = draw(st.lists(st.tuples(words, words), min_size=n, max_size=n, unique=True))
    whole = st.integers(-(2**63), 2**63 - 1)
    floats = st.floats(max_value=0, allow_nan=False)
    rows = {
        "position": whole,
        "episode": st.none() | words,
        "scene_order": whole,
        "speakers": st.lists(words, max_size=3),
        "text": words,
        "gold": st.none() | labels,
        "previous_gold_same_speaker": st.none() | labels,
        "history_length": whole,
        "first_seen": st.booleans(),
        "raw_answer": st.none() | words,
        "log_likelihoods": st.none() | st.lists(floats, min_size=3, max_size=3),
        "probabilities": st.none() | weights.map(probabilities),
        "label_mass": st.none() | st.floats(0, 1),
    }
    invalid = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    drawn: dict[str, Any] = {
        "dialogue_id": [key[0] for key in keys],
        "utterance_id": [key[1] for key in keys],
        "predicted": [draw(st.none() | labels) if i else draw(labels) for i in invalid],
        "invalid": invalid,
    }
    for name, values in rows.items():
        drawn[name] = draw(st.none() | st.lists(values, min_size=n, max_size=n))
    info = replace(INFO, system=draw(words), prior=draw(st.none() | words), seed=draw(st.none() | st.integers(0, 9)))
    return Predictions.from_columns(info, drawn)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables())
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_gives_back_what_was_written(tmp_path: Path, suffix: str, table: Predictions) -> None:
    path = tmp_path / f"table{suffix}"
    write_predictions(table, path)
    again = read_predictions(path)
    assert again.info == table.info
    assert again.columns() == table.columns()
    assert again.missing == table.missing
    assert os.listdir(tmp_path) == [path.name]


@pytest.fixture
def table() -> Predictions:
    given = answers(FIRST, SECOND, probabilities=[0.2, 0.5, 0.3], log_likelihoods=[-3, -2, -2.5], label_mass=0.4)
    return Predictions.from_corpus(INFO, [FIRST, SECOND], given, history=[FIRST, SECOND])


def test_the_content_tells_the_format(tmp_path: Path, table: Predictions) -> None:
    write_predictions(table, tmp_path / "new" / "folder" / "table.jsonl")
    (tmp_path / "new" / "folder" / "table.jsonl").rename(tmp_path / "renamed.parquet")
    assert read_predictions(tmp_path / "renamed.parquet").columns() == table.columns()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_columns_can_be_left_out(tmp_path: Path, table: Predictions, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    write_predictions(table, path)
    less = read_predictions(path, without=("text", "probabilities"))
    assert set(less.missing) - set(table.missing) == {"text", "probabilities"}
    rest = {name: values for name, values in table.columns().items() if name not in ("text", "probabilities")}
    assert less.columns() == rest


def test_what_a_file_repeats_is_one_object_and_arrays_are_sealed(tmp_path: Path, table: Predictions) -> None:
    write_predictions(table, tmp_path / "t.parquet")
    again = read_predictions(tmp_path / "t.parquet")
    assert again.predicted[0] is again.predicted[1]
    assert again.probabilities is not None
    assert not again.probabilities.flags.writeable


def test_a_table_from_before_selection_was_stated_says_that_it_is_unknown(tmp_path: Path, table: Predictions) -> None:
    write_predictions(table, tmp_path / "t.jsonl")
    head, *lines = (tmp_path / "t.jsonl").read_text("utf-8").splitlines()
    old = json.loads(head)
    for name in ("selection", "recipe_sha256"):
        del old["info"][name]
    (tmp_path / "t.jsonl").write_text("\n".join([json.dumps(old), *lines]), "utf-8")
    info = read_predictions(tmp_path / "t.jsonl").info
    assert (info.selection, info.recipe_sha256) == (None, None)


def test_others_can_read_the_files(tmp_path: Path, table: Predictions) -> None:
    write_predictions(table, tmp_path / "t.parquet")
    write_predictions(table, tmp_path / "t.jsonl")
    stored = pq.read_table(tmp_path / "t.parquet")
    assert json.loads(stored.schema.metadata[b"erc_llm"])["corpus_version"] == "own"
    assert stored.schema.field("probabilities").type == pa.list_(pa.float64())
    head, first, *_ = map(json.loads, (tmp_path / "t.jsonl").read_text("utf-8").splitlines())
    assert head["info"]["labels"] == list(LABELS)
    assert first["gold"] == "Joyful"


class FullDisk:
    """A file on a disk with room for `room` bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, content: Any) -> int:
        self.room -= len(bytes(content))
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(content)  # type: ignore[no-any-return]

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("room", [0, 300])
@pytest.mark.parametrize("before", [None, b"an older table"])
def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, table: Predictions, monkeypatch: pytest.MonkeyPatch, suffix: str, room: int, before: bytes | None
) -> None:
    path, real_open = tmp_path / f"table{suffix}", builtins.open
    if before is not None:
        path.write_bytes(before)

    def open_on_full_disk(name: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = real_open(name, mode, *args, **kwargs)
        return FullDisk(file, room) if "w" in mode else file

    monkeypatch.setattr(builtins, "open", open_on_full_disk)
    with pytest.raises(PredictionsError, match=r"table\.\w+: cannot be written: No space left on device") as caught:
        write_predictions(table, path)
    monkeypatch.undo()
    assert caught.value.exit_code == 2
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([] if before is None else [before])


def test_a_disk_that_is_full_only_when_flushed_leaves_nothing(
    tmp_path: Path, table: Predictions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(PredictionsError, match="No space left"):
        write_predictions(table, tmp_path / "table.parquet")
    assert not list(tmp_path.iterdir())


def test_a_rename_that_fails_keeps_the_older_table(
    tmp_path: Path, table: Predictions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "table.parquet").write_bytes(b"an older table")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(PredictionsError, match="No space left"):
        write_predictions(table, tmp_path / "table.parquet")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"an older table"]


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path, table: Predictions) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PredictionsError, match="cannot be written"):
        write_predictions(table, tmp_path / "file" / "table.parquet")
    with pytest.raises(PredictionsError, match="cannot be written"):
        write_predictions(table, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(PredictionsError, match=r"nothing\.parquet: no such file"):
        read_predictions(tmp_path / "nothing.parquet")
    with pytest.raises(PredictionsError, match=r"a folder without predictions\.json; expected a file"):
        read_predictions(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"dialogue_id,predicted\n1,Sad\n", b"\x00" * 50, "Grüße".encode("latin-1")]
)
def test_another_kind_of_file_says_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(PredictionsError, match="neither Parquet nor JSONL"):
        read_predictions(tmp_path / "t.parquet")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_truncated_file_never_passes_for_a_whole_one(tmp_path: Path, table: Predictions, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    write_predictions(table, path)
    whole = path.read_bytes()
    for size in range(1, len(whole) - 1, 37):
        path.write_bytes(whole[:size])
        with pytest.raises(PredictionsError, match=r"t\.\w+: .*(cut off|neither Parquet nor JSONL)"):
            read_predictions(path)


def test_jsonl_cut_between_two_lines_is_noticed(tmp_path: Path, table: Predictions) -> None:
    path = tmp_path / "t.jsonl"
    write_predictions(table, path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    with pytest.raises(PredictionsError, match=r"states 7 rows, found 5; the file is cut off"):
        read_predictions(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_never_a_traceback(
    tmp_path: Path, table: Predictions, suffix: str, data: st.DataObject
) -> None:
    path = tmp_path / f"t{suffix}"
    write_predictions(table, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    message = None
    try:
        read_predictions(path)
    except PredictionsError as error:
        message = str(error)
    assert message is None or str(path) in message


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"rows": 0}'], "expected the metadata"),
        (['{"info": []}'], "format version None"),
        (['{"info": {"format_version": 2}}'], "format version 2; this version of erc-llm reads 1"),
        (['{"info": {"format_version": 1}}'], "system: Field required.*labels: Field required"),
        ([{"labels": "Sad"}], "metadata: labels"),
        ([{"labels": ["Sad"]}], "at least two different names"),
        ([{"context": "future"}], "metadata: context"),
        ([{}, "[1]"], "line 2: expected a JSON object"),
        ([{}, '{"dialogue_id": "a"'], "line 2: not JSON"),
        ([{}, "[" * 100_000], "line 2: not JSON"),
        ([{}, '{"dialogue_id": "a", "utterance_id": "1"}'], "no column predicted"),
        ([{}, '{"dialogue_id": "a", "utterance_id": 1, "predicted": "Sad"}'], "row 1: expected text, found 1"),
    ],
)
def test_a_wrong_jsonl_says_what_is_wrong(tmp_path: Path, lines: list[Any], message: str) -> None:
    info = {**INFO.as_dict(), "train_shares": None}
    written = [each if isinstance(each, str) else json.dumps({"info": info | each}) for each in lines]
    (tmp_path / "t.jsonl").write_text("\n".join(written), "utf-8")
    with pytest.raises(PredictionsError, match=message):
        read_predictions(tmp_path / "t.jsonl")


def write_parquet(path: Path, metadata: bool = True, **others: Any) -> None:
    values = {name: column for name, column in columns(**others).items() if column is not None}
    stored = pa.table(values)
    if metadata:
        stored = stored.replace_schema_metadata({b"erc_llm": json.dumps(INFO.as_dict()).encode()})
    pq.write_table(stored, path)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"metadata": False}, "without the metadata 'erc_llm'"),
        ({"dialogue_id": None}, "no column dialogue_id"),
        ({"utterance_id": None, "predicted": None}, "no column utterance_id, predicted"),
        ({"predicted": [1, 2]}, "'predicted', row 1: expected text, found 1"),
        ({"predicted": ["Sad", "Bored"]}, "'Bored' is not among the labels"),
        ({"utterance_id": ["1", "1"]}, "occurs in 2 rows"),
        ({"probabilities": [[0.5, 0.4, 0.0], [1.0, 0.0, 0.0]]}, "found a sum of 0.9"),
        ({"probabilities": [[1.0], [1.0]]}, "expected 3 numbers, one per label, found 1"),
    ],
)
def test_a_wrong_parquet_says_what_is_wrong(tmp_path: Path, others: dict[str, Any], message: str) -> None:
    write_parquet(tmp_path / "t.parquet", **others)
    with pytest.raises(PredictionsError, match=rf"t\.parquet: .*{message}"):
        read_predictions(tmp_path / "t.parquet")


def test_optional_columns_may_lack_and_strange_ones_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "split=dev" / "t.parquet"  # a folder that pyarrow would take for a partition
    path.parent.mkdir()
    write_parquet(path, remark=["mine", "too"], gold=["Sad", None])
    table = read_predictions(path)
    assert table.gold == ("Sad", None)
    assert table.missing[:3] == ("position", "episode", "scene_order")
    assert "probabilities" in table.missing
    assert "remark" not in table.columns()


@pytest.mark.parametrize(
    ("decoding", "kept"),
    [("constrained generation", True), ("constrained generation behind reasons", False), ("free generation", False)],
)
def test_a_table_without_text_keeps_no_answer_that_may_quote_it(tmp_path: Path, decoding: str, kept: bool) -> None:
    """Also where the text itself was taken out before."""
    rows = columns(raw_answer=["Ada says 'I lost it.' Sad", "Sad"], text=["I lost it.", "Oh."])
    table = Predictions.from_columns(replace(INFO, decoding=decoding), rows)
    for written in (table, replace(table, text=None)):
        path = tmp_path / "table.parquet"
        write_predictions(written, path)
        strip_text(tmp_path)
        stripped = read_predictions(path)
        assert stripped.text is None
        assert (stripped.raw_answer is not None) == kept
        assert stripped.without_text() is stripped
