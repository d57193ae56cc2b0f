"""The adapter of a resumed run is that of the best line in its selection log, wherever the kill fell."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from erc_llm.errors import RunError
from erc_llm.runs.directory import read_run
from erc_llm.runs.logs import read_lines
from erc_llm.tuning.checkpoints import keep_adapter, rewind_adapter
from tests.forked import run_apart
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def _train(config: str, resume: bool, scores: Sequence[float], die_at: int | None, kept: str) -> None:
    """Train on given selection scores; the adapters that are saved are copied to `kept`, and the last may be fatal."""
    import torch
    import yaml
    from rich.console import Console

    import erc_llm.models.adapters as adapters
    import erc_llm.tuning.selection as selection
    from erc_llm.config import RunConfig
    from erc_llm.recipes.train import train

    torch.set_num_threads(1)
    left, save, saved = list(scores), adapters.save_adapter, []

    def save_and_die(model: Any, folder: Path, base: str | None = None) -> None:
        save(model, folder, base)
        saved.append(1)
        shutil.copytree(folder, Path(kept) / str(len(saved)))
        if len(saved) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    adapters.save_adapter = save_and_die
    selection.score_metrics = lambda *_, **__: {"weighted_f1": left.pop(0)}
    train(RunConfig.model_validate(yaml.safe_load(config)), resume=resume, console=Console(quiet=True))


def _run(tiny: TinyModel, folder: Path, minutes: float) -> str:
    training = {"evaluations": 3, "checkpoint_minutes": minutes}
    return tiny_config(tiny, write_corpus(folder / "corpus", train=12), folder, training=training).as_yaml()


def _best(folder: Path) -> list[tuple[float, bool]]:
    return [(record["weighted_f1"], record["best"]) for record in read_lines(folder / "selection.jsonl")]


def test_a_best_adapter_whose_line_is_lost_is_not_kept(tiny_llama: TinyModel, tmp_path: Path) -> None:
    """Killed behind the second evaluation, a new best, and before its checkpoint; scored again, it is worse."""
    config, run = _run(tiny_llama, tmp_path, 0), tmp_path / "tiny"
    assert run_apart(_train, config, False, [0.5, 0.9], 2, str(tmp_path / "before")) == -signal.SIGKILL
    assert _best(run) == [(0.5, True), (0.9, True)]
    first, lost = ((tmp_path / "before" / name / WEIGHTS).read_bytes() for name in ("1", "2"))
    assert (run / "adapter" / WEIGHTS).read_bytes() == lost != first
    assert run_apart(_train, config, True, [0.3, 0.2], None, str(tmp_path / "after")) == 0
    assert _best(run) == [(0.5, True), (0.3, False), (0.2, False)]
    assert (run / "adapter" / WEIGHTS).read_bytes() == first
    assert read_run(run).manifest.status == "finished"
    assert {path.name for path in (run / "adapter").iterdir()} == {WEIGHTS, CONFIG}
    assert [path.name for path in run.iterdir() if path.name[0] == "."] == []


def test_without_a_checkpoint_no_adapter_is_left(tiny_llama: TinyModel, tmp_path: Path) -> None:
    """The training begins anew, and nothing of the killed one stands in for its scores."""
    config, run = _run(tiny_llama, tmp_path, 1e6), tmp_path / "tiny"
    assert run_apart(_train, config, False, [0.5, 0.9], 2, str(tmp_path / "before")) == -signal.SIGKILL
    assert run_apart(_train, config, True, [0.4], 1, str(tmp_path / "again")) == -signal.SIGKILL
    assert (run / "adapter" / WEIGHTS).read_bytes() == (tmp_path / "again" / "1" / WEIGHTS).read_bytes()
    rewind_adapter(run, None)
    (run / "selection.jsonl").unlink()
    rewind_adapter(run, None)
    assert not (run / "adapter").exists()


def _folders(folder: Path, step: int = 2) -> tuple[Path, Path]:
    """A run directory whose adapter is of a later evaluation than its checkpoint."""
    (folder / "adapter").mkdir(parents=True)
    checkpoint = folder / "checkpoints" / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    for name in (WEIGHTS, CONFIG):
        (folder / "adapter" / name).write_text(f"early {name}")
    keep_adapter(folder, checkpoint)
    for name in ("adapter_model.safetensors", "adapter_config.json", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (checkpoint / name).write_text("not the best one")
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    for name in (WEIGHTS, CONFIG):
        (folder / "adapter" / name).write_text(f"late {name}")
    return folder, checkpoint


def _contents(folder: Path) -> list[str]:
    return [(folder / "adapter" / name).read_text() for name in (WEIGHTS, CONFIG)]


def test_a_kill_between_its_two_files_is_mended_by_the_next_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, checkpoint = _folders(tmp_path)
    copy = shutil.copyfile

    def die(source: Path, target: Path) -> Any:
        if Path(target).name == CONFIG:
            raise KeyboardInterrupt
        return copy(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfile", die)
        with pytest.raises(KeyboardInterrupt):
            rewind_adapter(run, checkpoint)
    assert _contents(run) == [f"early {WEIGHTS}", f"late {CONFIG}"]
    rewind_adapter(run, checkpoint)
    assert _contents(run) == [f"early {WEIGHTS}", f"early {CONFIG}"]
    assert {path.name for path in run.iterdir()} == {"adapter", "checkpoints"}


def test_a_full_disk_is_named_and_leaves_the_checkpoint_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, checkpoint = _folders(tmp_path)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfile", full)
        with pytest.raises(RunError, match=r"adapter: .*No space left.*--resume"):
            rewind_adapter(run, checkpoint)
    assert _contents(run) == [f"late {WEIGHTS}", f"late {CONFIG}"]
    rewind_adapter(run, checkpoint)
    assert _contents(run) == [f"early {WEIGHTS}", f"early {CONFIG}"]


@pytest.mark.parametrize(("scored_at", "left"), [(1, True), (3, False)])
def test_a_checkpoint_of_an_older_version_has_no_copy(scored_at: int, left: bool, tmp_path: Path) -> None:
    """Its adapter stays where the selection log has a line of it, and goes where the log has none."""
    run, checkpoint = _folders(tmp_path)
    for path in checkpoint.glob("best_*"):
        path.unlink()
    (run / "selection.jsonl").write_text(json.dumps({"step": scored_at, "weighted_f1": 0.5}) + "\n")
    rewind_adapter(run, checkpoint)
    assert (run / "adapter").is_dir() is left
