"""Logs of a run: one JSON object a line, step by step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erc_llm.errors import RunError
from erc_llm.files import write_text

TRAINING_LOG = "training.jsonl"


SELECTION_LOG = "selection.jsonl"


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one JSON line to a log; a line cut by a kill is dropped by `read_lines`.

    Raises:
        RunError: It cannot be written.
    """
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(dict(record), ensure_ascii=False) + "\n")
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror or error}; make room and add --resume") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a log; nothing where there is no log yet."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def rewind_log(path: Path, step: int) -> None:
    """Keep a log's records up to `step`, so that a resumed training does not write them twice."""
    kept = [r for r in read_lines(path) if r["step"] <= step]
    if path.is_file():
        write_text(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept), RunError)
