"""Training logs that no test looks at."""

from __future__ import annotations

from pathlib import Path

from erc_llm.runs.progress import SILENT, TrainingLog


def unseen_log(folder: Path) -> TrainingLog:
    """A log in a folder, drawn nowhere."""
    return TrainingLog(folder, SILENT, total=3, epochs=1, unit="tokens", print_every=1, precision="model.precision")
