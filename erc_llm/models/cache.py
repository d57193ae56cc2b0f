"""Cache folder of this toolkit: converted models, hashes and notes, each made once and kept.

Input: the environment. Output: a path.
Does not depend on: the content of the cache.
"""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """The cache folder: `ERC_LLM_CACHE`, else `~/.cache/erc-llm`."""
    named = os.environ.get("ERC_LLM_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "erc-llm"
