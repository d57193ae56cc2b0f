"""Tables in parts: a folder of Parquet files with an index, which reads as one predictions table.

The index, `predictions.json`, is written once all parts are there.

Input: the names of the parts. Output: the index, or the parts to read.
Does not depend on: who writes the parts, the columns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from erc_llm.errors import PredictionsError
from erc_llm.files import write_text

INDEX = "predictions.json"
_VERSION = 1


def write_index(folder: Path, parts: Sequence[str], rows: int, dialogues: int, failed: int) -> None:
    """Write the index of a folder, which makes it a table.

    Args:
        folder: The folder of the parts.
        parts: File names in the order of the rows.
        rows: Rows of all parts.
        dialogues: Dialogues that were to be predicted.
        failed: Those of them that have no rows.

    Raises:
        PredictionsError: It cannot be written.
    """
    content = {
        "format_version": _VERSION,
        "rows": rows,
        "dialogues": dialogues,
        "failed": failed,
        "parts": list(parts),
    }
    write_text(folder / INDEX, json.dumps(content, indent=1) + "\n", PredictionsError)


def parts_of(folder: Path) -> list[Path]:
    """The files of a table in parts, in order.

    Raises:
        PredictionsError: The folder has no index, or a part is missing.
    """
    index = folder / INDEX
    try:
        content = json.loads(index.read_text("utf-8"))
        version, names = content["format_version"], content["parts"]
    except FileNotFoundError:
        unfinished = any(folder.glob("part-*.parquet"))
        raise PredictionsError(
            f"{folder}: a folder without {INDEX}; "
            + ("its prediction is not finished: the same command goes on" if unfinished else "expected a file")
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PredictionsError(f"{index}: cannot be read: {error}") from error
    if version != _VERSION:
        raise PredictionsError(f"{index}: format version {version!r}; this version of erc-llm reads {_VERSION}")
    parts = [folder / str(name) for name in names]
    if odd := [str(name) for name in names if Path(str(name)).name != str(name)]:
        raise PredictionsError(f"{index}: names {odd[0]}, expected a file of this folder; it is not read")
    if missing := [part.name for part in parts if not part.is_file()]:
        raise PredictionsError(f"{folder}: {len(missing)} of {len(parts)} parts are missing, such as {missing[0]}")
    if not parts:
        raise PredictionsError(f"{folder}: no rows; every dialogue failed, and the folder `errors` says why")
    return parts
