"""Logs of a run: JSON lines, one record per logged step.

Input: the run directory's `training.jsonl` or `selection.jsonl`, and records with a `step`. Output: the records.
Does not depend on: the meaning of a step, models, configurations.
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
    """Append one JSON line to a log; `read_lines` skips a line that a kill cut off.

    Raises:
        RunError: The log cannot be written.
    """
    try:
        append_record(path, record)
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written: {error.strerror or error}; free disk space and add --resume"
        ) from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a log; none if the log does not exist yet.

    Raises:
        RunError: The log exists and cannot be read.
    """
    try:
        return read_records(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror or error}") from error


def rewind_log(path: Path, step: int) -> None:
    """Remove a log's records after `step`, so that a resumed training run does not write them twice."""
    kept = [r for r in read_lines(path) if r["step"] <= step]
    if path.is_file():
        write_text(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept), RunError)
