"""Logs of a run: one JSON object a line, step by step.

Input: the run directory's `training.jsonl` or `selection.jsonl`, and records with their `step`. Output: the records.
Does not depend on: what a step is, models, configurations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erc_llm.errors import RunError
from erc_llm.files import write_text
from erc_llm.runs.json_lines import append_record, read_records

TRAINING_LOG = "training.jsonl"
SELECTION_LOG = "selection.jsonl"


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one JSON line to a log; a line cut by a kill is dropped by `read_lines`.

    Raises:
        RunError: It cannot be written.
    """
    try:
        append_record(path, record)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror or error}; make room and add --resume") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a log; nothing where there is no log yet.

    Raises:
        RunError: It is there and cannot be read.
    """
    try:
        return read_records(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror or error}") from error


def rewind_log(path: Path, step: int) -> None:
    """Keep a log's records up to `step`, so that a resumed training run does not write them twice."""
    kept = [r for r in read_lines(path) if r["step"] <= step]
    if path.is_file():
        write_text(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept), RunError)
