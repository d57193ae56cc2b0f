"""Files of JSON lines that only grow: the one way to append to them and to read them after a kill.

Input: a path, and records that JSON can hold. Output: the whole records of the file; a line that a kill or a full disk
cut off is skipped.
Does not depend on: what is recorded, configurations, models.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Append one record; once this returns, killing the process does not lose it.

    A line that was cut off is closed first, so that it spoils no other. It is not removed: another process may be
    writing to the same file.

    Raises:
        OSError: It cannot be written.
    """
    line = json.dumps(dict(record), ensure_ascii=False).encode() + b"\n"
    with open(path, "ab+") as file:
        if file.seek(0, os.SEEK_END) > 0:
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a file in their order; none where there is no file. Lines that are no JSON object are skipped.

    A line that lacks only its line break is whole: no beginning of a JSON object is one itself.

    Raises:
        OSError: It is there and cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    return [record for line in content.split(b"\n") if (record := parse_record(line)) is not None]


def parse_record(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a line; None where it holds none, or half of one."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
