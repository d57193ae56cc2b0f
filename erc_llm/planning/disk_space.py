"""Disk space: whether a folder can be written, and has room for what is to come.

Input: a folder, which need not exist yet, and a number of bytes. Output: a `Finding`, or None.
Does not depend on: what will be written.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from erc_llm.planning.findings import Finding

_SCALES = ((1e9, "GB", 1), (1e6, "MB", 0), (1e3, "kB", 0))


def size_text(size: float) -> str:
    """A number of bytes in words, such as `1.2 GB`."""
    for scale, unit, digits in _SCALES:
        if size >= scale:
            return f"{size / scale:,.{digits}f} {unit}"
    return f"{size:.0f} bytes"


def existing_part(folder: Path) -> Path:
    """The folder, or the nearest folder above it that exists."""
    absolute = folder.absolute()
    return next(path for path in (absolute, *absolute.parents) if path.exists())


def check_writable(folder: Path, where: str, remedy: str) -> Finding | None:
    """An error if files cannot be created in a folder; a file is created and deleted there to find out."""
    there = existing_part(folder)
    try:
        with tempfile.NamedTemporaryFile(prefix=".erc-llm-", dir=there):
            return None
    except OSError as error:
        return Finding("error", where, f"{there}: cannot be written to: {error.strerror or error}", remedy)


def check_space(folder: Path, needed: float, what: str, where: str, remedy: str) -> Finding | None:
    """An error if a folder's disk has fewer free bytes than needed.

    Args:
        folder: The folder; it need not exist yet.
        needed: Bytes that will be written.
        what: What will be written, in words.
        where: The field or folder to name.
        remedy: What to do.
    """
    try:
        free = shutil.disk_usage(existing_part(folder)).free
    except OSError as error:
        return Finding("warning", where, f"{folder}: free space is unknown: {error.strerror or error}", remedy)
    if free >= needed:
        return None
    found = f"{folder}: {size_text(free)} are free, expected {size_text(needed)} for {what}"
    return Finding("error", where, found, remedy)
