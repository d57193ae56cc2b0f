"""Seven exact log-likelihoods per target: equal to brute force, in whatever pieces they are computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AttentionInterface, AutoModelForCausalLM

from erc_llm.corpus.labels import EMORYNLP, LabelSet
from erc_llm.decoding import scoring
from erc_llm.decoding.scoring import (
    LabelScores,
    batch_by_rows,
    branches_only,
    extend_trunk,
    score_questions,
    score_trees,
    verify_tree_attention,
)
from erc_llm.errors import ModelError
from erc_llm.prompting.prompter import Prompter, PromptOptions
from erc_llm.prompting.templates import load_prompt
from erc_llm.trees.attention import ATTENTION, forest_attention
from erc_llm.trees.forest import rows_of
from erc_llm.trees.tree import TokenTree, TreeBuilder
from tests.prompting.scenes import scene
from tests.tiny_models import TinyModel
from tests.trees.random_trees import random_tree
from tests.trees.test_forest import tiny_mistral

TOLERANCE = 1e-4
PREFIXES = LabelSet(("Sadness", "Sad", "Mad", "Sad and Mad"))
ODD = LabelSet(("très gêné", "in love", "in", "😢", "😢😢", "悲しい", "a, b"))
WORDS = ["Who left the window open?", "I did.", "It is freezing in here.", "Oh", "You could have woken me."]
LINES = [("Mara" if k % 2 else "Tomas", WORDS[k % 5]) for k in range(12)]
SCENES = [scene(*LINES[:1]), scene(*LINES[1:8]), scene(*LINES[8:])]


@pytest.fixture(scope="module", params=["chatml", "llama2"])
def tiny(request: pytest.FixtureRequest, tiny_llama: TinyModel, tiny_llama2_style: TinyModel) -> TinyModel:
    return tiny_llama if request.param == "chatml" else tiny_llama2_style


@pytest.fixture(scope="module")
def model(tiny: TinyModel) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny.folder, attn_implementation=ATTENTION).eval()


def trees_of(tiny: TinyModel, labels: LabelSet = EMORYNLP, **options: Any) -> list[TokenTree]:
    prompter = Prompter(tiny.tokenizer, load_prompt("instruct"), labels, PromptOptions(**options))
    return [tree for dialogue in SCENES for tree in prompter.trees(dialogue, "all")]


@torch.no_grad()
def brute_force(model: Any, prompt: list[int], answer: list[int]) -> float:
    """Log-likelihood of an answer behind a prompt, by one plain forward over both."""
    ids = torch.tensor([prompt + answer])
    steps = model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
    return sum(float(steps[len(prompt) + i - 1, token]) for i, token in enumerate(answer))


def values(scores: list[list[LabelScores]]) -> list[tuple[int, list[float]]]:
    return [(s.target, s.log_likelihoods.tolist()) for tree in scores for s in tree]


def assert_close(found: list[list[LabelScores]], expected: list[list[LabelScores]]) -> None:
    assert [len(tree) for tree in found] == [len(tree) for tree in expected]
    for (target, ours), (wanted, theirs) in zip(values(found), values(expected), strict=True):
        assert target == wanted
        assert np.abs(np.array(ours) - theirs).max() <= TOLERANCE


@pytest.mark.parametrize("labels", [EMORYNLP, PREFIXES, ODD], ids=["seven", "prefixes", "odd"])
@pytest.mark.parametrize("context", ["past", "full"])
def test_scores_equal_brute_force_over_label_strings(
    tiny: TinyModel, model: Any, labels: LabelSet, context: Any
) -> None:
    prompter = Prompter(tiny.tokenizer, load_prompt("instruct"), labels, PromptOptions(context=context))
    plain, checked = tiny.model, 0
    for dialogue, scores in zip(SCENES, score_trees(model, trees_of(tiny, labels, context=context)), strict=True):
        (open_tree,) = prompter.trees(dialogue, "none")
        for question, found in zip(open_tree.questions, scores, strict=True):
            prompt = open_tree.token_ids[open_tree.root_path(question.last)].tolist()
            expected = [brute_force(plain, prompt, list(answer)) for answer in prompter.answer_ids]
            assert found.target == question.target
            assert np.abs(found.log_likelihoods - expected).max() <= TOLERANCE
            assert np.abs(found.probabilities - np.exp(expected) / np.exp(expected).sum()).max() <= TOLERANCE
            checked += 1
    assert checked == 1 + 7 + 4


def test_a_label_that_begins_another_keeps_its_own_end(tiny: TinyModel, model: Any) -> None:
    # "Sad" must be scored with its end tokens, not as the beginning of "Sadness".
    prompter = Prompter(tiny.tokenizer, load_prompt("instruct"), PREFIXES)
    sadness, sad, *_ = prompter.answer_ids
    assert sad[:-1] != sadness[: len(sad)]
    assert sad[-1] == sadness[-1] == tiny.tokenizer.eos_token_id
    for tree in score_trees(model, trees_of(tiny, PREFIXES)):
        for scores in tree:
            assert len(set(scores.log_likelihoods.round(6))) == len(PREFIXES)


@pytest.mark.parametrize("budget", [16, 90, 200, 1000])
def test_any_budget_gives_the_same_in_the_same_order(tiny: TinyModel, model: Any, budget: int) -> None:
    trees = trees_of(tiny)
    progress: list[int] = []
    found = score_trees(model, trees, tokens_per_forest=budget, on_progress=progress.append)
    assert_close(found, score_trees(model, trees, tokens_per_forest=100_000))
    assert [[s.target for s in tree] for tree in found] == [[q.target for q in t.questions] for t in trees]
    assert progress == sorted(progress)
    assert progress[-1] == len(trees)


def test_a_small_budget_takes_the_cache_and_bounds_every_forward(
    tiny: TinyModel, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees, budget = trees_of(tiny), 96
    largest_question = max(q.stop - q.start for t in trees for q in t.questions)
    taken, sizes = [], []
    original, forward = scoring._score_on_cache, model.forward
    monkeypatch.setattr(scoring, "_score_on_cache", lambda *a: taken.append(1) or original(*a))
    monkeypatch.setattr(model, "forward", lambda *a, **k: sizes.append(k["input_ids"].shape[1]) or forward(*a, **k))
    score_trees(model, trees, tokens_per_forest=budget)
    assert len(taken) == sum(rows_of(t) > budget for t in trees) > 0
    assert max(sizes) <= max(budget, largest_question)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), budget=st.integers(3, 60))
def test_random_trees_score_the_same_on_the_cache(model: Any, seed: int, budget: int) -> None:
    trees = [random_tree(seed), random_tree(seed + 1)]
    assert_close(score_trees(model, trees, tokens_per_forest=budget), score_trees(model, trees))


@pytest.mark.parametrize("behind", [0, 1, 5])
def test_questions_may_be_read_with_the_last_lines_of_the_trunk(model: Any, behind: int) -> None:
    from transformers import DynamicCache

    tree = random_tree(7, most_trunk=30)
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        if tree.trunk > behind:
            extend_trunk(model, cache, tree.token_ids[: tree.trunk - behind])
        found = score_questions(model, cache, tree, tree.questions)
    assert_close([found], score_trees(model, [tree]))
    assert cache.get_seq_length() == tree.trunk, "the cache must hold exactly the trunk afterwards"


def test_scores_are_in_label_order_whatever_the_order_of_the_answers(model: Any) -> None:
    builder = TreeBuilder()
    after = builder.add_trunk("line", [5, 6, 7])
    answers = {0: [10, 2], 1: [11, 12, 2], 2: [11, 2]}
    for order in ((0, 1, 2), (2, 0, 1)):
        builder.add_question(0, after, [("question", [8])], [(label, answers[label]) for label in order])
    ((first, second),) = score_trees(model, [builder.build()])
    assert np.abs(first.log_likelihoods - second.log_likelihoods).max() <= TOLERANCE
    expected = [brute_force(model, [5, 6, 7, 8], answers[label]) for label in range(3)]
    assert np.abs(first.log_likelihoods - expected).max() <= TOLERANCE


def test_probabilities_and_label_mass(tiny: TinyModel, model: Any) -> None:
    for tree in score_trees(model, [*trees_of(tiny), *trees_of(tiny, PREFIXES)]):
        for scores in tree:
            assert 0 < scores.label_mass <= 1
            assert (scores.log_likelihoods < 0).all()
            assert scores.probabilities.sum() == pytest.approx(1)
            ratio = np.exp(scores.log_likelihoods) / scores.label_mass
            assert scores.probabilities == pytest.approx(ratio)


def test_a_certain_model_gives_a_label_mass_of_one() -> None:
    scores = LabelScores(0, np.array([-1e-9, -40.0, -1000.0]))
    assert scores.label_mass == pytest.approx(1)
    assert scores.probabilities.tolist() == pytest.approx([1, 0, 0])
    hopeless = LabelScores(0, np.array([-2000.0, -2001.0]))
    assert hopeless.probabilities.sum() == pytest.approx(1), "normalised before exponentiating"


def test_training_mode_is_restored_and_switched_off_meanwhile(model: Any) -> None:
    class Watch:
        seen: list[bool] = []  # noqa: RUF012

    hook = model.register_forward_pre_hook(lambda module, _: Watch.seen.append(module.training))
    try:
        model.train()
        score_trees(model, [random_tree(0)])
        assert model.training
        assert Watch.seen == [False]
    finally:
        hook.remove()
        model.eval()


def test_another_attention_is_refused(tiny: TinyModel) -> None:
    with pytest.raises(ModelError, match="sdpa"):
        score_trees(tiny.model, [random_tree(0)])


@given(rows=st.lists(st.integers(1, 50), max_size=30), budget=st.integers(1, 100))
def test_batches_hold_every_tree_once_and_keep_to_the_budget(rows: list[int], budget: int) -> None:
    groups = list(batch_by_rows(rows, budget))
    assert sorted(i for group in groups for i in group) == list(range(len(rows)))
    assert all(sum(rows[i] for i in group) <= budget or len(group) == 1 for group in groups)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_some_branches_of_a_tree_keep_their_root_paths(seed: int, data: Any) -> None:
    tree = random_tree(seed)
    kept = data.draw(st.lists(st.sampled_from(tree.questions), min_size=1, unique_by=lambda q: q.target))
    part = branches_only(tree, kept)
    assert part.trunk == tree.trunk
    assert len(part) == tree.trunk + sum(q.stop - q.start for q in kept)
    for before, after in zip(kept, part.questions, strict=True):
        assert (after.target, after.labels, after.weight) == (before.target, before.labels, before.weight)
        for old, new in zip(before.answers, after.answers, strict=True):
            assert tree.token_ids[tree.root_path(old[-1])].tolist() == part.token_ids[part.root_path(new[-1])].tolist()


# A model nobody has tried yet.


@pytest.fixture
def broken(model: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Returns a function that replaces the registered attention."""
    yield lambda function: AttentionInterface.register(ATTENTION, function)
    AttentionInterface.register(ATTENTION, forest_attention)


