"""Append-only files of JSON lines that stay readable after a kill or on a full disk.

Input: a path, and JSON-compatible records. Output: the complete records of the file, without lines that were cut off.
Does not depend on: the meaning of the records, configurations, models.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Append one record; once this returns, it survives a kill of the process.

    If the last line was cut off, a line break is added first, so that the record gets its own line. The cut line is not
    removed, because another process may be writing to the file.

    Raises:
        OSError: The file cannot be written.
    """
    line = json.dumps(dict(record), ensure_ascii=False).encode() + b"\n"
    with open(path, "ab+") as file:
        if file.seek(0, os.SEEK_END) > 0:
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a file in file order; none if the file does not exist. Lines without a JSON object are skipped.

    A last line that lacks only its line break counts, because a truncated JSON object is never valid JSON.

    Raises:
        OSError: The file exists and cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    return [record for line in content.split(b"\n") if (record := parse_record(line)) is not None]


def parse_record(line: bytes) -> dict[str, Any] | None:
    """The JSON object in a line; None if there is none or it was cut off."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
