"""R-Drop: two passes with different dropout, their mean loss and the divergence between them."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div
from transformers import TrainerCallback

from erc_llm.trees.attention import forest_logits
from erc_llm.trees.forest import pack
from erc_llm.trees.likelihoods import answer_log_likelihoods
from erc_llm.tuning.objective import divergence, target_weights
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus
from tests.trees.random_trees import random_tree
from tests.tuning.fits import (
    GRADIENT_TOLERANCE,
    LOSS_TOLERANCE,
    first_step,
    fit_tiny,
    largest_difference,
    tiny_adapter,
)
from tests.tuning.killed_runs import Kill, train_apart

DROPOUT, WEIGHT = 0.3, 2.0


def test_the_divergence_is_that_of_torch_for_any_number_of_answers() -> None:
    trees = [random_tree(seed, labels=labels) for seed, labels in ((1, 3), (2, 5), (3, 1))]
    forest = pack(trees)
    sizes = [len(question.answers) for tree in trees for question in tree.questions]
    generator = torch.Generator().manual_seed(0)
    one, other = (-9 * torch.rand(forest.answers, generator=generator) for _ in range(2))
    expected = []
    for a, b in zip(one.split(sizes), other.split(sizes), strict=True):
        p, q = a.log_softmax(0), b.log_softmax(0)
        expected.append(
            (kl_div(q, p, reduction="sum", log_target=True) + kl_div(p, q, reduction="sum", log_target=True)) / 2
        )
    assert torch.allclose(divergence(one, other, forest), torch.stack(expected), atol=1e-6)
    assert torch.equal(divergence(one, other, forest), divergence(other, one, forest))
    assert divergence(one, one, forest).tolist() == [0.0] * len(sizes)


class RandomState(TrainerCallback):
    """The state of the random numbers before the first forward pass."""

    found: torch.Tensor | None = None

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if self.found is None:
            self.found = torch.get_rng_state()


def test_a_step_is_the_mean_loss_of_two_passes_and_their_divergence(tiny_llama: TinyModel, tmp_path: Path) -> None:
    """Loss and LoRA gradients, divided by the sum of the targets' weights."""
    random = RandomState()
    watcher = fit_tiny(
        tiny_llama,
        tmp_path,
        weights=3.0,
        dropout=DROPOUT,
        callbacks=[random],
        objective="closed_set",
        r_drop=WEIGHT,
    ).watcher
    forest = pack(first_step(tiny_llama, 3.0, closed=True))
    by_hand = tiny_adapter(tiny_llama, DROPOUT).train()
    assert random.found is not None
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(random.found)
        one, other = (answer_log_likelihoods(forest_logits(by_hand, forest), forest).view(-1, 7) for _ in range(2))
    gold = forest.gold - 7 * torch.arange(len(forest.gold))
    losses = (cross_entropy(one, gold, reduction="none") + cross_entropy(other, gold, reduction="none")) / 2
    p, q = one.log_softmax(1), other.log_softmax(1)
    apart = (kl_div(q, p, reduction="none", log_target=True) + kl_div(p, q, reduction="none", log_target=True)).sum(
        1
    ) / 2
    assert apart.min() > 1e-4, "dropout sets the passes apart"
    weights = target_weights(forest)
    loss = ((losses + WEIGHT * apart) * weights).sum() / weights.sum()
    loss.backward()
    assert watcher.losses[0] == pytest.approx(loss.item(), abs=LOSS_TOLERANCE)
    gradients = {n: p.grad for n, p in by_hand.named_parameters() if p.grad is not None}
    assert largest_difference(watcher.gradients[0], gradients) < GRADIENT_TOLERANCE


@pytest.mark.parametrize("changes", [{}, {"parts": 2}, {"gradient_checkpointing": True}], ids=str)
def test_without_dropout_there_is_nothing_between_the_passes(
    changes: dict[str, Any], tiny_llama: TinyModel, tmp_path: Path
) -> None:
    """So the step is the plain one, however it is computed; a configuration refuses this, the optimisation does not."""
    plain = fit_tiny(tiny_llama, tmp_path / "plain", objective="closed_set").watcher
    twice = fit_tiny(tiny_llama, tmp_path / "twice", objective="closed_set", r_drop=WEIGHT, **changes).watcher
    assert twice.losses == pytest.approx(plain.losses, abs=LOSS_TOLERANCE)
    for one, other in zip(twice.gradients, plain.gradients, strict=True):
        assert largest_difference(one, other) < GRADIENT_TOLERANCE


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_adapter(tiny_llama: TinyModel, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", train=12)

    def config(name: str, minutes: float) -> str:
        training = {"tokens_per_step": 900, "evaluations": 0, "objective": "closed_set", "r_drop": 0.5}
        training["checkpoint_minutes"] = minutes
        return tiny_config(tiny_llama, corpus, tmp_path / name, training=training, lora={"dropout": 0.1}).as_yaml()

    assert train_apart(config("whole", 1e6)) == 0
    assert train_apart(config("killed", 0), kill=Kill("forward", 3)) == -signal.SIGKILL
    assert train_apart(config("killed", 0), resume=True) == 0
    one, other = (tmp_path / name / "tiny/adapter/adapter_model.safetensors" for name in ("whole", "killed"))
    assert one.read_bytes() == other.read_bytes()