def test_a_working_model_passes(tiny: TinyModel, model: Any) -> None:
    for tree in trees_of(tiny):
        verify_tree_attention(model, tree, TOLERANCE)


def test_a_model_that_ignores_the_tree_is_refused(tiny: TinyModel, model: Any, broken: Any) -> None:
    def plain_causal(*args: Any, forest: Any = None, **kwargs: Any) -> Any:
        return forest_attention(*args[:4], None, **kwargs)

    broken(plain_causal)
    with pytest.raises(ModelError, match=r"LlamaForCausalLM.*differ by .* nats.*not supported"):
        verify_tree_attention(model, trees_of(tiny)[1], TOLERANCE)


def test_a_model_whose_branches_miss_their_trunk_is_refused(tiny: TinyModel, model: Any, broken: Any) -> None:
    def without_trunk(*args: Any, forest: Any = None, **kwargs: Any) -> Any:
        if forest is not None:
            forest = replace(forest)  # one with masks of its own
            for tree, mask in zip(forest.layouts, forest.masks.branches, strict=True):
                mask[..., : tree.trunk] = False
        return forest_attention(*args, forest=forest, **kwargs)

    broken(without_trunk)
    with pytest.raises(ModelError, match="not supported"):
        verify_tree_attention(model, trees_of(tiny)[1], TOLERANCE)


