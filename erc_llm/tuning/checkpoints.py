"""Checkpoints that survive being killed: which one is whole, which one is not.

transformers writes `trainer_state.json` last; a checkpoint whose state file parses was written in full.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from erc_llm.errors import RunError
from erc_llm.files import write_text
from erc_llm.models.devices import process_rank
from erc_llm.tuning.order import StepOrder

CHECKPOINTS = "checkpoints"
STEP_ORDER = "step_order.json"


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


def check_step_order(folder: Path, order: StepOrder) -> None:
    """Keep the order of steps beside the checkpoints; refuse to go on from a checkpoint of another order.

    A checkpoint is a number of steps, which are to be the first steps of this order too. Another accumulation or number
    of processes splits the same steps into more or fewer forests, unless a step has fewer scenes than forests.

    Raises:
        RunError: Steps of the run's checkpoints are made of other scenes.
    """
    path, forests = folder / CHECKPOINTS / STEP_ORDER, len(order.steps[0])
    if latest_checkpoint(folder) is None:
        if process_rank() == 0:
            kept = {"sha256": order.sha256, "steps": len(order.steps), "forests_per_step": forests}
            write_text(path, json.dumps(kept) + "\n", RunError)
        return
    try:
        began = json.loads(path.read_text(encoding="utf-8"))
        same, before = began["sha256"] == order.sha256, began["forests_per_step"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # checkpoints from before the order was kept
    if not same:
        raise RunError(
            f"{folder}: cannot resume with {forests} forests per step (training.accumulation times processes): each "
            f"needs a scene, so steps would have other scenes than those of its checkpoint; resume with {before} (to "
            "save memory set training.gradient_checkpointing=true), or choose another name="
        )
