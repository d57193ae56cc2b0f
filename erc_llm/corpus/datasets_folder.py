"""Datasets of the `datasets` library: a folder written by `save_to_disk`, or a repository of the hub.

Rows have the columns of this project's JSONL, one dialogue each; they are read as its lines are, with the same checks.

Input: a folder or a hub id. Output: each split's rows as JSONL text, or the folder of a download.
Does not depend on: labels, the meaning of the columns.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from erc_llm.errors import CorpusError

HUB = "hub:"  # before the id of a dataset on the hub
_MARKS = ("dataset_dict.json", "state.json")
_WANTED = ("*.jsonl", "*.json", "*.csv", "*.tsv", "*.txt", "*.parquet", "data/*.parquet")


def is_saved_dataset(path: Path) -> bool:
    """Whether `save_to_disk` of the library `datasets` wrote this folder."""
    return any((path / mark).is_file() for mark in _MARKS)


def read_saved_dataset(path: Path) -> Iterator[tuple[str, str]]:
    """Name and JSONL text of each split; a dataset without splits is `all`.

    Raises:
        CorpusError: The folder is damaged, or a column cannot be written as JSON.
    """
    from datasets import Dataset, DatasetDict, disable_progress_bars, load_from_disk

    disable_progress_bars()
    _check_names(path)
    try:
        found = load_from_disk(str(path))
    except Exception as error:  # pyarrow and datasets raise errors of many kinds for damaged files
        raise CorpusError(f"cannot be read as a dataset: {error}", path) from error
    parts: dict[str, Dataset] = dict(found) if isinstance(found, DatasetDict) else {"all": found}
    for name, rows in parts.items():
        yield str(name), _as_jsonl(rows, str(name), path)


def parquet_files(folder: Path) -> list[Path]:
    """The Parquet files of a download, as `push_to_hub` writes them; several may belong to one split."""
    return sorted({*folder.glob("*.parquet"), *folder.glob("data/*.parquet")})


def read_parquet(files: Sequence[Path], folder: Path) -> str:
    """JSONL text of the rows of the Parquet files of one split.

    Raises:
        CorpusError: A file is damaged, or a column cannot be written as JSON.
    """
    import pyarrow.parquet as pq

    try:
        rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    except Exception as error:  # pyarrow raises errors of many kinds for damaged files
        raise CorpusError(f"cannot be read as Parquet: {error}", files[0]) from error
    return _as_jsonl(rows, files[0].name, folder)


def _as_jsonl(rows: Iterable[Any], name: str, path: Path) -> str:
    try:
        return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    except TypeError as error:
        raise CorpusError(f"split {name}: a column is not text, number or list: {error}", path) from error


def _check_names(path: Path) -> None:
    """Refuse a saved dataset that names files outside its folder; `datasets` would read them."""
    try:
        marks = [path / mark for mark in _MARKS if (path / mark).is_file()]
        names: list[object] = []
        if (path / _MARKS[0]) in marks:
            splits = json.loads((path / _MARKS[0]).read_text("utf-8"))["splits"]
            names += splits
            marks += [path / str(split) / "state.json" for split in splits]
        for mark in marks[1:] if names else marks:
            names += [part["filename"] for part in json.loads(mark.read_text("utf-8"))["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorpusError(f"cannot be read as a dataset: {error}", path) from error
    if odd := [name for name in names if not isinstance(name, str) or Path(name).name != name]:
        raise CorpusError(f"names {odd[0]}, expected the name of a file or folder in it; it is not read", path)


def download_dataset(name: str) -> Path:
    """The folder of a dataset's data files, downloaded from the hub's cache or the hub.

    Raises:
        CorpusError: It cannot be downloaded.
    """
    from huggingface_hub import constants, snapshot_download

    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=list(_WANTED)))
    except Exception as error:  # the hub client also raises the errors of the HTTP library that it uses
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise CorpusError(
            f"{HUB}{name}: the dataset is not in the hub's cache, and {constants.ENDPOINT} did not give it: {reason}. "
            f"Run `hf download {name} --repo-type dataset` where there is a network, or give a folder"
        ) from error
