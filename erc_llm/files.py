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

_OLD = "old"  # a folder that is being replaced, inside the unfinished one


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
    exists already is replaced; if that fails, it stays. Remains of a process that was killed while it wrote the same
    folder are deleted, and what it had begun to replace comes back.

    Raises:
        error: The folder cannot be written, for example because the disk is full; nothing of it remains.
    """
    mark = f".{path.name}.unfinished-"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for place in path.parent.glob(f"{glob.escape(mark)}*"):
            if not _in_use(place):
                _restore(place / _OLD, path)
                shutil.rmtree(place, ignore_errors=True)
        with tempfile.TemporaryDirectory(
            prefix=f"{mark}{os.getpid()}-", dir=path.parent, ignore_cleanup_errors=True
        ) as name:
            place = Path(name)
            yield place / "new"
            if path.exists():
                path.rename(place / _OLD)
            try:
                (place / "new").rename(path)
            except OSError:
                _restore(place / _OLD, path)
                raise
    except OSError as found:
        raise error(f"{path}: cannot be written: {found.strerror or found}; nothing was left behind") from found


def _in_use(place: Path) -> bool:
    """Whether the process that writes in an unfinished folder, whose id is in its name, is still there."""
    process = place.name.rpartition(".unfinished-")[2].partition("-")[0]
    if not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to somebody else
        return True
    return True


def _restore(old: Path, path: Path) -> None:
    """Bring back a folder that was moved away to be replaced, unless there is one in its place."""
    if old.exists() and not path.exists():
        old.rename(path)


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
