"""Locations of the packaged files: prompt templates and ready configurations.

Input: none. Output: folders, in an installed package and in a checkout alike.
Does not depend on: the content of the files.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def _folder(name: str) -> Path:
    # A wheel contains the folder inside the package; in a checkout it lies beside the package.
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def prompts_dir() -> Path:
    """Folder of the Jinja prompt templates."""
    return _folder("prompts")


def configs_dir() -> Path:
    """Folder of the ready run configurations."""
    return _folder("configs")
