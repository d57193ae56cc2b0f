"""How forests reach the device, and how often the training loop waits for it."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from erc_llm.tuning import trainer
from tests.tiny_models import TinyModel
from tests.tuning.fits import fit_tiny


class Waits(TorchDispatchMode):
    """Counts by which line of Python a number is taken out of a tensor; on a GPU each of them waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            self.seen.append(" ".join(f"{frame.filename}:{frame.name}" for frame in traceback.extract_stack()))
        return function(*args, **(kwargs or {}))


def test_a_step_waits_for_no_number_of_the_gpu_unless_it_is_logged(tiny_llama: TinyModel, tmp_path: Path) -> None:
    with Waits() as waits:
        fitted = fit_tiny(tiny_llama, tmp_path, log_every=1000, max_grad_norm=1.0)
    assert len(fitted.watcher.losses) == 1, "the first step is logged"
    in_steps = [place for place in waits.seen if ":_run_epoch" in place and "dataloader.py" not in place]
    assert len(in_steps) == 2, in_steps  # loss and gradient norm of the logged step
    assert all(":_maybe_log_save_evaluate" in place for place in in_steps)


def test_forests_packed_by_other_processes_train_the_same_adapter(
    tiny_llama: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    here = fit_tiny(tiny_llama, tmp_path / "here", dropout=0.1)
    feeding = trainer._feeding(use_cpu=False)
    assert feeding["dataloader_pin_memory"] is feeding["accelerator_config"]["non_blocking"] is True
    if not feeding["dataloader_num_workers"]:
        pytest.skip("processes are not forked here")
    built: list[int] = []
    pack = trainer.pack
    monkeypatch.setattr(trainer, "pack", lambda trees: built.append(1) or pack(trees))
    monkeypatch.setattr(trainer, "_feeding", lambda _: feeding | {"dataloader_pin_memory": False})
    there = fit_tiny(tiny_llama, tmp_path / "there", dropout=0.1)
    assert not built, "this process packs nothing"
    assert there.watcher.losses == here.watcher.losses
    assert all(torch.equal(there.adapter[name], here.adapter[name]) for name in here.adapter)
    assert "fork" not in capfd.readouterr().err


def test_no_more_processes_pack_than_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more, torch warns that loading may slow down or freeze."""
    if not trainer._feeding(use_cpu=False)["dataloader_num_workers"]:
        pytest.skip("processes are not forked here")
    for cores, workers in (({3}, 1), (set(range(16)), trainer._WORKERS)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: cores)
        assert trainer._feeding(use_cpu=False)["dataloader_num_workers"] == workers
    assert trainer._feeding(use_cpu=True)["dataloader_num_workers"] == 0
