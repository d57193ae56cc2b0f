"""The optimisation: the loss of a step by hand, its split into parts and processes, and which adapter is kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model_state_dict

from erc_llm.errors import ConfigError, ModelError, UserError
from erc_llm.models.adapters import attach_lora
from erc_llm.models.devices import Precision
from erc_llm.models.loading import load_base_model
from erc_llm.trees.attention import ATTENTION
from erc_llm.tuning import trainer
from erc_llm.tuning.order import order_steps
from erc_llm.tuning.trainer import TreeTrainer, fit
from tests.tiny_models import TinyModel
from tests.tuning.fits import (
    GRADIENT_TOLERANCE,
    LOSS_TOLERANCE,
    SCENES,
    Watcher,
    first_step,
    fit_settings,
    fit_tiny,
    largest_difference,
    loss_by_hand,
    three_steps,
    tiny_adapter,
    tiny_prompter,
)


@pytest.mark.parametrize("weight", [None, 3.0])
def test_the_loss_is_the_mean_over_targets_not_over_tokens(
    weight: float | None, tiny_llama: TinyModel, tmp_path: Path
) -> None:
    """And so are its gradients: the weighted mean of label sequences' NLL, end tokens included."""
    fitted = fit_tiny(tiny_llama, tmp_path, weights=weight)
    model, trees = tiny_adapter(tiny_llama), first_step(tiny_llama, weight)
    total, weights, tokens = loss_by_hand(model, trees)
    end = tiny_prompter(tiny_llama).answer_ids
    assert all(ids[-1] == tiny_llama.tokenizer.eos_token_id for ids in end), "an answer's end is trained"
    assert len({len(ids) for ids in end}) > 1, "labels of one length cannot tell the two means apart"
    expected = total / weights
    assert abs((expected - total / tokens).item()) > 0.5
    assert fitted.watcher.losses[0] == pytest.approx(expected.item(), abs=LOSS_TOLERANCE)
    expected.backward()
    by_hand = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert len(by_hand) == 28
    assert largest_difference(fitted.watcher.gradients[0], by_hand) < GRADIENT_TOLERANCE


def test_weights_change_the_step_and_a_common_factor_does_not(tiny_llama: TinyModel, tmp_path: Path) -> None:
    plain, weighted = (fit_tiny(tiny_llama, tmp_path / str(w), weights=w).watcher for w in (1.0, 3.0))
    assert largest_difference(weighted.gradients[0], plain.gradients[0]) > 0.05
    default = fit_tiny(tiny_llama, tmp_path / "default").watcher
    assert largest_difference(plain.gradients[0], default.gradients[0]) < GRADIENT_TOLERANCE


@pytest.mark.parametrize("parts", [1, 2])
def test_weights_that_are_not_normalised_are_divided_by_the_number_of_targets(
    parts: int, tiny_llama: TinyModel, tmp_path: Path
) -> None:
    fitted = fit_tiny(tiny_llama, tmp_path, parts=parts, weights=3.0, normalised=False)
    model, trees = tiny_adapter(tiny_llama), first_step(tiny_llama, 3.0)
    total, weights, _ = loss_by_hand(model, trees)
    targets = sum(len(tree.questions) for tree in trees)
    assert weights > 1.5 * targets
    expected = total / targets
    assert fitted.watcher.losses[0] == pytest.approx(expected.item(), abs=2 * LOSS_TOLERANCE)
    expected.backward()
    by_hand = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert largest_difference(fitted.watcher.gradients[0], by_hand) < GRADIENT_TOLERANCE


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_changes_nothing(parts: int, tiny_llama: TinyModel, tmp_path: Path) -> None:
    """Same losses and gradients as one forest a step; AdamW divides by the gradient's size, so weights get 1e-5."""
    whole = fit_tiny(tiny_llama, tmp_path / "1", weights=2.0)
    split = fit_tiny(tiny_llama, tmp_path / str(parts), parts=parts, weights=2.0)
    assert split.steps == whole.steps == 3
    assert split.watcher.losses == pytest.approx(whole.watcher.losses, abs=LOSS_TOLERANCE)
    for one, other in zip(split.watcher.gradients, whole.watcher.gradients, strict=True):
        assert largest_difference(one, other) < GRADIENT_TOLERANCE
    for name, weight in whole.adapter.items():
        assert torch.allclose(split.adapter[name], weight, atol=1e-5), name
    start = get_peft_model_state_dict(tiny_adapter(tiny_llama))
    assert max(float((whole.adapter[n] - start[n]).abs().max()) for n in start) > 1e-3, "it was trained"


