"""The callbacks in a whole training: which adapter is kept, when it stops, which seconds count as training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model_state_dict
from rich.console import Console

from erc_llm.recipes.train import train
from erc_llm.runs.logs import read_lines
from erc_llm.runs.progress import SILENT, TrainingLog
from erc_llm.tuning.callbacks import SelectionCallback
from erc_llm.tuning.trainer import TreeTrainer
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus
from tests.tuning.fits import SCENES, fit_tiny, tiny_prompter
from tests.tuning.logs import unseen_log


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


class Scripted:
    """Stands for the selection split: gives the scores it was told, keeps the adapter it was told to keep."""

    def __init__(self, scores: Sequence[float]) -> None:
        self.scores = list(scores)
        self.seen: list[dict[str, torch.Tensor]] = []
        self.kept: dict[str, torch.Tensor] | None = None

    def evaluate(self, model: Any) -> dict[str, float]:
        self.seen.append({k: v.clone() for k, v in get_peft_model_state_dict(model).items()})
        return {"weighted_f1": self.scores[len(self.seen) - 1]}

    def save(self, model: Any) -> None:
        self.kept = {k: v.clone() for k, v in get_peft_model_state_dict(model).items()}

    def callback(self, folder: Path, steps: set[int], patience: int | None = None) -> SelectionCallback:
        log = unseen_log(folder)
        return SelectionCallback(folder, frozenset(steps), self.evaluate, self.save, patience, True, SILENT, log)


def test_the_adapter_of_the_best_score_is_kept(tiny_llama: TinyModel, tmp_path: Path) -> None:
    split = Scripted([0.2, 0.5, 0.4])
    callbacks = [split.callback(tmp_path, {1, 2, 3})]
    fitted = fit_tiny(tiny_llama, tmp_path, callbacks=callbacks)
    assert fitted.steps == 3
    assert split.kept is not None
    assert all(torch.equal(split.kept[name], split.seen[1][name]) for name in split.kept)
    assert any(not torch.equal(split.kept[name], split.seen[2][name]) for name in split.kept)
    records = read_lines(tmp_path / "selection.jsonl")
    assert [(r["step"], r["weighted_f1"], r["best"]) for r in records] == [
        (1, 0.2, True),
        (2, 0.5, True),
        (3, 0.4, False),
    ]


def test_an_equal_score_is_no_new_best(tiny_llama: TinyModel, tmp_path: Path) -> None:
    split = Scripted([0.5, 0.5, 0.5])
    fit_tiny(tiny_llama, tmp_path, callbacks=[split.callback(tmp_path, {1, 2, 3})])
    assert split.kept is not None
    assert all(torch.equal(split.kept[name], split.seen[0][name]) for name in split.kept)


@pytest.mark.parametrize(("patience", "evaluations"), [(1, 2), (2, 3), (3, 3), (None, 3)])
def test_patience_stops_after_so_many_evaluations_without_a_best(
    patience: int | None, evaluations: int, tiny_llama: TinyModel, tmp_path: Path
) -> None:
    split = Scripted([0.5, 0.4, 0.5])
    fitted = fit_tiny(tiny_llama, tmp_path, callbacks=[split.callback(tmp_path, {1, 2, 3}, patience)])
    assert fitted.steps == len(split.seen) == evaluations


def test_scoring_in_between_does_not_change_the_training(tiny_llama: TinyModel, tmp_path: Path) -> None:
    """The model comes back in training mode, and no random number is used up."""

    def evaluate(model: Any) -> dict[str, float]:
        from erc_llm.decoding.scoring import score_trees

        score_trees(model, tiny_prompter(tiny_llama).trees(SCENES[0], "all"))
        return {"weighted_f1": 0.5}

    log = unseen_log(tmp_path)
    callback = SelectionCallback(tmp_path, frozenset({1, 2}), evaluate, lambda _: None, None, True, SILENT, log)
    with_scores = fit_tiny(tiny_llama, tmp_path / "a", dropout=0.2, callbacks=[callback]).adapter
    without = fit_tiny(tiny_llama, tmp_path / "b", dropout=0.2).adapter
    assert all(torch.equal(with_scores[name], without[name]) for name in without)


def test_the_first_and_the_last_step_are_logged_however_few_there_are(tiny_llama: TinyModel, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    every, rare = (
        train(tiny_config(tiny_llama, corpus, tmp_path / str(number), training={"log_every": number}))
        for number in (1, 1000)
    )
    steps = [record["step"] for record in read_lines(every.folder / "training.jsonl")]
    assert [record["step"] for record in read_lines(rare.folder / "training.jsonl")] == [1, steps[-1]]
    assert f"{steps[-1]} optimizer steps" in (rare.folder / "report.html").read_text("utf-8")
