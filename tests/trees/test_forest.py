"""A packed forest gives what a plain causal forward gives over every root path, in value and in gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erc_llm.errors import InternalError, ModelError
from erc_llm.models.adapters import attach_lora
from erc_llm.trees import attention as attention_module
from erc_llm.trees.attention import ATTENTION, forest_logits, require_tree_attention
from erc_llm.trees.forest import Forest, pack, read_nodes, rows_of
from erc_llm.trees.likelihoods import answer_log_likelihoods
from erc_llm.trees.tree import TokenTree
from tests.tiny_models import TinyModel, chatml_tokenizer, disturb, random_llama
from tests.trees.random_trees import VOCABULARY, random_tree

TOLERANCE = 1e-4


def with_attention(tiny: TinyModel, attention: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny.folder, attn_implementation=attention).eval()


@pytest.fixture(scope="module")
def packed_model(tiny_llama: TinyModel) -> Any:
    return with_attention(tiny_llama, ATTENTION)


@pytest.fixture(scope="module")
def plain_model(tiny_llama: TinyModel) -> Any:
    return with_attention(tiny_llama, "sdpa")


@torch.no_grad()
def all_logits(model: Any, forest: Forest) -> torch.Tensor:
    """(rows, vocabulary): the packed forward's logits at every row."""
    return forest_logits(model, replace(forest, logit_rows=torch.arange(forest.rows)))


@torch.no_grad()
def path_logits(model: Any, tree: TokenTree, node: int) -> torch.Tensor:
    """(path, vocabulary): the plain causal forward's logits over a node's root path."""
    ids = torch.from_numpy(tree.token_ids[tree.root_path(node)])[None]
    logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0]
    return logits


def leaves(tree: TokenTree) -> list[int]:
    return sorted(set(range(len(tree))) - set(tree.parent.tolist()))


def largest_difference(packed: Any, plain: Any, tree: TokenTree, logits: torch.Tensor) -> float:
    """Over all nodes that are read: each lies on the path of some leaf, and a plain forward never looks ahead."""
    row = {int(node): i for i, node in enumerate(read_nodes(tree))}
    seen, worst = set(), 0.0
    for leaf in leaves(tree):
        expected = path_logits(plain, tree, leaf)
        for place, node in enumerate(tree.root_path(leaf).tolist()):
            if node in row:
                seen.add(node)
                worst = max(worst, float((logits[row[node]] - expected[place]).abs().max()))
    assert seen == set(row)
    return worst


# Path equality.


@pytest.mark.parametrize("seed", range(6))
def test_logits_of_every_node_equal_those_of_its_root_path(packed_model: Any, plain_model: Any, seed: int) -> None:
    tree = random_tree(seed)
    difference = largest_difference(packed_model, plain_model, tree, all_logits(packed_model, pack([tree])))
    assert difference <= TOLERANCE


def test_logits_of_every_node_equal_in_a_forest_of_several_trees(packed_model: Any, plain_model: Any) -> None:
    trees = [random_tree(seed) for seed in (11, 12, 13)]
    logits = all_logits(packed_model, pack(trees)).split([rows_of(t) for t in trees])
    for tree, part in zip(trees, logits, strict=True):
        assert largest_difference(packed_model, plain_model, tree, part) <= TOLERANCE


def test_the_equality_test_would_notice_a_wrong_context(plain_model: Any) -> None:
    # Else a tolerance of 1e-4 could hide a mask that lets one token too many through.
    tree = random_tree(0)
    leaf = leaves(tree)[0]
    changed = replace(tree, token_ids=np.where(np.arange(len(tree)) == 0, 3, tree.token_ids))
    difference = path_logits(plain_model, tree, leaf)[-1] - path_logits(plain_model, changed, leaf)[-1]
    assert float(difference.abs().max()) > 100 * TOLERANCE


