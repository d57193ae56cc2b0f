"""The optimisation: the loss of a step by hand, its split into parts and processes, and which adapter is kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model_state_dict
from transformers import TrainerCallback, TrainerState

from erc_llm.corpus.labels import EMORYNLP
from erc_llm.errors import ConfigError, ModelError, UserError
from erc_llm.models.adapters import attach_lora
from erc_llm.models.devices import Precision
from erc_llm.models.loading import load_base_model
from erc_llm.prompting.prompter import Prompter
from erc_llm.prompting.templates import load_prompt
from erc_llm.runs.logs import read_lines
from erc_llm.runs.progress import SILENT
from erc_llm.trees.attention import ATTENTION
from erc_llm.trees.tree import TokenTree
from erc_llm.tuning import trainer
from erc_llm.tuning.callbacks import SelectionCallback
from erc_llm.tuning.order import StepOrder, order_steps
from erc_llm.tuning.trainer import FitSettings, TreeTrainer, fit
from tests.tiny_models import TinyModel
from tests.tiny_runs import dialogue
from tests.tuning.logs import unseen_log

SCENES = [dialogue(number, 2 + number % 4) for number in range(12)]

# fp32: packed and plain forwards, and sums over another number of forests, differ in the order of additions only.
LOSS_TOLERANCE = 2e-4
GRADIENT_TOLERANCE = 1e-4  # relative to the largest entry of the gradient


@dataclass
class Watcher(TrainerCallback):
    """Keeps the loss and the unclipped gradients of every step."""

    losses: list[float] = field(default_factory=list)
    gradients: list[dict[str, torch.Tensor]] = field(default_factory=list)
    steps: int = 0

    def on_train_end(self, _: Any, state: TrainerState, *__: Any, **___: Any) -> None:
        self.steps = state.global_step

    def on_pre_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
        self.gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])


def _prompter(tiny: TinyModel) -> Prompter:
    return Prompter(tiny.tokenizer, load_prompt("instruct"), EMORYNLP)


def _model(tiny: TinyModel, dropout: float = 0.0) -> Any:
    """An adapter that already does something, so that no gradient is zero."""
    base = load_base_model(str(tiny.folder), precision="fp32", device="cpu", attention=ATTENTION).model
    model = attach_lora(base, rank=4, alpha=8, dropout=dropout, seed=3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05, generator=generator)
    return model


def _plan(**changes: Any) -> FitSettings:
    values: dict[str, Any] = {
        "learning_rate": 1e-3,
        "lr_schedule": "cosine",
        "warmup": 0.0,
        "weight_decay": 0.0,
        "max_grad_norm": 1e9,
        "accumulation": 1,
        "gradient_checkpointing": False,
        "bf16": False,
        "fp16": False,
        "use_cpu": True,
        "seed": 3,
        "log_every": 1,
        "report_to": (),
        "run_name": "tiny",
    }
    return FitSettings(**(values | changes))


def _schedule(parts: int = 1) -> StepOrder:
    """Scenes count as equally long here, so that each step has four whatever it is split into."""
    schedule = order_steps([1] * len(SCENES), epochs=1, tokens_per_step=4, parts=parts, seed=3)
    assert [sum(len(batch.scenes) for batch in step) for step in schedule.steps] == [4, 4, 4]
    return schedule


@dataclass
class Fitted:
    watcher: Watcher
    adapter: dict[str, torch.Tensor]
    steps: int


def _fit(
    tiny: TinyModel,
    folder: Path,
    *,
    parts: int = 1,
    weights: float | None = None,
    dropout: float = 0.0,
    callbacks: Sequence[TrainerCallback] = (),
    **changes: Any,
) -> Fitted:
    """Three steps of four scenes each."""
    prompter, watcher = _prompter(tiny), Watcher()
    trees = [_trees(prompter, scene, weights) for scene in range(len(SCENES))]
    schedule = _schedule(parts)
    model = _model(tiny, dropout)
    fit(
        model,
        tiny.tokenizer,
        schedule,
        lambda scene, _: trees[scene],
        _plan(accumulation=parts, **changes),
        folder,
        [watcher, *callbacks],
    )
    return Fitted(watcher, {k: v.clone() for k, v in get_peft_model_state_dict(model).items()}, watcher.steps)


def _trees(prompter: Prompter, scene: int, weight: float | None) -> list[TokenTree]:
    """Trees with gold answers; with `weight`, every second target has that weight and the others have 1."""
    weights = None
    if weight is not None:
        weights = {k: weight if k % 2 else 1.0 for k in range(len(SCENES[scene].utterances))}
    return prompter.trees(SCENES[scene], "gold", weights=weights)


def _first_step(tiny: TinyModel, weight: float | None = None) -> list[TokenTree]:
    prompter = _prompter(tiny)
    step = _schedule().steps[0]
    return [tree for batch in step for scene in batch.scenes for tree in _trees(prompter, scene, weight)]


def _by_hand(model: Any, trees: Sequence[TokenTree]) -> tuple[torch.Tensor, float, int]:
    """Weighted sum of label NLLs by one plain causal forward a target, the sum of weights, and the answer tokens."""
    total, weight, tokens = torch.zeros(()), 0.0, 0
    for tree in trees:
        for question in tree.questions:
            [answer] = question.answers
            ids = torch.from_numpy(tree.token_ids[tree.root_path(answer[-1])])
            log_probabilities = model(input_ids=ids[None]).logits[0].float().log_softmax(-1)
            steps = log_probabilities[-len(answer) - 1 : -1].gather(1, ids[-len(answer) :, None])
            total = total - question.weight * steps.sum()
            weight += question.weight
            tokens += len(answer)
    return total, weight, tokens


def _difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest difference, relative to the largest entry of each tensor."""
    assert one.keys() == other.keys()
    return max(float((one[k] - other[k]).abs().max() / other[k].abs().max().clamp(min=1e-12)) for k in one)