def test_gradient_checkpointing_changes_nothing_but_memory(tiny_llama: TinyModel, tmp_path: Path) -> None:
    plain = fit_tiny(tiny_llama, tmp_path / "plain")
    saving = fit_tiny(tiny_llama, tmp_path / "saving", gradient_checkpointing=True)
    for one, other in zip(saving.watcher.gradients, plain.watcher.gradients, strict=True):
        assert largest_difference(one, other) < GRADIENT_TOLERANCE


def test_dropout_is_drawn_from_the_seed(tiny_llama: TinyModel, tmp_path: Path) -> None:
    runs = [
        fit_tiny(tiny_llama, tmp_path / f"{dropout}{i}", dropout=dropout).adapter
        for dropout, i in ((0.2, 0), (0.2, 1), (0, 2))
    ]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert any(not torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_training_in_16_bits_trains_fp32_adapter_weights(
    precision: Precision, tiny_llama: TinyModel, tmp_path: Path
) -> None:
    base = load_base_model(str(tiny_llama.folder), precision=precision, device="cpu", attention=ATTENTION)
    model = attach_lora(base.model, rank=4, alpha=8, dropout=0.0, seed=3)
    prompter, watcher, schedule = tiny_prompter(tiny_llama), Watcher(), three_steps()
    trees = [prompter.trees(scene, "gold") for scene in SCENES]
    fit(model, base.tokenizer, schedule, lambda i, _: trees[i], fit_settings(**{precision: True}), tmp_path, [watcher])
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert all(torch.isfinite(torch.tensor(watcher.losses)))
    with torch.no_grad():
        total, weights, _ = loss_by_hand(tiny_llama.model, first_step(tiny_llama))
    assert watcher.losses[0] == pytest.approx(float(total) / weights, rel=0.03)


def test_another_attention_is_refused(tiny_llama: TinyModel, tmp_path: Path) -> None:
    base = load_base_model(str(tiny_llama.folder), precision="fp32", device="cpu", attention="sdpa")
    model = attach_lora(base.model, rank=4, alpha=8, dropout=0.0, seed=3)
    schedule = order_steps([1], epochs=1, tokens_per_step=64, parts=1, seed=3)
    with pytest.raises(ModelError, match="sdpa"):
        fit(model, base.tokenizer, schedule, lambda *_: [], fit_settings(), tmp_path, [])


def test_of_several_visible_gpus_one_process_uses_one(
    tiny_llama: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL refuses transformers' way to use them all; the trainer is built, what needs a GPU is left out."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Example GPU")
    monkeypatch.setattr(TreeTrainer, "_move_model_to_device", lambda *_: None)
    built: list[Any] = []
    monkeypatch.setattr(TreeTrainer, "train", lambda self, **_: built.append(self))
    fit_tiny(tiny_llama, tmp_path, use_cpu=False)
    (one,) = built
    assert one.args.device == torch.device("cuda:0")
    assert one.args.n_gpu == 1


def test_tensorboard_gets_its_events(tiny_llama: TinyModel, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    fit_tiny(tiny_llama, tmp_path, report_to=("tensorboard",))
    events = list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))
    assert events
    assert b"train/loss" in b"".join(path.read_bytes() for path in events)


def test_a_training_leaves_the_environment_alone(
    tiny_llama: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host's own TensorBoard folder stays the host's, and gets nothing of ours."""
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "host"))
    before = dict(os.environ)
    fit_tiny(tiny_llama, tmp_path / "run", report_to=("tensorboard",))
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == before["TENSORBOARD_LOGGING_DIR"]
    assert not (tmp_path / "host").exists()


def test_tensorboard_that_is_not_installed_is_named(
    tiny_llama: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("erc_llm.tuning.trainer.is_tensorboard_available", lambda: False)
    with pytest.raises(ConfigError, match=r"training\.report_to: .*pip install 'erc-llm\[tensorboard\]'"):
        fit_tiny(tiny_llama, tmp_path, report_to=("tensorboard",))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_too_little_gpu_memory_names_the_settings_that_help(
    checkpointing: bool, tiny_llama: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, calls = trainer.forest_logits, []

    def full(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of it")
        return forward(*arguments)

    monkeypatch.setattr(trainer, "forest_logits", full)
    with pytest.raises(UserError, match="out of GPU memory after 1 optimizer steps") as caught:
        fit_tiny(tiny_llama, tmp_path, gradient_checkpointing=checkpointing, planned_bytes=3 * 2**29)
    message = str(caught.value)
    assert "planned were 1.5 GiB" in message
    assert "Tried to allocate 2.00 GiB" in message
    assert "More of it" not in message
    for knob in ("training.accumulation (now 1)", "scoring.tokens_per_forest", "training.tokens_per_step", "--resume"):
        assert knob in message
    assert ("training.gradient_checkpointing=true" in message) is not checkpointing
    assert caught.value.exit_code == 2
