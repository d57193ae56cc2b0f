"""Hidden states of questions: those of a plain forward over the root path, in whatever pieces they are computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from erc_llm.decoding.scenes import mean_score
from erc_llm.decoding.scoring import LabelScores, extend_trunk, score_questions, score_trees
from erc_llm.models.adapters import attach_lora
from erc_llm.trees.attention import ATTENTION
from erc_llm.trees.tree import TokenTree
from tests.tiny_models import TinyModel, disturb
from tests.trees.random_trees import random_tree

TOLERANCE = 1e-4
TREES = [random_tree(seed) for seed in range(12)]


@pytest.fixture(scope="module", params=["plain", "adapted"])
def model(request: pytest.FixtureRequest, tiny_llama: TinyModel) -> Any:
    loaded = AutoModelForCausalLM.from_pretrained(tiny_llama.folder, attn_implementation=ATTENTION).eval()
    if request.param == "plain":
        return loaded
    adapted = attach_lora(loaded, rank=4, alpha=8, dropout=0.0, seed=0)
    disturb(adapted, 0.3)
    return adapted.eval()


@torch.no_grad()
def plain_states(model: Any, tree: TokenTree) -> np.ndarray:
    """(questions, width) last hidden states at each question's last token, by a plain forward over its root path."""
    found = []
    for question in tree.questions:
        above = int(tree.parent[question.answers[0][0]])
        ids = torch.from_numpy(tree.token_ids[tree.root_path(above)])[None]
        states = model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
        found.append(states[-1][0, -1].numpy())
    return np.array(found)


def states(scores: list[LabelScores]) -> np.ndarray:
    return np.array([s.state for s in scores])


@pytest.mark.parametrize("budget", [8, 40, 4096])
def test_states_are_those_of_a_plain_forward(model: Any, budget: int) -> None:
    for tree, scores in zip(TREES, score_trees(model, TREES, tokens_per_forest=budget, states=True), strict=True):
        np.testing.assert_allclose(states(scores), plain_states(model, tree), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("behind", [0, 3])
def test_states_on_the_cache_are_the_same(model: Any, behind: int) -> None:
    tree = random_tree(7, most_trunk=30)
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        if tree.trunk > behind:
            extend_trunk(model, cache, tree.token_ids[: tree.trunk - behind])
        found = score_questions(model, cache, tree, tree.questions, states=True)
    np.testing.assert_allclose(states(found), plain_states(model, tree), rtol=0, atol=TOLERANCE)


def test_asking_for_states_changes_no_score_and_leaves_no_hook(model: Any) -> None:
    plain, kept = score_trees(model, TREES), score_trees(model, TREES, states=True)
    for one, other in zip((s for t in plain for s in t), (s for t in kept for s in t), strict=True):
        np.testing.assert_array_equal(one.log_likelihoods, other.log_likelihoods)
        assert one.state is None
    assert not model.get_output_embeddings()._forward_pre_hooks


def test_over_several_prompts_the_state_is_the_mean() -> None:
    one, other = (LabelScores(3, np.zeros(2), np.array([x, 1.0])) for x in (0.0, 4.0))
    assert mean_score([one, other]).state.tolist() == [2, 1]  # type: ignore[union-attr]
    assert mean_score([LabelScores(3, np.zeros(2))] * 2).state is None
