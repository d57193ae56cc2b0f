"""Auxiliary questions in training: packed in one tree they have the loss and gradients of plain prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from peft import get_peft_model_state_dict

from erc_llm.config import RunConfig
from erc_llm.trees.forest import rows_of
from erc_llm.tuning.scene_trees import training_trees
from erc_llm.tuning.trainer import fit
from tests.tiny_models import TinyModel
from tests.tuning.fits import (
    GRADIENT_TOLERANCE,
    LOSS_TOLERANCE,
    SCENES,
    Watcher,
    fit_settings,
    largest_difference,
    loss_by_hand,
    three_steps,
    tiny_adapter,
    tiny_prompter,
)

TASKS = ("next_emotion", "speaker", "polarity", "words")


def trees_with(tiny: TinyModel, tasks: dict[str, float]) -> Any:
    config = RunConfig.model_validate({"training": {"auxiliary": tasks}})
    return training_trees(config, SCENES, tiny_prompter(tiny), None)


@pytest.mark.parametrize("tasks", [TASKS, *((task,) for task in TASKS)], ids="+".join)
def test_loss_and_gradients_are_those_of_plain_prompts(
    tasks: tuple[str, ...], tiny_llama: TinyModel, tmp_path: Path
) -> None:
    trees_of = trees_with(tiny_llama, dict.fromkeys(tasks, 0.5))
    watcher, model, steps = Watcher(), tiny_adapter(tiny_llama), three_steps()
    fit(model, tiny_llama.tokenizer, steps, trees_of, fit_settings(), tmp_path, [watcher])
    trees = [tree for batch in steps.steps[0] for scene in batch.scenes for tree in trees_of(scene, 0)]
    assert {q.task for tree in trees for q in tree.questions} == {"label", *tasks}
    by_hand = tiny_adapter(tiny_llama)
    total, weight, _ = loss_by_hand(by_hand, trees)
    (total / weight).backward()
    assert watcher.losses[0] == pytest.approx((total / weight).item(), abs=LOSS_TOLERANCE)
    gradients = {n: p.grad for n, p in by_hand.named_parameters() if p.grad is not None}
    assert largest_difference(watcher.gradients[0], gradients) < GRADIENT_TOLERANCE


def test_words_add_no_tokens(tiny_llama: TinyModel) -> None:
    plain, words = (trees_with(tiny_llama, tasks)(0, 0) for tasks in ({}, {"words": 0.5}))
    assert [rows_of(tree) for tree in words] == [rows_of(tree) for tree in plain]
    (tree,) = words
    trained = [node for q in tree.questions if q.task == "words" for node in q.answers[0]]
    lines = [node for span in tree.spans if span.kind == "line" for node in range(span.start, span.stop)]
    assert trained == lines


def test_without_any_the_training_is_the_same(tiny_llama: TinyModel, tmp_path: Path) -> None:
    adapters = []
    for tasks in ({}, dict.fromkeys(TASKS, 0.0)):
        model = tiny_adapter(tiny_llama)
        trees_of = trees_with(tiny_llama, tasks)
        fit(model, tiny_llama.tokenizer, three_steps(), trees_of, fit_settings(), tmp_path / str(len(tasks)), [])
        adapters.append({k: v.clone() for k, v in get_peft_model_state_dict(model).items()})
    assert largest_difference(*adapters) == 0
