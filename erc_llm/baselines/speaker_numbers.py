"""Speaker numbers of a baseline: stores them in its run directory, and reads them.

Input: a mapping from speaker to number. Output: `speakers.json`, and the same mapping read again.
Does not depend on: models, corpora, configurations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from erc_llm.errors import RunError
from erc_llm.files import write_text
from erc_llm.runs.directory import SPEAKERS


def write_speakers(folder: Path, numbers: Mapping[str, int]) -> None:
    """Write the speakers' numbers that a run is trained with.

    Raises:
        RunError: They cannot be written.
    """
    write_text(folder / SPEAKERS, json.dumps(dict(numbers), indent=0, ensure_ascii=False) + "\n", RunError)


def read_speakers(folder: Path) -> dict[str, int]:
    """The speakers' numbers that a run was trained with.

    Raises:
        RunError: They are missing or damaged.
    """
    path = folder / SPEAKERS
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
        if sorted(numbers.values()) != list(range(1, len(numbers) + 1)):
            raise ValueError("expected each number from 1 on once")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise RunError(f"{path}: the numbers of its speakers cannot be read ({error}); train again") from error
    return dict(numbers)
