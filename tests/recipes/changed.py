"""A finished run's configuration with other values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from erc_llm.config import RunConfig
from erc_llm.runs.directory import Run


def changed(finished: Run, output: Path, **sections: Any) -> RunConfig:
    """The finished run's configuration with other values, written beside the copy in `output`."""
    content = finished.config.model_dump() | {"output": str(output)}
    for name, values in sections.items():
        content[name] = content[name] | values if isinstance(values, dict) else values
    return RunConfig.model_validate(content)
