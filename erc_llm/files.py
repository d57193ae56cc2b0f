"""Files that appear whole or not at all.

To a temporary name in the same folder, flushed, then renamed. Adapters have their own way of the same kind, and logs
are appended to.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from erc_llm.errors import UserError


def write_whole(path: Path, write: Callable[[IO[bytes]], object], error: type[UserError] = UserError) -> None:
    """Write a file under its name only once it is complete; missing folders are made.

    Raises:
        error: It cannot be written, for example because no space is left; nothing is left behind.
    """
    partial = path.parent / f".{path.name}.{os.getpid()}.partial"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as found:
        reason = found.strerror or found
        raise error(f"{path}: cannot be written: {reason}; nothing was left behind") from found
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def remove_partials(folder: Path) -> None:
    """Delete what `write_whole` had begun in a folder when it was killed."""
    for path in folder.glob(".*.partial"):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str, error: type[UserError] = UserError) -> None:
    """`write_whole` for a text in UTF-8."""
    write_whole(path, lambda file: file.write(text.encode()), error)
