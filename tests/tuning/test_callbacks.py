"""The callbacks in a whole training: which seconds count towards the logged speed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from erc_llm.recipes.train import train
from erc_llm.runs.logs import read_lines
from erc_llm.runs.progress import TrainingLog
from erc_llm.tuning.trainer import TreeTrainer
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus


def test_scoring_and_saving_do_not_slow_the_logged_speed(
    tiny_llama: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which a step takes two seconds, scoring 1,000 and a checkpoint 500."""
    now, tokens = [0.0], []
    loss, save = TreeTrainer.compute_loss, TreeTrainer._save_checkpoint

    def compute_loss(self: Any, model: Any, inputs: Any, **options: Any) -> Any:
        now[0] += 2
        tokens.append(inputs["input_ids"].numel())
        return loss(self, model, inputs, **options)

    def save_checkpoint(*arguments: Any) -> None:
        now[0] += 500
        save(*arguments)

    def score_metrics(*_: Any, **__: Any) -> dict[str, float]:
        now[0] += 1000
        return {"weighted_f1": 0.5}

    monkeypatch.setattr(TreeTrainer, "compute_loss", compute_loss)
    monkeypatch.setattr(TreeTrainer, "_save_checkpoint", save_checkpoint)
    monkeypatch.setattr("erc_llm.tuning.selection.score_metrics", score_metrics)
    monkeypatch.setattr("erc_llm.recipes.training_run.TrainingLog", partial(TrainingLog, clock=lambda: now[0]))
    training = {"checkpoint_minutes": 0, "evaluations": 3}
    config = tiny_config(tiny_llama, write_corpus(tmp_path / "corpus"), tmp_path, training=training)
    run = train(config, console=Console(quiet=True))
    speeds = [record["tokens_per_second"] for record in read_lines(run.folder / "training.jsonl")]
    assert len(speeds) == len(tokens) > 3
    assert len(read_lines(run.folder / "selection.jsonl")) == 3
    assert now[0] == 2 * len(tokens) + 3 * 1000 + (len(tokens) - 1) * 500
    # A forest's row may be a little longer than what the scenes' sizes add up to, never by a factor.
    assert all(speed == pytest.approx(count / 2, rel=0.2) for speed, count in zip(speeds, tokens, strict=True))
