"""Training in fp16: gradients are scaled, and a step whose gradients overflow changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from transformers import TrainerCallback

from erc_llm.models.adapters import attach_lora
from erc_llm.models.loading import load_base_model
from erc_llm.trees.attention import ATTENTION
from erc_llm.tuning.trainer import TreeTrainer, fit
from tests.tiny_models import TinyModel
from tests.tuning.fits import SCENES, fit_settings, fit_tiny, gold_trees, three_steps, tiny_adapter, tiny_prompter


def _fp16_model(tiny: TinyModel) -> Any:
    base = load_base_model(str(tiny.folder), precision="fp16", device="cpu", attention=ATTENTION).model
    model = attach_lora(base, rank=4, alpha=8, dropout=0.0, seed=3)
    exact = get_peft_model_state_dict(tiny_adapter(tiny))
    set_peft_model_state_dict(model, exact)
    return model


class Scaled(TrainerCallback):
    """Keeps the unscaled gradients of each step, the scale after it, and the weights before and after it."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.scales: list[float] = []
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.gradients.append({n: p.grad.clone() for n, p in trained.items()})
        self.weights.append({n: p.detach().clone() for n, p in trained.items()})

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.scales.append(self.trainer.accelerator.scaler.get_scale())


def _fit_fp16(tiny: TinyModel, folder: Path, monkeypatch: pytest.MonkeyPatch, scale: float) -> tuple[Any, Scaled]:
    """Three steps in fp16 whose gradients are multiplied by `scale` at first."""
    watched, model = Scaled(), _fp16_model(tiny)
    trees = [gold_trees(tiny_prompter(tiny), i, None) for i in range(len(SCENES))]
    start = TreeTrainer.train

    def train(self: Any, **options: Any) -> None:
        watched.trainer, self.accelerator.scaler = self, torch.amp.GradScaler("cpu", init_scale=scale)
        start(self, **options)

    monkeypatch.setattr(TreeTrainer, "train", train)
    fit(model, tiny.tokenizer, three_steps(), lambda i, _: trees[i], fit_settings(fp16=True), folder, [watched])
    return model, watched


def test_gradients_in_fp16_are_scaled_so_that_small_ones_do_not_vanish(
    tiny_llama: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = fit_tiny(tiny_llama, tmp_path / "fp32").watcher.gradients[0]
    _, watched = _fit_fp16(tiny_llama, tmp_path / "fp16", monkeypatch, 256.0)
    assert watched.scales == [256.0] * 3
    assert {gradient.dtype for gradient in watched.gradients[0].values()} == {torch.float32}
    one, other = (torch.cat([g[name].flatten() for name in exact]) for g in (watched.gradients[0], exact))
    assert float((one - other).norm() / other.norm()) <= 0.01


def test_a_step_whose_gradients_overflow_is_left_out_and_the_scale_is_lowered(
    tiny_llama: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, watched = _fit_fp16(tiny_llama, tmp_path, monkeypatch, 2.0**40)
    assert watched.scales == [2.0**39, 2.0**38, 2.0**37]
    assert all(torch.equal(value, watched.weights[2][name]) for name, value in watched.weights[0].items())
    after = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert all(torch.equal(after[name], value) for name, value in watched.weights[0].items())
