"""Trainings in processes of their own that die by SIGKILL at a chosen point.

A server process imports the heavy libraries once and forks a child for each training, so that a kill costs a fraction
of a second. `Kill` says when: at the n-th time something of the run directory is opened for writing, renamed or
removed; halfway through the n-th file of a checkpoint; or in the middle of a step's arithmetic.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.forked import run_apart


@dataclass(frozen=True)
class Kill:
    """When a training dies: the `number`-th time that `what` happens."""

    what: Literal["file operation", "forward", "optimizer step", "half optimizer.pt", "half adapter", "half state"]
    number: int


def train_apart(config: str, *, resume: bool = False, kill: Kill | None = None, after: float | None = None) -> int:
    """Train in a child; returns its exit code, negative for a signal.

    Args:
        config: The run's configuration as YAML.
        resume: Whether to go on.
        kill: When the child kills itself.
        after: Kill it from outside after so many seconds.
    """
    return run_apart(_train, config, resume, kill, after=after)


def _train(config: str, resume: bool, kill: Kill | None) -> None:
    import torch
    import yaml
    from rich.console import Console

    from erc_llm.config import RunConfig
    from erc_llm.recipes.train import train

    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    run = RunConfig.model_validate(yaml.safe_load(config))
    if kill is not None:
        _arm(kill, Path(run.output) / run.name)
    train(run, resume=resume, console=Console(quiet=True))


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _arm(kill: Kill, folder: Path) -> None:
    left = kill.number

    def count() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    if kill.what == "file operation":
        _on_file_operation(folder, lambda: count() and _die())
    elif kill.what == "forward":
        from erc_llm.tuning.trainer import TreeTrainer

        _wrap(TreeTrainer, "compute_loss", lambda: count() and _die())
    elif kill.what == "optimizer step":
        import torch

        _wrap(torch.optim.AdamW, "step", lambda: count() and _die())
    else:
        _halve(kill.what, count)


def _wrap(owner: Any, name: str, before: Callable[[], Any]) -> None:
    original = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        before()
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def _on_file_operation(folder: Path, happened: Callable[[], Any]) -> None:
    watched = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}

    def hook(event: str, args: tuple[Any, ...]) -> None:
        opened = event == "open" and isinstance(args[1], str) and args[1][:1] in "wax"
        if (opened or event in watched) and isinstance(args[0], (str, os.PathLike)) and str(folder) in str(args[0]):
            happened()

    sys.addaudithook(hook)


def _halve(what: str, count: Callable[[], bool]) -> None:
    """Let the file be written up to its middle, as a kill during the writing leaves it."""
    import peft.peft_model
    import safetensors.torch
    import torch
    from transformers.trainer_callback import TrainerState

    save, save_json = torch.save, TrainerState.save_to_json

    def half(data: bytes, path: Any) -> None:
        Path(path).write_bytes(data[: len(data) // 2])
        _die()

    def save_half(thing: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        if what == "half optimizer.pt" and str(path).endswith("optimizer.pt") and count():
            buffer = io.BytesIO()
            save(thing, buffer)
            half(buffer.getvalue(), path)
        save(thing, path, *args, **kwargs)

    def save_half_adapter(tensors: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        if what == "half adapter" and count():
            half(safetensors.torch.save(tensors), path)
        safetensors.torch.save_file(tensors, path, *args, **kwargs)

    def save_half_state(state: Any, path: Any) -> None:
        if what == "half state" and count():
            save_json(state, path)
            half(Path(path).read_bytes(), path)
        save_json(state, path)

    torch.save = save_half
    peft.peft_model.safe_save_file = save_half_adapter
    TrainerState.save_to_json = save_half_state  # type: ignore[method-assign]