@pytest.mark.parametrize("weight", [None, 3.0])
def test_the_loss_is_the_mean_over_targets_not_over_tokens(
    weight: float | None, tiny_llama: TinyModel, tmp_path: Path
) -> None:
    """And so are its gradients: the weighted mean of label sequences' NLL, end tokens included."""
    fitted = _fit(tiny_llama, tmp_path, weights=weight)
    model, trees = _model(tiny_llama), _first_step(tiny_llama, weight)
    total, weights, tokens = _by_hand(model, trees)
    end = _prompter(tiny_llama).answer_ids
    assert all(ids[-1] == tiny_llama.tokenizer.eos_token_id for ids in end), "an answer's end is trained"
    assert len({len(ids) for ids in end}) > 1, "labels of one length cannot tell the two means apart"
    expected = total / weights
    assert abs((expected - total / tokens).item()) > 0.5
    assert fitted.watcher.losses[0] == pytest.approx(expected.item(), abs=LOSS_TOLERANCE)
    expected.backward()
    by_hand = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert len(by_hand) == 28
    assert _difference(fitted.watcher.gradients[0], by_hand) < GRADIENT_TOLERANCE


def test_weights_change_the_step_and_a_common_factor_does_not(tiny_llama: TinyModel, tmp_path: Path) -> None:
    plain, weighted = (_fit(tiny_llama, tmp_path / str(w), weights=w).watcher for w in (1.0, 3.0))
    assert _difference(weighted.gradients[0], plain.gradients[0]) > 0.05
    default = _fit(tiny_llama, tmp_path / "default").watcher
    assert _difference(plain.gradients[0], default.gradients[0]) < GRADIENT_TOLERANCE


@pytest.mark.parametrize("parts", [1, 2])
def test_weights_that_are_not_normalised_are_divided_by_the_number_of_targets(
    parts: int, tiny_llama: TinyModel, tmp_path: Path
) -> None:
    fitted = _fit(tiny_llama, tmp_path, parts=parts, weights=3.0, normalised=False)
    model, trees = _model(tiny_llama), _first_step(tiny_llama, 3.0)
    total, weights, _ = _by_hand(model, trees)
    targets = sum(len(tree.questions) for tree in trees)
    assert weights > 1.5 * targets
    expected = total / targets
    assert fitted.watcher.losses[0] == pytest.approx(expected.item(), abs=2 * LOSS_TOLERANCE)
    expected.backward()
    by_hand = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert _difference(fitted.watcher.gradients[0], by_hand) < GRADIENT_TOLERANCE


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_changes_nothing(parts: int, tiny_llama: TinyModel, tmp_path: Path) -> None:
    """Same losses and gradients as one forest a step; AdamW divides by the gradient's size, so weights get 1e-5."""
    whole = _fit(tiny_llama, tmp_path / "1", weights=2.0)
    split = _fit(tiny_llama, tmp_path / str(parts), parts=parts, weights=2.0)
    assert split.steps == whole.steps == 3
    assert split.watcher.losses == pytest.approx(whole.watcher.losses, abs=LOSS_TOLERANCE)
    for one, other in zip(split.watcher.gradients, whole.watcher.gradients, strict=True):
        assert _difference(one, other) < GRADIENT_TOLERANCE
    for name, weight in whole.adapter.items():
        assert torch.allclose(split.adapter[name], weight, atol=1e-5), name
    start = get_peft_model_state_dict(_model(tiny_llama))
    assert max(float((whole.adapter[n] - start[n]).abs().max()) for n in start) > 1e-3, "it was trained"


