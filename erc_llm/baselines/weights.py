"""Weights and checkpoints of a baseline; each file is written whole or not at all.

Only trained weights are stored; frozen encoders are loaded from their own files again.

Input: a model, its optimizer and scheduler, a position. Output: files in the run directory, and the same read again.
Does not depend on: corpora, how a model is trained.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from erc_llm.errors import RunError
from erc_llm.files import write_whole

CHECKPOINT = "checkpoint.pt"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True, eq=False)
class Position:
    """The position of a training run.

    Attributes:
        step: Number of optimizer steps done.
        best: Best selection score so far; None before the first.
        best_epoch: Epoch of that score, whose weights are in `epoch_weights`; None before the first.
        losses: Losses of the steps since the last line of the training log.
    """

    step: int = 0
    best: float | None = None
    best_epoch: int | None = None
    losses: tuple[float, ...] = ()


def epoch_weights(folder: Path, epoch: int) -> Path:
    """File with the weights of an epoch that was the best one when it ended."""
    return folder / f"epoch-{epoch}.safetensors"


def keep_epoch(folder: Path, epoch: int | None) -> None:
    """Delete the weights of all epochs but one: superseded ones, and those later than the checkpoint resumed from."""
    kept = None if epoch is None else epoch_weights(folder, epoch)
    for path in folder.glob("epoch-*.safetensors"):
        if path != kept:
            path.unlink()


def trained(model: nn.Module) -> dict[str, Tensor]:
    """The trainable weights, by name."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the trainable weights as safetensors.

    Raises:
        RunError: The file cannot be written.
    """
    from safetensors.torch import save

    tensors = {name: p.cpu().contiguous() for name, p in trained(model).items()}
    write_whole(path, lambda file: file.write(save(tensors)), RunError)


def load_weights(model: nn.Module, path: Path) -> None:
    """Read what `save_weights` wrote into a model of the same configuration.

    Raises:
        RunError: The file is missing, damaged, or holds tensors of other shapes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: cannot be read ({error}); train again under another name=") from error
    _take(model, tensors, path)


def save_checkpoint(path: Path, model: nn.Module, stateful: Mapping[str, Any], position: Position) -> None:
    """Write everything that is needed to resume a training run, including the random state.

    Args:
        path: The file.
        model: The model.
        stateful: Optimizer, schedule and the like by name, each with `state_dict`.
        position: How far the run is.

    Raises:
        RunError: The file cannot be written.
    """
    state = {
        "position": asdict(position),
        "weights": trained(model),
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        **{name: part.state_dict() for name, part in stateful.items()},
    }
    write_whole(path, lambda file: _save(state, file), RunError)


def load_checkpoint(path: Path, model: nn.Module, stateful: Mapping[str, Any]) -> Position | None:
    """Restore a training run from its checkpoint; return its position, or None if there is no checkpoint yet.

    Raises:
        RunError: The checkpoint is damaged.
    """
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise RunError(f"{path}: damaged ({error}); delete it to start again") from error
    if "position" not in state:
        raise RunError(f"{path}: written by an older version of erc-llm; delete it to start again")
    _take(model, state["weights"], path)
    for name, part in stateful.items():
        if kept := state.get(name):  # a scaler that is not in use keeps nothing
            part.load_state_dict(kept)
    torch.set_rng_state(state["random"])
    if state["random_cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["random_cuda"])
    return Position(**state["position"])


def _save(state: Mapping[str, Any], file: IO[bytes]) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:  # torch's error for a full disk
        raise OSError(str(error).splitlines()[0]) from error


def _take(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    own = trained(model)
    if {name: t.shape for name, t in tensors.items()} != {name: t.shape for name, t in own.items()}:
        raise RunError(f"{path}: holds the weights of another model; its config.yaml does not belong to it")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])
