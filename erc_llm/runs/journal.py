"""Journal: stores results one by one, so that long work can continue after it was killed.

A key must be a hash of everything that its value depends on, except for what the head of the file states.

Input: a key and a JSON-compatible value. Output: the values stored so far, by key.
Does not depend on: the meaning of the values, configurations, models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erc_llm.errors import ConfigError, UserError
from erc_llm.files import write_text
from erc_llm.runs.json_lines import append_record, parse_record, read_records


class Journal:
    """An append-only file of JSON lines `{"key": ..., "value": ...}`; the last value of a key counts.

    Lines that a crash cut off and lines that are not entries are skipped.

    Args:
        path: The file; created with the first entry, or at once if there is a head.
        head: First line of the file, which states what all values depend on. None: the file has no such line.

    Raises:
        UserError: The file exists and cannot be read, or its head cannot be written.
        ConfigError: The file has another head.
    """

    def __init__(self, path: Path, head: Mapping[str, Any] | None = None) -> None:
        self.path = path
        if head is not None and not path.exists():
            write_text(path, json.dumps(dict(head)) + "\n", UserError)
        try:
            if head is not None:
                _check_head(path, head)
            records = read_records(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
        self._values: dict[str, Any] = dict(entry for record in records if (entry := _entry(record)) is not None)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def values(self) -> Mapping[str, Any]:
        """The stored values, by key."""
        return self._values

    def add(self, key: str, value: Any) -> None:
        """Store a value; once this returns, it survives a kill of the process.

        Raises:
            UserError: The file cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            append_record(self.path, {"key": key, "value": value})
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written: {error.strerror or error}; earlier results are kept"
            ) from error
        self._values[key] = value

    def remove(self) -> None:
        """Delete the file, once its values are stored elsewhere."""
        self.path.unlink(missing_ok=True)


def _check_head(path: Path, head: Mapping[str, Any]) -> None:
    with open(path, "rb") as file:
        found = parse_record(file.readline())
    if found != head:
        differing = ", ".join(name for name, value in head.items() if (found or {}).get(name) != value)
        raise ConfigError(f"{path}: written with another {differing or 'source'}; name another file")


def _entry(record: Mapping[str, Any]) -> tuple[str, Any] | None:
    """Key and value of a line; older files of speaker notes name these fields `batch` and `answers`."""
    for key, value in (("key", "value"), ("batch", "answers")):
        if isinstance(record.get(key), str) and value in record:
            return record[key], record[value]
    return None
