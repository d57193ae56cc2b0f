"""Two systems to compare, an average of adapters and an encoder, and a file that names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

LLM = {"name": "llm", "config": "llm.yaml", "trained_on": "original", "seeds": [1, 2], "average": True}
ENCODER = {"name": "encoder", "baseline": "encoder.yaml", "seeds": [1, 2]}


def write_systems(folder: Path, *systems: dict[str, Any]) -> Path:
    """A file of systems, the same one each time."""
    path = folder / "systems.yaml"
    path.write_text(yaml.safe_dump({"systems": list(systems)}), encoding="utf-8")
    return path
