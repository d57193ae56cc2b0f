"""Where the files that come with the package lie: prompts and ready configurations."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def _folder(name: str) -> Path:
    # A wheel carries the folder inside the package; in a checkout it stands beside it.
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def prompts_dir() -> Path:
    """Folder of the Jinja prompt templates."""
    return _folder("prompts")


def configs_dir() -> Path:
    """Folder of the ready run configurations."""
    return _folder("configs")
