"""QLoRA on real NF4 weights: packed equals plain, in logits and in gradients, before and after an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from erc_llm.corpus.labels import EMORYNLP
from erc_llm.decoding.scoring import score_trees
from erc_llm.models.adapters import attach_lora
from erc_llm.models.loading import load_base_model
from erc_llm.prompting.prompter import Prompter
from erc_llm.prompting.templates import load_prompt
from erc_llm.trees.attention import ATTENTION, forest_logits
from erc_llm.trees.forest import pack
from erc_llm.trees.likelihoods import answer_log_likelihoods
from erc_llm.trees.tree import TokenTree
from erc_llm.tuning.order import order_steps
from erc_llm.tuning.trainer import FitSettings, fit
from tests.tiny_models import TinyModel
from tests.tiny_runs import dialogue

bnb = pytest.importorskip("bitsandbytes")

# fp32 arithmetic on the dequantised weights; packed and plain differ in the order of additions only.
LOGIT_TOLERANCE = 1e-4  # absolute; the logits here reach about ten
GRADIENT_TOLERANCE = 1e-4  # relative to the largest entry of each gradient

SCENES = [dialogue(number, 4) for number in range(3)]


@pytest.fixture
def quantised(tiny_llama: TinyModel, monkeypatch: pytest.MonkeyPatch) -> Any:
    """NF4 with double quantisation and a LoRA adapter that already does something.

    bitsandbytes is told that this CPU has AVX512-BF16, so that the guard against its repacking is needed everywhere.
    """
    monkeypatch.setattr(bnb.nn.modules, "has_avx512bf16", lambda: True)
    base = load_base_model(
        str(tiny_llama.folder), precision="fp32", quantisation="nf4", device="cpu", attention=ATTENTION
    )
    assert base.quantisation == "nf4"
    layers = [module for module in base.model.modules() if isinstance(module, bnb.nn.Linear4bit)]
    assert len(layers) == 14
    assert all(layer.weight.quant_state.quant_type == "nf4" and layer.weight.quant_state.nested for layer in layers)
    model = attach_lora(base.model, rank=4, alpha=8, dropout=0.0, seed=3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05, generator=generator)
    return model


@pytest.fixture
def prompter(tiny_llama: TinyModel) -> Prompter:
    return Prompter(tiny_llama.tokenizer, load_prompt("instruct"), EMORYNLP)


def _gold(prompter: Prompter) -> list[TokenTree]:
    return [tree for scene in SCENES for tree in prompter.trees(scene, "gold")]


def _plain_logits(model: Any, tree: TokenTree, answer: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that predict an answer's tokens, from a causal forward over its root path, and those tokens."""
    ids = torch.from_numpy(tree.token_ids[tree.root_path(answer[-1])])
    logits = model(input_ids=ids[None], use_cache=False).logits[0].float()
    return logits[-len(answer) - 1 : -1], ids[-len(answer) :]


def _gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    assert len(found) == 28
    assert all("lora_" in name for name in found)
    return found


def _packed_gradients(model: Any, trees: Sequence[TokenTree]) -> dict[str, torch.Tensor]:
    model.train()
    forest = pack(trees)
    return _gradients(model, -(answer_log_likelihoods(forest_logits(model, forest), forest)).mean())


def _unpacked_gradients(model: Any, trees: Sequence[TokenTree]) -> dict[str, torch.Tensor]:
    model.train()
    losses = []
    for tree in trees:
        for question in tree.questions:
            logits, ids = _plain_logits(model, tree, question.answers[0])
            losses.append(-logits.log_softmax(-1).gather(1, ids[:, None]).sum())
    return _gradients(model, torch.stack(losses).mean())


def _difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[k] - other[k]).abs().max() / other[k].abs().max()) for k in one)


def _evaluate(model: Any, prompter: Prompter) -> None:
    scores = score_trees(model, prompter.trees(SCENES[0], "all"))
    assert len(scores[0]) == len(SCENES[0].utterances)


