"""Checkpoints that survive being killed: which one is whole, which one is not.

transformers writes `trainer_state.json` last; a checkpoint whose state file parses was written in full.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from erc_llm.models.devices import process_rank

CHECKPOINTS = "checkpoints"


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run directory; incomplete ones, left by a kill, are deleted.

    Only the main process deletes; the others pass over them.
    """
    complete = []
    for path in (folder / CHECKPOINTS).glob("checkpoint-*"):
        step = checkpoint_step(path)
        if step is None:
            if process_rank() == 0:
                shutil.rmtree(path)
        else:
            complete.append((step, path))
    return max(complete)[1] if complete else None


def checkpoint_step(path: Path) -> int | None:
    """The optimizer step a checkpoint was made at; None if it is incomplete."""
    needed = ("adapter_model.safetensors", "adapter_config.json", "optimizer.pt", "scheduler.pt")
    try:
        state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        step = int(state["global_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not any(path.glob("rng_state*.pth")) or not all((path / name).is_file() for name in needed):
        return None
    return step
