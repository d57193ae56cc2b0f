"""Checkpoints: finds complete ones, and keeps the best adapter so far with each.

transformers writes `trainer_state.json` last, so a checkpoint whose state file parses is complete. The best adapter so
far is copied into the checkpoint before that. A resumed run restores it, so it keeps no adapter of a later evaluation,
whose line is removed from `selection.jsonl`.

Input: a run directory. Output: the checkpoint to resume from, and `adapter/` as it was at that checkpoint.
Does not depend on: models, the training loop.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from erc_llm.errors import RunError
from erc_llm.files import write_text
from erc_llm.models.adapters import CONFIG, WEIGHTS
from erc_llm.models.devices import process_rank
from erc_llm.runs.directory import ADAPTER, CHECKPOINTS
from erc_llm.runs.logs import SELECTION_LOG, read_lines
from erc_llm.tuning.order import StepOrder
from erc_llm.tuning.processes import of_all_processes

STEP_ORDER = "step_order.json"
# The best adapter within a checkpoint. It has no folder of its own: transformers would load that as a second adapter.
_BEST = {WEIGHTS: "best_adapter_model.safetensors", CONFIG: "best_adapter_config.json"}


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run directory; incomplete ones, left by a killed run, are deleted.

    Only the main process deletes them; the others ignore them.
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
    """The optimizer step at which a checkpoint was made; None if it is incomplete."""
    needed = (WEIGHTS, CONFIG, "optimizer.pt", "scheduler.pt")
    try:
        state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        step = int(state["global_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not any(path.glob("rng_state*.pth")) or not all((path / name).is_file() for name in needed):
        return None
    return step


def check_shared(folder: Path, checkpoint: Path | None) -> None:
    """Refuse to resume if processes find other checkpoints, as machines do that do not share the run directory.

    Args:
        folder: The run directory.
        checkpoint: The latest checkpoint that this process finds.

    Raises:
        RunError: In every process, since one alone would leave the others waiting.
    """
    found = of_all_processes(None if checkpoint is None else checkpoint.name)
    if len(set(found)) > 1:
        names = ", ".join(f"process {rank} {name or 'none'}" for rank, name in enumerate(found))
        raise RunError(
            f"{folder}: cannot resume: the processes find different checkpoints ({names}); put the run directory on a "
            "file system that all machines share (output=FOLDER)"
        )


def check_step_order(folder: Path, order: StepOrder) -> None:
    """Store the order of steps beside the checkpoints; refuse to resume from a checkpoint of another order.

    The steps before a checkpoint must be the first steps of this order too. Another accumulation or number of processes
    splits the same steps into more or fewer forests, unless a step has fewer scenes than forests.

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


def keep_adapter(folder: Path, checkpoint: Path) -> None:
    """Copy the best adapter so far, if there is one, into a checkpoint that is about to be written."""
    if (folder / ADAPTER).is_dir():
        checkpoint.mkdir(parents=True, exist_ok=True)
        for name, best in _BEST.items():
            shutil.copyfile(folder / ADAPTER / name, checkpoint / best)


def rewind_adapter(folder: Path, checkpoint: Path | None) -> None:
    """Restore `adapter/` to the best one at a checkpoint; remove it if nothing had been scored by then.

    It can be called again after a kill at any point, because the checkpoint keeps its copy.

    Args:
        folder: The run directory.
        checkpoint: The complete checkpoint to resume from; None: the run starts from the beginning.

    Raises:
        RunError: The adapter cannot be written.
    """
    target = folder / ADAPTER
    if checkpoint is not None and all((checkpoint / best).is_file() for best in _BEST.values()):
        try:
            target.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{ADAPTER}-", dir=folder) as draft:
                for name, best in _BEST.items():
                    shutil.copyfile(checkpoint / best, Path(draft) / name)
                    (Path(draft) / name).replace(target / name)
        except OSError as error:
            reason = error.strerror or error
            raise RunError(f"{target}: cannot be written: {reason}; make room and add --resume") from error
        return
    step = 0 if checkpoint is None else checkpoint_step(checkpoint) or 0
    # Checkpoints of older versions have no copy: for them `adapter/` is kept if an evaluation was done by that step.
    if not any(record["step"] <= step for record in read_lines(folder / SELECTION_LOG)):
        shutil.rmtree(target, ignore_errors=True)
