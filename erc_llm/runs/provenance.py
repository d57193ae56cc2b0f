"""Provenance of a run: package versions and the commit of the source checkout.

Input: none. Output: versions by package name; a commit.
Does not depend on: runs, configurations, models.
"""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

_PACKAGES = ("erc-llm", "transformers", "peft", "trl", "accelerate", "tokenizers", "bitsandbytes", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a result; torch's includes its build, such as +cpu."""
    import torch

    # The package metadata of some torch builds lacks the build.
    found = {"python": platform.python_version(), "machine": platform.machine(), "torch": str(torch.__version__)}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Commit of the source checkout, with `+` if files were changed; None outside a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        name = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain")
    except (OSError, subprocess.SubprocessError):
        return None
    return name + ("+" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