@pytest.mark.parametrize("seed", range(4))
def test_attention_per_tree_equals_the_dense_mask_reference(packed_model: Any, plain_model: Any, seed: int) -> None:
    tree = random_tree(seed)
    with torch.no_grad():
        dense = plain_model(
            input_ids=torch.from_numpy(tree.token_ids)[None],
            position_ids=torch.from_numpy(tree.depth)[None],
            attention_mask=torch.from_numpy(tree.ancestors)[None, None],
            use_cache=False,
        ).logits[0]
    packed = all_logits(packed_model, pack([tree]))
    assert float((packed - dense[torch.from_numpy(read_nodes(tree))]).abs().max()) <= 1e-5


def test_answers_get_the_log_likelihood_of_their_root_path(packed_model: Any, plain_model: Any) -> None:
    trees = [random_tree(seed) for seed in (21, 22)]
    forest = pack(trees)
    with torch.no_grad():
        packed = answer_log_likelihoods(forest_logits(packed_model, forest), forest)
        expected = [plain_log_likelihood(plain_model, t, a) for t in trees for q in t.questions for a in q.answers]
    assert forest.answers == len(expected)
    assert torch.allclose(packed, torch.stack(expected), atol=TOLERANCE, rtol=0)


def plain_log_likelihood(model: Any, tree: TokenTree, answer: tuple[int, ...]) -> torch.Tensor:
    ids = torch.from_numpy(tree.token_ids[tree.root_path(answer[-1])])
    steps = model(input_ids=ids[None], use_cache=False).logits[0].log_softmax(-1)[:-1]
    return steps.gather(1, ids[1:, None])[-len(answer) :].sum()


def with_adapter(tiny: TinyModel, attention: str) -> Any:
    """An adapter whose B matrices are not zero: else A would get no gradient."""
    adapted = attach_lora(with_attention(tiny, attention), rank=4, alpha=8, dropout=0.0, seed=7)
    disturb(adapted, 0.1)
    return adapted.train()


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad}


def packed_loss(model: Any, forest: Forest) -> torch.Tensor:
    likelihoods = answer_log_likelihoods(forest_logits(model, forest), forest)
    return -(likelihoods * forest.weights).sum() / forest.weights.sum()


def test_loss_and_lora_gradients_equal_those_of_one_prompt_per_question(tiny_llama: TinyModel) -> None:
    trees = [random_tree(seed, labels=1) for seed in (31, 32, 33)]
    packed, plain = with_adapter(tiny_llama, ATTENTION), with_adapter(tiny_llama, "sdpa")
    loss = packed_loss(packed, pack(trees))
    loss.backward()
    questions = [(tree, question) for tree in trees for question in tree.questions]
    total = sum(question.weight for _, question in questions)
    expected = sum(-plain_log_likelihood(plain, t, q.answers[0]) * q.weight for t, q in questions) / total
    assert isinstance(expected, torch.Tensor)
    expected.backward()
    assert abs(loss.item() - expected.item()) <= TOLERANCE
    found, wanted = gradients(packed), gradients(plain)
    assert len(found) == 2 * 7 * 2
    assert found.keys() == wanted.keys()
    assert max(float((found[name] - wanted[name]).abs().max()) for name in found) <= TOLERANCE
    assert min(float(gradient.abs().max()) for gradient in wanted.values()) > TOLERANCE


