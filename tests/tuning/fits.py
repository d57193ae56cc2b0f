"""A training run of three steps on a tiny model, whose losses and gradients are watched; and the same loss by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from transformers import TrainerCallback, TrainerState

from erc_llm.corpus.labels import EMORYNLP
from erc_llm.models.adapters import attach_lora
from erc_llm.models.loading import load_base_model
from erc_llm.prompting.prompter import Prompter
from erc_llm.prompting.templates import load_prompt
from erc_llm.trees.attention import ATTENTION
from erc_llm.trees.tree import TokenTree
from erc_llm.tuning.order import StepOrder, order_steps
from erc_llm.tuning.trainer import FitSettings, fit
from tests.tiny_models import TinyModel, disturb
from tests.tiny_runs import dialogue

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


def tiny_prompter(tiny: TinyModel) -> Prompter:
    return Prompter(tiny.tokenizer, load_prompt("instruct"), EMORYNLP)


def tiny_adapter(tiny: TinyModel, dropout: float = 0.0) -> Any:
    """An adapter that already does something, so that no gradient is zero."""
    base = load_base_model(str(tiny.folder), precision="fp32", device="cpu", attention=ATTENTION).model
    model = attach_lora(base, rank=4, alpha=8, dropout=dropout, seed=3)
    disturb(model, 0.05)
    return model


def fit_settings(**changes: Any) -> FitSettings:
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


def three_steps(parts: int = 1) -> StepOrder:
    """Scenes count as equally long here, so that each step has four whatever it is split into."""
    schedule = order_steps([1] * len(SCENES), epochs=1, tokens_per_step=4, parts=parts, seed=3)
    assert [sum(len(batch.scenes) for batch in step) for step in schedule.steps] == [4, 4, 4]
    return schedule


@dataclass
class Fitted:
    watcher: Watcher
    adapter: dict[str, torch.Tensor]
    steps: int


def fit_tiny(
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
    prompter, watcher = tiny_prompter(tiny), Watcher()
    closed = changes.get("objective") == "closed_set"
    trees = [gold_trees(prompter, scene, weights, closed) for scene in range(len(SCENES))]
    schedule = three_steps(parts)
    model = tiny_adapter(tiny, dropout)
    fit(
        model,
        tiny.tokenizer,
        schedule,
        lambda scene, _: trees[scene],
        fit_settings(accumulation=parts, **changes),
        folder,
        [watcher, *callbacks],
    )
    return Fitted(watcher, {k: v.clone() for k, v in get_peft_model_state_dict(model).items()}, watcher.steps)


def gold_trees(prompter: Prompter, scene: int, weight: float | None, closed: bool = False) -> list[TokenTree]:
    """Trees with gold answers, or `closed` with all; with `weight`, every second target has it and the others 1."""
    weights = None
    if weight is not None:
        weights = {k: weight if k % 2 else 1.0 for k in range(len(SCENES[scene].utterances))}
    return prompter.trees(SCENES[scene], "gold_all" if closed else "gold", weights=weights)


def first_step(tiny: TinyModel, weight: float | None = None, closed: bool = False) -> list[TokenTree]:
    prompter = tiny_prompter(tiny)
    step = three_steps().steps[0]
    return [tree for batch in step for scene in batch.scenes for tree in gold_trees(prompter, scene, weight, closed)]


def loss_by_hand(model: Any, trees: Sequence[TokenTree]) -> tuple[torch.Tensor, float, int]:
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


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest difference, relative to the largest entry of each tensor."""
    assert one.keys() == other.keys()
    return max(float((one[k] - other[k]).abs().max() / other[k].abs().max().clamp(min=1e-12)) for k in one)