def test_packed_logits_equal_plain_ones(quantised: Any, prompter: Prompter) -> None:
    trees = [tree for scene in SCENES for tree in prompter.trees(scene, "all")]
    quantised.eval()
    forest = pack(trees)
    with torch.no_grad():
        packed = forest_logits(quantised, forest)
        answers = [(tree, path) for tree in trees for q in tree.questions for path in q.answers]
        assert len(answers) == forest.answers == 3 * 4 * 7
        largest = 0.0
        for number, (tree, path) in enumerate(answers):
            rows = forest.edge_row[forest.pair_edge[forest.pair_answer == number]]
            plain, _ = _plain_logits(quantised, tree, path)
            largest = max(largest, float((packed[rows] - plain).abs().max()))
    assert largest <= LOGIT_TOLERANCE
    assert float(packed.abs().max()) > 1


def test_gradients_of_packed_and_plain_rows_agree_before_and_after_an_evaluation(
    quantised: Any, prompter: Prompter
) -> None:
    trees = _gold(prompter)
    weights = [layer.weight.data.clone() for layer in quantised.modules() if isinstance(layer, bnb.nn.Linear4bit)]
    packed, plain = _packed_gradients(quantised, trees), _unpacked_gradients(quantised, trees)
    assert _difference(packed, plain) <= GRADIENT_TOLERANCE
    _evaluate(quantised, prompter)
    packed_after, plain_after = _packed_gradients(quantised, trees), _unpacked_gradients(quantised, trees)
    assert _difference(packed_after, plain_after) <= GRADIENT_TOLERANCE
    assert all(torch.equal(packed_after[name], packed[name]) for name in packed), "an evaluation changed the gradients"
    after = [layer.weight.data for layer in quantised.modules() if isinstance(layer, bnb.nn.Linear4bit)]
    assert all(torch.equal(a, b) for a, b in zip(weights, after, strict=True)), "an evaluation repacked the weights"


def test_the_guard_is_what_keeps_an_evaluation_harmless(quantised: Any, prompter: Prompter) -> None:
    """Without it, bitsandbytes repacks the weights in the first forward in eval mode: the trap is still there."""
    repacked = []
    layers = [module for module in quantised.modules() if isinstance(module, bnb.nn.Linear4bit)]
    convert = "_convert_weight_packed_for_cpu"
    if not hasattr(bnb.nn.modules, convert):
        pytest.skip("this bitsandbytes repacks in another way")
    original = getattr(bnb.nn.modules, convert)

    def spy(*args: Any, **kwargs: Any) -> Any:
        repacked.append(1)
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bnb.nn.modules, convert, spy)
        _evaluate(quantised, prompter)
        assert not repacked
        for layer in layers:
            layer.support_avx512bf16_for_cpu = True
        try:
            _evaluate(quantised, prompter)
        except Exception:
            assert repacked, "the forward failed before any repacking"  # the kernel needs a CPU that has it
    assert repacked


def _fit(model: Any, prompter: Prompter, tokenizer: Any, folder: Path) -> None:
    trees = [prompter.trees(scene, "gold") for scene in SCENES]
    numbers = FitSettings(
        learning_rate=1e-3,
        lr_schedule="constant",
        warmup=0.0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        accumulation=1,
        gradient_checkpointing=True,
        bf16=False,
        use_cpu=True,
        seed=3,
        log_every=1,
        report_to=(),
        run_name="tiny",
    )
    schedule = order_steps([1] * 3, epochs=1, tokens_per_step=2, parts=1, seed=3)
    fit(model, tokenizer, schedule, lambda scene, _: trees[scene], numbers, folder, [])


def test_it_trains(quantised: Any, prompter: Prompter, tiny_llama: TinyModel, tmp_path: Path) -> None:
    before = {n: p.detach().clone() for n, p in quantised.named_parameters() if p.requires_grad}
    frozen = [layer.weight.data.clone() for layer in quantised.modules() if isinstance(layer, bnb.nn.Linear4bit)]
    _fit(quantised, prompter, tiny_llama.tokenizer, tmp_path)
    after = dict(quantised.named_parameters())
    assert any(float((after[name].detach().float() - before[name]).abs().max()) > 1e-4 for name in before)
    layers = [layer.weight.data for layer in quantised.modules() if isinstance(layer, bnb.nn.Linear4bit)]
    assert all(torch.equal(a, b) for a, b in zip(frozen, layers, strict=True))


def test_training_keeps_the_adapter_in_fp32(
    quantised: Any, prompter: Prompter, tiny_llama: TinyModel, tmp_path: Path
) -> None:
    _fit(quantised, prompter, tiny_llama.tokenizer, tmp_path)
    assert {p.dtype for p in quantised.parameters() if p.requires_grad} == {torch.float32}
