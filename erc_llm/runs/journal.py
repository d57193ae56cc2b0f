"""Results kept one by one as they come, so that long work that is killed goes on where it stopped.

Input: a key and a value that JSON can hold. Output: the values of earlier tries, by key. A key must be a hash of all
that the value depends on, unless the file's head states the rest.
Does not depend on: what is kept, configurations, models.
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
    """A file of JSON lines `{"key": ..., "value": ...}` that only grows; the last value of a key counts.

    A line that is cut off, as after a crash, is skipped; so is one that is no entry.

    Args:
        path: The file; made with the first entry, or at once where there is a head.
        head: What all values depend on; the file's first line. None: the file has no such line.

    Raises:
        UserError: The file is there and cannot be read, or its head cannot be written.
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
        """What is kept, by key."""
        return self._values

    def add(self, key: str, value: Any) -> None:
        """Keep a value; once this returns, killing the process does not lose it.

        Raises:
            UserError: It cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            append_record(self.path, {"key": key, "value": value})
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written: {error.strerror or error}; all before is kept") from error
        self._values[key] = value

    def remove(self) -> None:
        """Delete the file: what it held is elsewhere now."""
        self.path.unlink(missing_ok=True)


def _check_head(path: Path, head: Mapping[str, Any]) -> None:
    with open(path, "rb") as file:
        found = parse_record(file.readline())
    if found != head:
        differing = ", ".join(name for name, value in head.items() if (found or {}).get(name) != value)
        raise ConfigError(f"{path}: was written from another {differing or 'source'}; name another file")


def _entry(record: Mapping[str, Any]) -> tuple[str, Any] | None:
    """Key and value of a line; older files of speaker notes call them `batch` and `answers`."""
    for key, value in (("key", "value"), ("batch", "answers")):
        if isinstance(record.get(key), str) and value in record:
            return record[key], record[value]
    return None
