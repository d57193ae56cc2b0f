"""Label smoothing: cross-entropy against a distribution, by hand from one plain prompt per answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from erc_llm.config import RunConfig
from erc_llm.trees.forest import pack
from erc_llm.trees.tree import TokenTree
from erc_llm.tuning.objective import target_losses
from erc_llm.tuning.scene_trees import training_trees
from erc_llm.tuning.smoothing import Rows, smoothed_labels
from erc_llm.tuning.trainer import fit
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
    three_steps,
    tiny_adapter,
    tiny_prompter,
)

COUNTS = [[(3 * i + 5 * j) % 11 for j in range(7)] for i in range(7)]  # not symmetric: rows are not columns
ROWS = smoothed_labels(0.3, "confusions", [1 / 7] * 7, COUNTS)


def test_the_distributions_are_those_of_the_formula() -> None:
    """(1 - x) onehot(g) + x r."""
    shares = [0.5, 0.3, 0.2]
    assert smoothed_labels(0.0, "uniform", shares, None) is None
    uniform = smoothed_labels(0.3, "uniform", shares, None)
    assert uniform == pytest.approx(np.full((3, 3), 0.1) + 0.7 * np.eye(3))
    toward = np.array(smoothed_labels(0.3, "shares", shares, None))
    assert toward == pytest.approx(0.3 * np.tile(shares, (3, 1)) + 0.7 * np.eye(3))
    assert np.array(shares) @ toward == pytest.approx(shares), "the label distribution stays as it is"
    confused = np.array(smoothed_labels(0.5, "confusions", shares, [[8, 2, 0], [1, 3, 6], [0, 0, 0]]))
    predicted = np.array([9, 5, 6]) / 20  # added to each row, so that a label without any has average errors
    assert confused[0] == pytest.approx(0.5 * np.array([1, 0, 0]) + 0.5 * (np.array([8, 2, 0]) + predicted) / 11)
    assert confused[2] == pytest.approx(0.5 * np.array([0, 0, 1]) + 0.5 * predicted)
    for rows in (uniform, toward, confused):
        assert np.sum(rows, axis=1) == pytest.approx(1)


def _by_hand(model: Any, trees: Sequence[TokenTree], rows: Rows) -> tuple[torch.Tensor, float]:
    """Weighted sum of cross-entropies against the mixed distribution, and the sum of weights.

    One plain causal forward over each answer's root path; auxiliary questions have their gold answer, and the words of
    a line their negative log-likelihood.
    """
    total, weight = torch.zeros(()), 0.0
    for tree, question in [(t, q) for t in trees for q in t.questions]:
        likelihoods = []
        for answer in question.answers:
            ids = torch.from_numpy(tree.token_ids[tree.root_path(answer[-1])])
            steps = model(input_ids=ids[None]).logits[0].float().log_softmax(-1)[-len(answer) - 1 : -1]
            likelihoods.append(steps.gather(1, ids[-len(answer) :, None]).sum())
        gold = question.labels.index(question.gold)  # type: ignore[arg-type]
        target = torch.tensor(rows[gold]) if question.task == "label" else torch.eye(len(likelihoods))[gold]
        logits = torch.stack(likelihoods)
        if question.task == "words":
            total = total - question.weight * logits.sum()
        else:
            total = total + question.weight * torch.nn.functional.cross_entropy(logits[None], target[None])
        weight += question.weight
    return total, weight


@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_is_the_cross_entropy_against_the_mixed_distribution(
    parts: int, tiny_llama: TinyModel, tmp_path: Path
) -> None:
    """Loss and LoRA gradients, whatever the step is split into; auxiliary questions are not smoothed.

    The words of a line, which have no closed set of answers, have their negative log-likelihood.
    """
    assert ROWS is not None
    tasks = {"next_emotion": 0.5, "speaker": 0.7, "polarity": 0.5, "words": 0.3}
    config = RunConfig.model_validate({"training": {"objective": "closed_set", "auxiliary": tasks}})
    trees_of = training_trees(config, SCENES, tiny_prompter(tiny_llama), None)
    watcher, model = Watcher(), tiny_adapter(tiny_llama)
    settings = fit_settings(accumulation=parts, objective="closed_set", smoothed=ROWS)
    fit(model, tiny_llama.tokenizer, three_steps(parts), trees_of, settings, tmp_path, [watcher])
    trees = [tree for batch in three_steps().steps[0] for scene in batch.scenes for tree in trees_of(scene, 0)]
    assert {q.task for tree in trees for q in tree.questions} == {"label", *tasks}
    by_hand = tiny_adapter(tiny_llama)
    total, weight = _by_hand(by_hand, trees, ROWS)
    (total / weight).backward()
    assert watcher.losses[0] == pytest.approx((total / weight).item(), abs=2 * LOSS_TOLERANCE)
    gradients = {n: p.grad for n, p in by_hand.named_parameters() if p.grad is not None}
    assert largest_difference(watcher.gradients[0], gradients) < GRADIENT_TOLERANCE


def test_speakers_may_be_more_than_labels(tiny_llama: TinyModel) -> None:
    """The answers of an auxiliary question are counted by themselves, and are no rows of the distributions."""
    trees = first_step(tiny_llama, closed=True)
    forest = pack(trees)
    likelihoods = -torch.rand(forest.answers, generator=torch.Generator().manual_seed(0))
    forest.about_label[0] = False
    forest.label[forest.question == 0] += 100
    rows = torch.tensor(ROWS)
    found = target_losses(likelihoods, forest, "closed_set", rows)
    plain = target_losses(likelihoods, forest, "closed_set")
    assert found[0] == plain[0]
    assert not torch.allclose(found[1:], plain[1:])


def test_rows_of_the_gold_label_alone_change_nothing(tiny_llama: TinyModel, tmp_path: Path) -> None:
    alone = tuple(tuple(float(i == j) for j in range(7)) for i in range(7))
    plain, same, smoothed = (
        fit_tiny(tiny_llama, tmp_path / name, objective="closed_set", smoothed=rows).watcher
        for name, rows in (("plain", None), ("same", alone), ("smoothed", ROWS))
    )
    assert same.losses == pytest.approx(plain.losses, abs=1e-6)
    assert largest_difference(same.gradients[0], plain.gradients[0]) < GRADIENT_TOLERANCE
    assert largest_difference(smoothed.gradients[0], plain.gradients[0]) > 0.05
