"""Weights of a baseline and where its training stands, as files that are whole or absent.

Only what is trained is stored: frozen encoders come from their own files again. Knows nothing of corpora.
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
    """Where a training stands.

    Attributes:
        step: Optimizer steps made.
        best: Best selection score so far; None before the first.
        best_epoch: The epoch it is of, whose weights are in `epoch_weights`; None before the first.
        losses: Of the steps since the last line of the training log.
    """

    step: int = 0
    best: float | None = None
    best_epoch: int | None = None
    losses: tuple[float, ...] = ()


def epoch_weights(folder: Path, epoch: int) -> Path:
    """Where the weights of an epoch stand that was the best one when it ended."""
    return folder / f"epoch-{epoch}.safetensors"


def keep_epoch(folder: Path, epoch: int | None) -> None:
    """Delete the weights of all epochs but one: of those overtaken, or that came after the checkpoint gone on from."""
    kept = None if epoch is None else epoch_weights(folder, epoch)
    for path in folder.glob("epoch-*.safetensors"):
        if path != kept:
            path.unlink()


def trained(model: nn.Module) -> dict[str, Tensor]:
    """The weights that training changes, by name."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def save_weights(model: nn.Module, path: Path) -> None:
    """Write what is trained as safetensors.

    Raises:
        RunError: It cannot be written.
    """
    from safetensors.torch import save

    tensors = {name: p.cpu().contiguous() for name, p in trained(model).items()}
    write_whole(path, lambda file: file.write(save(tensors)), RunError)


def load_weights(model: nn.Module, path: Path) -> None:
    """Read what `save_weights` wrote into a model of the same configuration.

    Raises:
        RunError: It is missing, damaged or of another shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: cannot be read ({error}); train again under another name=") from error
    _take(model, tensors, path)


def save_checkpoint(path: Path, model: nn.Module, optimizer: Any, scheduler: Any, position: Position) -> None:
    """Write everything that a training needs to go on, random state included.

    Raises:
        RunError: It cannot be written.
    """
    state = {
        "position": asdict(position),
        "weights": trained(model),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    write_whole(path, lambda file: _save(state, file), RunError)


def load_checkpoint(path: Path, model: nn.Module, optimizer: Any, scheduler: Any) -> Position | None:
    """Put a training back to where its checkpoint was written; None where there is none yet.

    Raises:
        RunError: It is damaged.
    """
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise RunError(f"{path}: damaged ({error}); delete it to begin anew") from error
    if "position" not in state:
        raise RunError(f"{path}: written by an older version of erc-llm; delete it to begin anew")
    _take(model, state["weights"], path)
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    torch.set_rng_state(state["random"])
    if state["random_cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["random_cuda"])
    return Position(**state["position"])


def _save(state: Mapping[str, Any], file: IO[bytes]) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:  # what torch makes of a full disk
        raise OSError(str(error).splitlines()[0]) from error


def _take(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    own = trained(model)
    if {name: t.shape for name, t in tensors.items()} != {name: t.shape for name, t in own.items()}:
        raise RunError(f"{path}: holds the weights of another model; its config.yaml does not belong to it")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])
