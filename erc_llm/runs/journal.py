"""Results kept one by one as they come, so that long work that is killed goes on where it was.

In: a key and a value that JSON can hold. Out: the values of an earlier, unfinished try, by key. A key must be a hash of
all that the value depends on; then a journal of other work does no harm. Knows nothing of what is kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erc_llm.errors import UserError


class Journal:
    """A file of JSON lines `{"key": ..., "value": ...}` that only grows, until it is removed.

    A line that is cut off, as after a crash, is dropped; so is one that is no entry.

    Args:
        path: The file; made with the first entry.

    Raises:
        UserError: The file is there and cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._values: dict[str, Any] = {}
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            content = b""
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
        whole, _, torn = content.rpartition(b"\n")
        self._torn = len(torn)
        for line in whole.split(b"\n"):
            if (entry := _entry(line)) is not None:
                self._values[entry["key"]] = entry["value"]

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
        line = json.dumps({"key": key, "value": value}) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab") as file:
                if self._torn:
                    file.truncate(os.fstat(file.fileno()).st_size - self._torn)
                    self._torn = 0
                file.write(line.encode())
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written: {error.strerror or error}; all before is kept") from error
        self._values[key] = value

    def remove(self) -> None:
        """Delete the file: what it held is elsewhere now."""
        self.path.unlink(missing_ok=True)


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    if isinstance(found, dict) and isinstance(found.get("key"), str) and "value" in found:
        return found
    return None
