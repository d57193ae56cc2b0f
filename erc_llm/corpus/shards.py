"""Shards: parts of corpora that are too large to be read at once, of some hundred dialogues each.

Files are JSONL of this project (one dialogue a line) or Parquet with the same columns (one dialogue a row), found by
path, glob, folder, any address of fsspec such as `s3://...`, or as a dataset of the hub.

Input: an address. Output: a `ShardPlan`; the dialogues of one shard, or what is wrong with each that cannot be read.
Does not depend on: models, predictions, what becomes of the dialogues.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np

from erc_llm.corpus.datasets_folder import HUB, download_dataset
from erc_llm.corpus.dialogues import Dialogue
from erc_llm.corpus.labels import LabelSet
from erc_llm.corpus.read_warnings import show
from erc_llm.corpus.readers import read_line
from erc_llm.errors import CorpusError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

FileKind = Literal["jsonl", "parquet"]
_KINDS: Mapping[str, FileKind] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_BLOCK = 1 << 20  # bytes that are hashed at a time


@dataclass(frozen=True, slots=True)
class Shard:
    """Some successive dialogues of one file.

    Attributes:
        number: Number of the shard in the plan, from 0.
        address: The file, as fsspec opens it.
        kind: Format of the file.
        start: First byte of the shard (JSONL), or its first row (Parquet).
        length: Number of bytes or rows.
        line: Line of the first dialogue, from 1; in Parquet the row.
        first: Number of dialogues before it, in all files.
        dialogues: Number of its dialogues.
    """

    number: int
    address: str
    kind: FileKind
    start: int
    length: int
    line: int
    first: int
    dialogues: int

    @property
    def file(self) -> str:
        """`folder/file`, without the rest of the address."""
        return "/".join(PurePosixPath(self.address).parts[-2:])


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """All shards of an input.

    Attributes:
        shards: In the order of the files' addresses.
        sha256: Hash of the files' content in this order; it does not depend on where they lie.
        name: Name of the input: that of its folder, or of its only file.
    """

    shards: tuple[Shard, ...]
    sha256: str
    name: str

    @property
    def dialogues(self) -> int:
        """Number of dialogues of all shards."""
        return sum(shard.dialogues for shard in self.shards)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A dialogue that cannot be read.

    Attributes:
        dialogue: Its id; None if not even that is known.
        line: Its line or row, from 1.
        reason: What is wrong, without the address of the file.
    """

    dialogue: str | None
    line: int
    reason: str


def plan_shards(address: str, dialogues: int) -> ShardPlan:
    """Find the files of an input, read each once, and divide them.

    Args:
        address: Path, glob, folder, address of fsspec, or `hub:OWNER/NAME`.
        dialogues: Number of dialogues of a shard.

    Raises:
        CorpusError: No such files, a file that is neither JSONL nor Parquet or is damaged, no dialogues, or an id that
            two dialogues have.
    """
    files = find_files(address)
    shards: list[Shard] = []
    hashes, ids = hashlib.sha256(), _Ids()
    for file in files:
        try:
            read = _scan_parquet if _kind(file) == "parquet" else _scan_jsonl
            digest, found = read(file, ids, dialogues)
        except CorpusError:
            raise
        except Exception as error:  # fsspec's file systems and pyarrow raise errors of many kinds
            raise CorpusError(f"cannot be read: {_reason(error)}; nothing was started", _shown(file)) from error
        hashes.update(digest.encode())
        for start, length, line, count in found:
            first = shards[-1].first + shards[-1].dialogues if shards else 0
            shards.append(Shard(len(shards), file, _kind(file), start, length, line, first, count))
    if not shards:
        raise CorpusError("no dialogues; expected at least one", _shown(address))
    ids.check()
    name = PurePosixPath(files[0]).stem if len(files) == 1 else PurePosixPath(files[0]).parent.name
    return ShardPlan(tuple(shards), hashes.hexdigest(), name or "input")


