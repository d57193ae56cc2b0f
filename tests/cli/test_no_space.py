"""A disk without space, or a folder that cannot be made: one message that names the file, and nothing half-written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.command_line import Command, refused


def _no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_no_space_for_the_predictions(
    finished: Path, erc: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", _no_space)
    for name in ("t.parquet", "t.jsonl"):
        refused(erc("predict", finished, "--out", tmp_path / name), name, "No space left")
    assert list(tmp_path.iterdir()) == []


def test_no_space_for_the_run(config: Path, erc: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", _no_space)
    refused(erc("train", config), "No space left", str(tmp_path / "runs" / "tiny"))
    assert [p for p in (tmp_path / "runs").rglob("*") if p.is_file()] == []


def test_no_space_for_the_adapter(config: Path, erc: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import peft.peft_model
    from safetensors import SafetensorError

    def no_space(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(peft.peft_model, "safe_save_file", no_space)
    refused(erc("train", config), "No space left", "adapter")
    run = tmp_path / "runs" / "tiny"
    assert {p.name for p in run.iterdir()} <= {
        "config.yaml",
        "manifest.json",
        "prompt.jinja",
        "training.jsonl",
        "selection.jsonl",
        "checkpoints",
    }


@pytest.mark.parametrize("piece", ["adapter", "optimizer"])
def test_no_space_for_a_checkpoint(piece: str, config: Path, erc: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import peft.peft_model
    import torch
    from safetensors import SafetensorError

    def no_space(*_: object, **__: object) -> None:
        if piece == "adapter":
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    owner, name = (peft.peft_model, "safe_save_file") if piece == "adapter" else (torch, "save")
    monkeypatch.setattr(owner, name, no_space)
    refused(erc("train", config, "training.checkpoint_minutes=0", "training.evaluations=0"), "checkpoint")


def test_no_space_for_the_best_adapter_in_a_checkpoint(
    config: Path, erc: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run goes on from the checkpoint before once there is room."""
    with monkeypatch.context() as patched:
        patched.setattr("erc_llm.tuning.checkpoints.shutil.copyfile", _no_space)
        refused(erc("train", config, "training.checkpoint_minutes=0"), "checkpoint", "No space left", "--resume")
    left = list((tmp_path / "runs" / "tiny" / "checkpoints").glob("checkpoint-*"))
    assert left
    assert [path for path in left if not (path / "trainer_state.json").is_file()] == []
    assert erc("train", config, "training.checkpoint_minutes=0", "--resume").code == 0


def test_no_space_for_a_log_names_the_log(config: Path, erc: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import erc_llm.runs.json_lines as json_lines

    monkeypatch.setattr(json_lines, "open", _no_space, raising=False)
    refused(erc("train", config), "No space left", "training.jsonl")


def test_a_run_directory_that_cannot_be_made(erc: Command, config: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file in the way", encoding="utf-8")
    refused(erc("train", config), str(tmp_path / "runs"))
