"""Storage of predictions tables: Parquet, or JSONL, which people can read.

Input: a `Predictions` and a path, or a file. Output: a complete file, or a checked `Predictions`.
Does not depend on: corpora, models, metrics.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from erc_llm.errors import PredictionsError
from erc_llm.files import write_whole
from erc_llm.predictions.columns import KINDS
from erc_llm.predictions.info import FORMAT_VERSION, PredictionsInfo
from erc_llm.predictions.parts import parts_of
from erc_llm.predictions.table import REQUIRED, Predictions

if TYPE_CHECKING:
    import pyarrow as pa

_KEY = b"erc_llm"  # key of the metadata in the Parquet schema


def write_predictions(predictions: Predictions, path: Path | str) -> None:
    """Write a table: JSONL if the name ends in `.jsonl`, Parquet otherwise. Missing columns are left out.

    JSONL starts with a line `{"info": metadata, "rows": number of rows}`; each further line is a row. Missing folders
    are created. The file gets its name only once it is complete.

    Raises:
        PredictionsError: The file cannot be written, for example because the disk is full.
    """
    path = Path(path)
    write = _write_jsonl if path.suffix.lower() == ".jsonl" else _write_parquet
    write_whole(path, lambda file: write(predictions, file), PredictionsError)


def strip_text(folder: Path) -> None:
    """Remove the text of the utterances from every `*.parquet` table in a folder.

    Raises:
        PredictionsError: A table cannot be read or written.
    """
    for path in sorted(folder.glob("*.parquet")):
        table = read_predictions(path)
        stripped = table.without_text()
        if stripped is not table:
            write_predictions(stripped, path)


def read_predictions(path: Path | str, without: Collection[str] = ()) -> Predictions:
    """Read a table written by `write_predictions`, or a folder of such parts; the format is recognised by the content.

    Optional columns that the file lacks become None and are listed in `Predictions.missing`.

    Args:
        path: The file, or a folder that a sharded prediction wrote.
        without: Optional columns to leave out, which saves memory for large tables.

    Raises:
        PredictionsError: No such file, not a predictions table, cut off, of another format version, without a required
            column, or with values that break a rule. The message names the file.
    """
    path = Path(path)
    if path.is_dir():
        return _read_parts(path, without)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise PredictionsError(f"{path}: no such file; `erc-llm predict` writes predictions tables") from None
    except OSError as error:
        raise PredictionsError(f"{path}: cannot be read: {error.strerror or error}") from None
    read = _read_jsonl if content.lstrip()[:1] == b"{" else _read_parquet
    try:
        info, columns = read(content, without)
        return Predictions.from_columns(info, columns)
    except PredictionsError as error:
        raise PredictionsError(f"{path}: {error}") from error


def _read_parts(folder: Path, without: Collection[str]) -> Predictions:
    """The parts of a folder as one table.

    Raises:
        PredictionsError: A part cannot be read, or is of another system than the others.
    """
    import pyarrow as pa

    tables: list[pa.Table] = []
    infos: list[PredictionsInfo] = []
    for part in parts_of(folder):
        try:
            info, table = _open_parquet(part.read_bytes(), without)
        except (PredictionsError, OSError) as error:
            raise PredictionsError(f"{part}: {error}") from error
        if infos and info != infos[0]:
            raise PredictionsError(f"{part}: its metadata differs from that of the parts before; predict them together")
        tables.append(table)
        infos.append(info)
    whole = pa.concat_tables(tables, promote_options="default")
    tables.clear()
    try:
        return Predictions.from_columns(infos[0], _columns(whole))
    except PredictionsError as error:
        raise PredictionsError(f"{folder}: {error}") from error


def _write_jsonl(predictions: Predictions, file: IO[bytes]) -> None:
    columns = predictions.columns()
    head = {"info": predictions.info.as_dict(), "rows": len(predictions)}
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    for record in (head, *rows):
        file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")


def _write_parquet(predictions: Predictions, file: IO[bytes]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {
        "text": pa.string(),
        "texts": pa.list_(pa.string()),
        "integer": pa.int64(),
        "flag": pa.bool_(),
        "number": pa.float64(),
        "numbers": pa.list_(pa.float64()),
    }
    columns = predictions.columns()
    metadata = {_KEY: json.dumps(predictions.info.as_dict(), ensure_ascii=False).encode()}
    schema = pa.schema([(name, types[KINDS[name]]) for name in columns], metadata=metadata)
    pq.write_table(pa.table(columns, schema=schema), file, write_page_checksum=True)


def _read_jsonl(content: bytes, without: Collection[str]) -> tuple[PredictionsInfo, dict[str, Any]]:
    records = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise PredictionsError(f"line {number}: not JSON ({error}); the file is damaged or cut off") from None
        if not isinstance(records[-1], dict):
            raise PredictionsError(f"line {number}: expected a JSON object")
    head, rows = records[0], records[1:]
    if "info" not in head:
        raise PredictionsError('line 1: expected the metadata, {"info": ...}; this is not a predictions table')
    if head.get("rows", len(rows)) != len(rows):
        raise PredictionsError(f"the first line states {head['rows']} rows, found {len(rows)}; the file is cut off")
    names = {name for row in rows for name in row}.difference(without) if rows else set(REQUIRED)
    return _read_info(head["info"]), {name: [row.get(name) for row in rows] for name in names}


def _read_parquet(content: bytes, without: Collection[str]) -> tuple[PredictionsInfo, dict[str, Any]]:
    info, table = _open_parquet(content, without)
    return info, _columns(table)


def _open_parquet(content: bytes, without: Collection[str]) -> tuple[PredictionsInfo, pa.Table]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if content[:4] != b"PAR1":
        raise PredictionsError("neither Parquet nor JSONL; expected a table written by `erc-llm predict`")
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        names = [name for name in KINDS if name in file.schema_arrow.names and name not in without]
        table = file.read(columns=names).replace_schema_metadata(None)
        metadata = json.loads((file.schema_arrow.metadata or {}).get(_KEY, b"null"))
    except (pa.ArrowException, OSError, ValueError, KeyError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PredictionsError(f"damaged or cut off ({reason}); make it again with `erc-llm predict`") from None
    if metadata is None:
        raise PredictionsError(f"Parquet without the metadata '{_KEY.decode()}'; this is not a predictions table")
    return _read_info(metadata), table


def _columns(table: pa.Table) -> dict[str, Any]:
    return {name: _values(table.column(name)) for name in table.column_names}


def _values(column: Any) -> Any:
    """An Arrow column as an array of its final type if possible, otherwise as plain values for `from_columns`.

    Equal texts share one object, because a million rows repeat few labels, scenes and names.
    """
    import pyarrow as pa

    column = column.combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # columns of more than 2 GB stay in chunks
        return column.to_pylist()
    if pa.types.is_string(column.type):
        return _shared_texts(column)
    if pa.types.is_list(column.type) and not column.null_count:
        ends, inner = column.offsets.to_numpy(), column.flatten()
        if pa.types.is_string(inner.type):
            texts = _shared_texts(inner)
            return [texts[start:end] for start, end in zip(ends[:-1] - ends[0], ends[1:] - ends[0], strict=True)]
        width = np.diff(ends)
        if pa.types.is_float64(inner.type) and len(width) and not inner.null_count and (width == width[0]).all():
            numbers = inner.to_numpy().reshape(len(width), -1)
            return numbers if (numbers < np.inf).all() else column.to_pylist()
    if pa.types.is_int64(column.type) and not column.null_count:
        return column.to_numpy()
    return column.to_pylist()


def _shared_texts(column: Any) -> list[str | None]:
    if column.null_count == len(column):
        return [None] * len(column)
    coded = column.dictionary_encode()
    known = np.array([*coded.dictionary.to_pylist(), None], dtype=object)
    return known[coded.indices.fill_null(len(known) - 1).to_numpy()].tolist()  # type: ignore[no-any-return]


def _read_info(record: object) -> PredictionsInfo:
    from pydantic import TypeAdapter, ValidationError

    version = record.get("format_version") if isinstance(record, dict) else None
    if version != FORMAT_VERSION:
        raise PredictionsError(
            f"format version {version!r}; this version of erc-llm reads {FORMAT_VERSION}; make the table again"
        )
    try:
        return TypeAdapter(PredictionsInfo).validate_json(json.dumps(record), strict=True)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise PredictionsError(f"metadata: {problems}") from None
