"""QLoRA on real NF4 weights: packed equals plain, in logits and in gradients, before and after an evaluation.

In fp32 arithmetic, where the order of additions is all that differs, and in bf16, as QLoRA is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from erc_llm.corpus.labels import EMORYNLP
from erc_llm.decoding.scoring import score_trees
from erc_llm.models.adapters import attach_lora, load_adapter, save_adapter
from erc_llm.models.autocast import autocast
from erc_llm.models.devices import Precision
from erc_llm.models.loading import load_base_model
from erc_llm.prompting.prompter import Prompter
from erc_llm.prompting.templates import load_prompt
from erc_llm.trees.attention import ATTENTION, forest_logits
from erc_llm.trees.forest import pack
from erc_llm.trees.likelihoods import answer_log_likelihoods
from erc_llm.trees.tree import TokenTree
from erc_llm.tuning.order import order_steps
from erc_llm.tuning.trainer import FitSettings, fit
from tests.tiny_models import TinyModel, disturb
from tests.tiny_runs import dialogue

bnb = pytest.importorskip("bitsandbytes")

# fp32 arithmetic on the dequantised weights; packed and plain differ in the order of additions only.
# In bf16 (8 bits of precision) 0.05 and 0.03 were seen; a question that reads a wrong line is off by more than 1.
LOGIT_TOLERANCE = {"fp32": 1e-4, "bf16": 0.2}  # absolute; the logits here reach about ten
GRADIENT_TOLERANCE = {"fp32": 1e-4, "bf16": 0.1}  # relative to the largest entry of each gradient

SCENES = [dialogue(number, 4) for number in range(3)]


def _quantised(tiny: TinyModel, precision: Precision, monkeypatch: pytest.MonkeyPatch) -> Any:
    """NF4 with double quantisation and a LoRA adapter that already does something.

    bitsandbytes is told that this CPU has AVX512-BF16, so that the guard against its repacking is needed everywhere.
    """
    monkeypatch.setattr(bnb.nn.modules, "has_avx512bf16", lambda: True)
    base = load_base_model(str(tiny.folder), precision=precision, quantisation="nf4", device="cpu", attention=ATTENTION)
    assert base.quantisation == "nf4"
    layers = [module for module in base.model.modules() if isinstance(module, bnb.nn.Linear4bit)]
    assert len(layers) == 14
    assert all(layer.weight.quant_state.quant_type == "nf4" and layer.weight.quant_state.nested for layer in layers)
    model = attach_lora(base.model, rank=4, alpha=8, dropout=0.0, seed=3)
    disturb(model, 0.05)
    return model


@pytest.fixture
def quantised(tiny_llama: TinyModel, monkeypatch: pytest.MonkeyPatch) -> Any:
    return _quantised(tiny_llama, "fp32", monkeypatch)


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
    with autocast(model):
        loss = -answer_log_likelihoods(forest_logits(model, forest), forest).mean()
    return _gradients(model, loss)


def _unpacked_gradients(model: Any, trees: Sequence[TokenTree]) -> dict[str, torch.Tensor]:
    model.train()
    losses = []
    for tree in trees:
        for question in tree.questions:
            with autocast(model):
                logits, ids = _plain_logits(model, tree, question.answers[0])
            losses.append(-logits.log_softmax(-1).gather(1, ids[:, None]).sum())
    return _gradients(model, torch.stack(losses).mean())


def _difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[k] - other[k]).abs().max() / other[k].abs().max()) for k in one)


def _evaluate(model: Any, prompter: Prompter) -> None:
    scores = score_trees(model, prompter.trees(SCENES[0], "all"))
    assert len(scores[0]) == len(SCENES[0].utterances)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_packed_logits_equal_plain_ones(
    tiny_llama: TinyModel, prompter: Prompter, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _quantised(tiny_llama, precision, monkeypatch)
    trees = [tree for scene in SCENES for tree in prompter.trees(scene, "all")]
    model.eval()
    forest = pack(trees)
    with torch.no_grad(), autocast(model):
        packed = forest_logits(model, forest).float()
        answers = [(tree, path) for tree in trees for q in tree.questions for path in q.answers]
        assert len(answers) == forest.answers == 3 * 4 * 7
        largest = 0.0
        for number, (tree, path) in enumerate(answers):
            rows = forest.edge_row[forest.pair_edge[forest.pair_answer == number]]
            plain, _ = _plain_logits(model, tree, path)
            largest = max(largest, float((packed[rows] - plain).abs().max()))
    assert largest <= LOGIT_TOLERANCE[precision]
    assert float(packed.abs().max()) > 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_of_packed_and_plain_rows_agree_before_and_after_an_evaluation(
    tiny_llama: TinyModel, prompter: Prompter, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantised = _quantised(tiny_llama, precision, monkeypatch)
    trees = _gold(prompter)
    weights = [layer.weight.data.clone() for layer in quantised.modules() if isinstance(layer, bnb.nn.Linear4bit)]
    packed, plain = _packed_gradients(quantised, trees), _unpacked_gradients(quantised, trees)
    assert _difference(packed, plain) <= GRADIENT_TOLERANCE[precision]
    _evaluate(quantised, prompter)
    packed_after, plain_after = _packed_gradients(quantised, trees), _unpacked_gradients(quantised, trees)
    assert _difference(packed_after, plain_after) <= GRADIENT_TOLERANCE[precision]
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
        fp16=False,
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


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_all_that_is_not_quantised_computes_in_the_dtype_that_was_asked_for(
    tiny_llama: TinyModel, prompter: Prompter, precision: Precision, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _quantised(tiny_llama, precision, monkeypatch)
    frozen = {p.dtype for name, p in model.named_parameters() if "lora_" not in name and p.dtype.is_floating_point}
    assert frozen == {dtype}
    assert {name.rpartition("lora_")[1] for name, p in model.named_parameters() if p.requires_grad} == {"lora_"}
    layers = [module for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)]
    assert {layer.compute_dtype for layer in layers} == {dtype}
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)
    seen: set[torch.dtype] = set()
    for layer in model.get_base_model().model.layers:
        layer.register_forward_pre_hook(lambda _, inputs: seen.add(inputs[0].dtype))
    _evaluate(model, prompter)
    assert seen == {dtype}, "the residual stream"


def test_a_saved_adapter_scores_as_it_did_in_training(
    tiny_llama: TinyModel, prompter: Prompter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = _quantised(tiny_llama, "bf16", monkeypatch)
    save_adapter(trained, tmp_path / "adapter")
    base = load_base_model(
        str(tiny_llama.folder), precision="bf16", quantisation="nf4", device="cpu", attention=ATTENTION
    )
    loaded = load_adapter(base.model, tmp_path / "adapter")
    assert {p.dtype for p in trained.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for name, p in loaded.named_parameters() if "lora_" in name} == {torch.bfloat16}
    trees = [tree for scene in SCENES for tree in prompter.trees(scene, "all")]
    selected, predicted = (
        [list(s.log_likelihoods) for tree in score_trees(model, trees) for s in tree] for model in (trained, loaded)
    )
    assert predicted == selected
