"""Atomic writes: a file or a folder is complete or does not exist.

The content is written to a temporary name in the same folder, flushed, then renamed. Adapters are written atomically by
their own code; logs are appended to.

Input: a path and content. Output: the complete file or folder.
Does not depend on: the content, models, configurations.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from erc_llm.errors import UserError


def write_whole(path: Path, write: Callable[[IO[bytes]], object], error: type[UserError] = UserError) -> None:
    """Write a file that gets its name only once it is complete; missing folders are created.

    Raises:
        error: The file cannot be written, for example because the disk is full; no partial file remains.
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


@contextlib.contextmanager
def whole_folder(path: Path, error: type[UserError] = UserError) -> Iterator[Path]:
    """Write a folder that gets its name only once the block has ended; missing folders above it are created.

    The block gets a path that does not exist yet, to create and fill; others beside it are scratch space. A folder that
    exists already is replaced. Remains of a process that was killed while it wrote the same folder are deleted.

    Raises:
        error: The folder cannot be written, for example because the disk is full; nothing of it remains.
    """
    mark = f".{path.name}.unfinished-"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for abandoned in path.parent.glob(f"{glob.escape(mark)}*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=mark, dir=path.parent, ignore_cleanup_errors=True) as place:
            draft = Path(place) / "new"
            yield draft
            if path.exists():
                path.rename(Path(place) / "old")
            draft.rename(path)
    except OSError as found:
        raise error(f"{path}: cannot be written: {found.strerror or found}; nothing was left behind") from found


def has_files(folder: Path) -> bool:
    """Whether a folder exists and holds anything but hidden files, such as a killed `write_whole` leaves."""
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())


def remove_partials(folder: Path) -> None:
    """Delete the partial files that a killed `write_whole` left in a folder."""
    for path in folder.glob(".*.partial"):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str, error: type[UserError] = UserError) -> None:
    """`write_whole` for text, encoded as UTF-8."""
    write_whole(path, lambda file: file.write(text.encode()), error)