def test_a_model_that_answers_nothing_at_all_is_refused(tiny: TinyModel, model: Any, broken: Any) -> None:
    def nothing(*args: Any, forest: Any = None, **kwargs: Any) -> Any:
        output, weights = forest_attention(*args, forest=forest, **kwargs)
        return (output if forest is None else output * float("nan")), weights

    broken(nothing)
    with pytest.raises(ModelError, match="not supported"):
        verify_tree_attention(model, trees_of(tiny)[1], TOLERANCE)


def test_a_sliding_window_is_refused() -> None:
    with pytest.raises(ModelError, match="sliding_window"):
        score_trees(tiny_mistral(window=4), [random_tree(0)])


def test_a_sliding_window_is_refused_on_the_cache_too() -> None:
    with pytest.raises(ModelError, match="sliding_window"):
        score_trees(tiny_mistral(window=4), [random_tree(1)], tokens_per_forest=8)


def test_a_question_without_words_scores_the_same_on_the_cache(model: Any) -> None:
    # What a prompt of one's own with an empty question block gives on a base model.
    builder = TreeBuilder()
    last = builder.add_trunk("line", [5, 6, 7, 8])
    for target in range(3):
        builder.add_question(target, last - target, [], [(0, [9, 2]), (1, [10, 11, 2])])
    tree = builder.build()
    assert_close(score_trees(model, [tree], tokens_per_forest=4), score_trees(model, [tree]))