def test_attention_by_its_formula_is_the_fused_one(tiny_llama: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training on a CPU in bf16 the formula is used; here in fp32, in blocks that cut the trunks."""
    forest = pack([random_tree(seed, labels=1) for seed in (31, 32, 33)])
    textbook, results = attention_module._textbook_attention, []
    monkeypatch.setattr(attention_module, "_BLOCK", 3)
    for slow in (False, True):
        model, used = with_adapter(tiny_llama, ATTENTION), []

        def counted(*arguments: Any, used: list[int] = used) -> torch.Tensor:
            used.append(1)
            return textbook(*arguments)

        monkeypatch.setattr(attention_module, "_textbook_attention", counted)
        monkeypatch.setattr(attention_module, "_fused_is_slow", lambda query, slow=slow: slow)
        loss = packed_loss(model, forest)
        loss.backward()
        results.append((loss.item(), gradients(model)))
        assert bool(used) == slow
    (fused_loss, fused), (loss, found) = results
    assert abs(loss - fused_loss) <= 1e-5
    assert max(float((found[name] - fused[name]).abs().max()) for name in fused) <= 1e-5


def test_bf16_gradients_on_a_cpu_are_near_those_of_fp32(tiny_llama: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    forest = pack([random_tree(seed, labels=1) for seed in (31, 32, 33)])
    model = with_adapter(tiny_llama, ATTENTION)
    packed_loss(model, forest).backward()
    exact = torch.cat([gradient.flatten() for gradient in gradients(model).values()])
    model.zero_grad()
    for name, weight in model.named_parameters():
        if "lora_" not in name:
            weight.data = weight.data.bfloat16()
    blocks = []
    textbook = attention_module._textbook_attention
    monkeypatch.setattr(attention_module, "_textbook_attention", lambda *a: blocks.append(a[1].dtype) or textbook(*a))
    with torch.autocast("cpu", torch.bfloat16):
        packed_loss(model, forest).backward()
    assert set(blocks) == {torch.bfloat16}
    rounded = torch.cat([gradient.flatten() for gradient in gradients(model).values()])
    assert float((rounded - exact).norm() / exact.norm()) <= 0.05


def test_gradient_checkpointing_changes_no_gradient(tiny_llama: TinyModel) -> None:
    forest = pack([random_tree(seed, labels=1) for seed in (41, 42)])
    results, passes = [], []
    for checkpointing in (False, True):
        model = with_adapter(tiny_llama, ATTENTION)
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": False})
        calls: list[int] = []
        for layer in model.base_model.model.model.layers:
            layer.mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        packed_loss(model, forest).backward()
        results.append(gradients(model))
        passes.append(len(calls))
    assert passes == [2, 4], "activations were not computed again: checkpointing was off"
    plain, recomputed = results
    assert all(torch.allclose(plain[name], recomputed[name], atol=1e-6, rtol=0) for name in plain)


# Isolation.


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_changing_one_branch_changes_nothing_outside_it(packed_model: Any, seed: int, data: st.DataObject) -> None:
    trees = [random_tree(seed), random_tree(seed + 1)]
    which = data.draw(st.integers(0, len(trees[0].questions) - 1))
    question = trees[0].questions[which]
    ids = trees[0].token_ids.copy()
    ids[question.start : question.stop] = (ids[question.start : question.stop] + 17) % VOCABULARY
    before = all_logits(packed_model, pack(trees))
    after = all_logits(packed_model, pack([replace(trees[0], token_ids=ids), trees[1]]))
    nodes = read_nodes(trees[0])
    inside = (nodes >= question.start) & (nodes < question.stop)
    inside = np.concatenate([inside, np.zeros(rows_of(trees[1]), dtype=bool)])
    assert torch.equal(before[~inside], after[~inside])
    assert not torch.equal(before[inside], after[inside])


def test_changing_the_trunk_of_one_tree_changes_no_other_tree(packed_model: Any) -> None:
    trees = [random_tree(seed) for seed in (51, 52, 53)]
    changed = replace(trees[1], token_ids=(trees[1].token_ids + 17) % VOCABULARY)
    sizes = [rows_of(t) for t in trees]
    before = all_logits(packed_model, pack(trees)).split(sizes)
    after = all_logits(packed_model, pack([trees[0], changed, trees[2]])).split(sizes)
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])
    assert torch.equal(before[2], after[2])


def test_a_trees_answers_do_not_depend_on_the_forest_it_is_in(packed_model: Any) -> None:
    trees = [random_tree(seed) for seed in (61, 62, 63)]
    together = all_logits(packed_model, pack(trees)).split([rows_of(t) for t in trees])
    for tree, part in zip(trees, together, strict=True):
        assert torch.allclose(all_logits(packed_model, pack([tree])), part, atol=1e-5, rtol=0)


# The layout of a forest.


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), labels=st.sampled_from([1, 3, 5]))
def test_a_forest_reads_all_but_the_last_token_of_each_answer(seed: int, labels: int) -> None:
    tree = random_tree(seed, labels)
    forest, nodes = pack([tree]), read_nodes(tree)
    assert set(range(len(tree))) - set(nodes.tolist()) == {a[-1] for q in tree.questions for a in q.answers}
    assert forest.rows == rows_of(tree) == len(nodes)
    assert forest.input_ids[0].tolist() == tree.token_ids[nodes].tolist()
    assert forest.position_ids[0].tolist() == tree.depth[nodes].tolist()
    [mask] = forest.masks.branches
    assert mask is not None
    assert (mask[0, 0].numpy() == tree.ancestors[np.ix_(nodes[tree.trunk :], nodes)]).all()


def test_only_rows_that_predict_an_answer_get_logits(packed_model: Any) -> None:
    tree = random_tree(5)
    forest = pack([tree])
    parents = {int(tree.parent[node]) for q in tree.questions for a in q.answers for node in a}
    with torch.no_grad():
        logits = forest_logits(packed_model, forest)
    assert logits.shape == (len(parents), packed_model.config.vocab_size)
    assert logits.dtype == torch.float32


def test_a_tree_without_branches_is_a_plain_prompt(packed_model: Any, plain_model: Any) -> None:
    tree = random_tree(6)
    bare = TokenTree(tree.token_ids[: tree.trunk], tree.parent[: tree.trunk], tree.trunk, ())
    assert pack([bare]).masks.branches == (None,)
    assert largest_difference(packed_model, plain_model, bare, all_logits(packed_model, pack([bare]))) <= TOLERANCE


# What a forest must never run on.


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_another_attention_is_refused(tiny_llama: TinyModel, attention: str) -> None:
    model = with_attention(tiny_llama, attention)
    with pytest.raises(ModelError, match=f"'{attention}'.*{ATTENTION}"):
        require_tree_attention(model)
    with pytest.raises(ModelError, match=attention):
        forest_logits(model, pack([random_tree(0)]))


def tiny_mistral(window: int | None) -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MistralConfig(vocab_size=VOCABULARY + 2, num_key_value_heads=2, sliding_window=window, **size)
    config._attn_implementation = ATTENTION
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MistralForCausalLM(config).eval()


def test_a_sliding_window_is_refused() -> None:
    with pytest.raises(ModelError, match="sliding_window"):
        forest_logits(tiny_mistral(window=4), pack([random_tree(0)]))


def test_the_same_architecture_without_a_window_runs() -> None:
    model = tiny_mistral(window=None)
    tree = random_tree(0)
    assert largest_difference(model, model, tree, all_logits(model, pack([tree]))) <= TOLERANCE


def test_a_forest_of_another_size_is_our_own_mistake(packed_model: Any) -> None:
    forest = pack([random_tree(0)])
    with pytest.raises(InternalError, match="rows"):
        packed_model(input_ids=forest.input_ids[:, 1:], attention_mask=torch.zeros(1, 1, 1, 1), forest=forest)


def test_without_a_forest_the_attention_is_plain_sdpa(packed_model: Any, plain_model: Any) -> None:
    ids = torch.randint(0, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    with torch.no_grad():
        ours, theirs = (m(input_ids=ids, attention_mask=mask).logits for m in (packed_model, plain_model))
        assert torch.equal(ours, theirs)
        ours, theirs = (
            m.generate(ids, attention_mask=mask, max_new_tokens=5, do_sample=False) for m in (packed_model, plain_model)
        )
    assert torch.equal(ours, theirs)


def test_more_layers_and_untied_heads_change_nothing() -> None:
    model = random_llama(chatml_tokenizer(), seed=5, hidden=32, layers=4, tied=False)
    model.set_attn_implementation(ATTENTION)
    tree = random_tree(8)
    assert largest_difference(model, model, tree, all_logits(model, pack([tree]))) <= TOLERANCE