def find_files(address: str) -> list[str]:
    """The files of an input, sorted, as addresses of fsspec.

    Raises:
        CorpusError: There are none, or one is neither JSONL nor Parquet.
    """
    from fsspec.core import url_to_fs

    if address.startswith(HUB):
        address = str(download_dataset(address.removeprefix(HUB)))
    try:
        system, path = url_to_fs(address)
        if system.isdir(path):
            found = [name for name in system.find(path) if PurePosixPath(name).suffix in _KINDS]
        else:
            found = system.glob(path) if any(mark in path for mark in "*?[") else [path] * system.exists(path)
    except Exception as error:  # a protocol without its package, a bucket without access, a server that is away
        raise CorpusError(f"cannot be opened: {_reason(error)}", _shown(address)) from error
    if not found:
        raise CorpusError("no such files; expected JSONL or Parquet files, one dialogue a line or row", _shown(address))
    files = sorted(system.unstrip_protocol(name) for name in found)
    for file in files:
        _kind(file)
    return files


def read_shard(shard: Shard, labels: LabelSet, aliases: Mapping[str, str]) -> list[Dialogue | Unreadable]:
    """The dialogues of a shard, in order.

    Raises:
        CorpusError: The file cannot be read, or is not what was planned.
    """
    read: list[Dialogue | Unreadable] = []
    try:
        records = list(_parquet_lines(shard) if shard.kind == "parquet" else _jsonl_lines(shard))
    except Exception as error:  # fsspec's file systems and pyarrow raise errors of many kinds
        raise CorpusError(f"cannot be read: {_reason(error)}", _shown(shard.address)) from error
    if len(records) != shard.dialogues:
        raise CorpusError(
            f"found {len(records)} dialogues from line {shard.line}, expected {shard.dialogues}: the file has changed",
            _shown(shard.address),
        )
    for line, text in records:
        try:
            read.append(read_line(text, line, Path(shard.file), labels, aliases))
        except CorpusError as error:
            reason = str(error).removeprefix(f"{shard.file}:").removeprefix(f"{line}:").strip()
            read.append(Unreadable(_id(text), line, reason))
    return read


class _Ids:
    """Ids of dialogues, 8 bytes each, and where they were found."""

    def __init__(self) -> None:
        self._hashes: list[np.ndarray[Any, np.dtype[np.uint64]]] = []
        self._files: list[tuple[str, FileKind]] = []

    def add(self, file: str, kind: FileKind, names: list[str | None]) -> None:
        """Add the ids of one file; None for dialogues without a readable one."""
        self._files.append((file, kind))
        self._hashes.append(np.array([_hash(name) for name in names if name is not None], dtype=np.uint64))

    def check(self) -> None:
        """Refuse an id that occurs twice.

        Raises:
            CorpusError: It does; the message names both places.
        """
        found, counts = np.unique(np.concatenate(self._hashes), return_counts=True)
        twice = set(found[counts > 1].tolist())
        if not twice:
            return
        seen: dict[str, str] = {}
        for file, kind in self._files:
            for place, name in _places(file, kind):
                if name is None or _hash(name) not in twice:
                    continue
                if name in seen:
                    raise CorpusError(
                        f"dialogue id {show(name)} is at {seen[name]} and at {place}; predictions are found by it, so "
                        "it must occur once in all files. Nothing was started"
                    )
                seen[name] = place


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(errors="replace"), digest_size=8).digest())


def _places(file: str, kind: FileKind) -> Iterator[tuple[str, str | None]]:
    """(place, id) of every dialogue of a file."""
    shown = _shown(file)
    if kind == "parquet":
        with _open(file) as opened:
            for row, name in enumerate(_parquet_ids(_parquet(opened)), start=1):
                yield f"{shown}:{row}", name
        return
    with _open(file) as opened:
        for number, line in enumerate(opened, start=1):
            if line.strip():
                yield f"{shown}:{number}", _id(line)