def test_gradient_checkpointing_changes_nothing_but_memory(tiny_llama: TinyModel, tmp_path: Path) -> None:
    plain = _fit(tiny_llama, tmp_path / "plain")
    saving = _fit(tiny_llama, tmp_path / "saving", gradient_checkpointing=True)
    for one, other in zip(saving.watcher.gradients, plain.watcher.gradients, strict=True):
        assert _difference(one, other) < GRADIENT_TOLERANCE


def test_dropout_is_drawn_from_the_seed(tiny_llama: TinyModel, tmp_path: Path) -> None:
    runs = [
        _fit(tiny_llama, tmp_path / f"{dropout}{i}", dropout=dropout).adapter
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
    prompter, watcher, schedule = _prompter(tiny_llama), Watcher(), _schedule()
    trees = [prompter.trees(scene, "gold") for scene in SCENES]
    fit(model, base.tokenizer, schedule, lambda i, _: trees[i], _plan(**{precision: True}), tmp_path, [watcher])
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert all(torch.isfinite(torch.tensor(watcher.losses)))
    with torch.no_grad():
        total, weights, _ = _by_hand(tiny_llama.model, _first_step(tiny_llama))
    assert watcher.losses[0] == pytest.approx(float(total) / weights, rel=0.03)


def test_another_attention_is_refused(tiny_llama: TinyModel, tmp_path: Path) -> None:
    base = load_base_model(str(tiny_llama.folder), precision="fp32", device="cpu", attention="sdpa")
    model = attach_lora(base.model, rank=4, alpha=8, dropout=0.0, seed=3)
    schedule = order_steps([1], epochs=1, tokens_per_step=64, parts=1, seed=3)
    with pytest.raises(ModelError, match="sdpa"):
        fit(model, base.tokenizer, schedule, lambda *_: [], _plan(), tmp_path, [])


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
    _fit(tiny_llama, tmp_path, use_cpu=False)
    (one,) = built
    assert one.args.device == torch.device("cuda:0")
    assert one.args.n_gpu == 1


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
    fitted = _fit(tiny_llama, tmp_path, callbacks=callbacks)
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
    _fit(tiny_llama, tmp_path, callbacks=[split.callback(tmp_path, {1, 2, 3})])
    assert split.kept is not None
    assert all(torch.equal(split.kept[name], split.seen[0][name]) for name in split.kept)


@pytest.mark.parametrize(("patience", "evaluations"), [(1, 2), (2, 3), (3, 3), (None, 3)])
def test_patience_stops_after_so_many_evaluations_without_a_best(
    patience: int | None, evaluations: int, tiny_llama: TinyModel, tmp_path: Path
) -> None:
    split = Scripted([0.5, 0.4, 0.5])
    fitted = _fit(tiny_llama, tmp_path, callbacks=[split.callback(tmp_path, {1, 2, 3}, patience)])
    assert fitted.steps == len(split.seen) == evaluations


def test_scoring_in_between_does_not_change_the_training(tiny_llama: TinyModel, tmp_path: Path) -> None:
    """The model comes back in training mode, and no random number is used up."""

    def evaluate(model: Any) -> dict[str, float]:
        from erc_llm.decoding.scoring import score_trees

        score_trees(model, _prompter(tiny_llama).trees(SCENES[0], "all"))
        return {"weighted_f1": 0.5}

    log = unseen_log(tmp_path)
    callback = SelectionCallback(tmp_path, frozenset({1, 2}), evaluate, lambda _: None, None, True, SILENT, log)
    with_scores = _fit(tiny_llama, tmp_path / "a", dropout=0.2, callbacks=[callback]).adapter
    without = _fit(tiny_llama, tmp_path / "b", dropout=0.2).adapter
    assert all(torch.equal(with_scores[name], without[name]) for name in without)


def test_tensorboard_gets_its_events(tiny_llama: TinyModel, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    _fit(tiny_llama, tmp_path, report_to=("tensorboard",))
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
    _fit(tiny_llama, tmp_path / "run", report_to=("tensorboard",))
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == before["TENSORBOARD_LOGGING_DIR"]
    assert not (tmp_path / "host").exists()


def test_tensorboard_that_is_not_installed_is_named(
    tiny_llama: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("erc_llm.tuning.trainer.is_tensorboard_available", lambda: False)
    with pytest.raises(ConfigError, match=r"training\.report_to: .*pip install 'erc-llm\[tensorboard\]'"):
        _fit(tiny_llama, tmp_path, report_to=("tensorboard",))


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
        _fit(tiny_llama, tmp_path, gradient_checkpointing=checkpointing, planned_bytes=3 * 2**29)
    message = str(caught.value)
    assert "planned were 1.5 GiB" in message
    assert "Tried to allocate 2.00 GiB" in message
    assert "More of it" not in message
    for knob in ("training.accumulation (now 1)", "scoring.tokens_per_forest", "training.tokens_per_step", "--resume"):
        assert knob in message
    assert ("training.gradient_checkpointing=true" in message) is not checkpointing
    assert caught.value.exit_code == 2