def _scan_jsonl(file: str, ids: _Ids, dialogues: int) -> tuple[str, list[tuple[int, int, int, int]]]:
    """Hash of a file, and (start, bytes, line, dialogues) of its shards."""
    digest, names = hashlib.sha256(), list[str | None]()
    found: list[tuple[int, int, int, int]] = []
    start = place = count = 0
    first = 1
    with _open(file) as opened:
        for number, line in enumerate(opened, start=1):
            digest.update(line)
            place += len(line)
            if not line.strip():
                continue
            first = number if count == 0 else first
            count += 1
            names.append(_id(line))
            if count == dialogues:
                found.append((start, place - start, first, count))
                start, count = place, 0
    if count:
        found.append((start, place - start, first, count))
    ids.add(file, "jsonl", names)
    return digest.hexdigest(), found


def _scan_parquet(file: str, ids: _Ids, dialogues: int) -> tuple[str, list[tuple[int, int, int, int]]]:
    """Hash of a file, and (row, rows, line, dialogues) of its shards, which do not cross its row groups."""
    digest = hashlib.sha256()
    with _open(file) as opened:
        while block := opened.read(_BLOCK):
            digest.update(block)
    found: list[tuple[int, int, int, int]] = []
    with _open(file) as opened:
        table = _parquet(opened)
        if missing := {"id", "utterances"} - set(table.schema_arrow.names):
            raise CorpusError(
                f"no column {', '.join(sorted(missing))}; it has {', '.join(table.schema_arrow.names[:12])}. Expected "
                "the fields of this project's JSONL, one dialogue a row (docs/own-corpus.md)",
                _shown(file),
            )
        row = 0
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            for start in range(0, rows, dialogues):
                count = min(dialogues, rows - start)
                found.append((row + start, count, row + start + 1, count))
            row += rows
        ids.add(file, "parquet", _parquet_ids(table))
    return digest.hexdigest(), found


def _jsonl_lines(shard: Shard) -> Iterator[tuple[int, str]]:
    """(line, text) of the dialogues of a shard of JSONL."""
    with _open(shard.address) as opened:
        opened.seek(shard.start)
        content = opened.read(shard.length)
    lines = content.split(b"\n")
    blank = next((i for i, line in enumerate(lines) if line.strip()), 0)
    for i, line in enumerate(lines[blank:]):
        if line.strip():
            yield shard.line + i, line.decode("utf-8", errors="surrogateescape").removeprefix("\ufeff")


def _parquet_lines(shard: Shard) -> Iterator[tuple[int, str]]:
    """(row, dialogue as JSON) of a shard of Parquet."""
    with _open(shard.address) as opened:
        table = _parquet(opened)
        start = 0
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if start <= shard.start < start + rows:
                part = table.read_row_group(group).slice(shard.start - start, shard.length)
                for i, record in enumerate(part.to_pylist()):
                    yield shard.line + i, json.dumps(record, ensure_ascii=False, default=str)
            start += rows


def _parquet(opened: IO[bytes]) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    return pq.ParquetFile(opened, page_checksum_verification=True)


def _parquet_ids(table: pq.ParquetFile) -> list[str | None]:
    column = table.read(columns=["id"]).column("id")
    return [None if name is None else str(name).strip() for name in column.to_pylist()]


def _open(address: str) -> IO[bytes]:
    import fsspec

    opened: IO[bytes] = fsspec.open(address, "rb").open()
    return opened


def _kind(file: str) -> FileKind:
    kind = _KINDS.get(PurePosixPath(file).suffix)
    if kind is None:
        raise CorpusError(
            "expected .jsonl, .ndjson or .parquet, not compressed as a whole, because workers read parts of it; "
            "`erc-llm predict` without --engine reads the other formats",
            _shown(file),
        )
    return kind


def _id(line: bytes | str) -> str | None:
    """The id of the dialogue in a line; None if it has none that can be used."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    name = record.get("id") if isinstance(record, dict) else None
    return str(name).strip() if isinstance(name, (str, int)) and not isinstance(name, bool) else None


def _shown(address: str) -> str:
    """An address as the user would write it."""
    return address.removeprefix("file://")


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
