"""The plan against the bytes of every tensor of a real forward and backward pass, at full shape and without data.

The model's parameters are fake: they have shapes and no memory. Everything else is what training runs: transformers'
layers, PEFT's adapter, bitsandbytes' NF4 layers, checkpointing, autocast, attention over forests, log-likelihoods.
Attention is the kernel that a GPU takes for trees. What a GPU adds is not counted: its context, its allocator, fp32
copies of more logits at once.

Input: shapes that come with the package. Output: a Markdown table of counted and planned activations.
Does not depend on: weights, a GPU.

    python -m benchmarks.plan_counts
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Linear4bit
from peft.helpers import disable_input_dtype_casting
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from transformers import AutoConfig, AutoModelForCausalLM

from erc_llm.models.adapters import attach_lora
from erc_llm.planning.architecture import adapter_shape, parse_architecture
from erc_llm.planning.bases import shipped_shapes
from erc_llm.planning.memory import Load, our_stack, scoring_peak, training_peak
from erc_llm.trees import attention
from erc_llm.trees.forest import Forest, pack
from erc_llm.trees.likelihoods import answer_log_likelihoods
from erc_llm.trees.tree import TreeBuilder


@dataclass(frozen=True)
class Size:
    """A forest of equal trees.

    Attributes:
        trees: Number of trees.
        trunk: Rows of the trunk of each.
        branches: Rows of all branches of each.
        logit_rows: Rows whose logits are computed, over all trees.
    """

    trees: int = 4
    trunk: int = 400
    branches: int = 212
    logit_rows: int = 200

    @property
    def rows(self) -> int:
        """Rows of all trees."""
        return self.trees * (self.trunk + self.branches)

    @property
    def load(self) -> Load:
        """The same forest as the plan sees it."""
        mask = self.branches * (self.trunk + self.branches)
        return Load(self.rows, self.logit_rows, self.trees * mask)


class Tracker(TorchDispatchMode):
    """Follows how many bytes of storage are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: set[int] = set()

    def add(self, tensor: torch.Tensor) -> None:
        """Follow the storage of a tensor until it is freed."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for found in tree_flatten(out)[0]:
            if isinstance(found, torch.Tensor):
                self.add(found)
        return out


def _kernel(
    scaling: float | None, dropout: float, query: Any, key: Any, value: Any, mask: torch.Tensor | None
) -> torch.Tensor:
    """The kernel that a GPU takes where there is a mask; shapes and grouped heads as in `_gpu_attention`."""
    heads, key_heads, causal = query.shape[1], key.shape[1], mask is None
    grouped = query[0].unflatten(0, (key_heads, -1))
    key, value = (tensor[0, :, None].expand(-1, heads // key_heads, -1, -1) for tensor in (key, value))
    bias = None
    if mask is not None:
        bias = torch.zeros(mask.shape, dtype=query.dtype).masked_fill(mask.logical_not(), -torch.inf)
        bias = bias.expand(key_heads, heads // key_heads, -1, -1)
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    result: torch.Tensor = kernel(grouped, key, value, bias, True, dropout, causal, scale=scaling)[0]
    return result.flatten(0, 1)[None]


def _quantise(base: Any, dtype: torch.dtype) -> None:
    """Put layers of bitsandbytes in the place of all linear layers but the output layer."""
    for parent in list(base.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.Linear) and name != "lm_head":
                bias = child.bias is not None
                quantised = Linear4bit(
                    child.in_features, child.out_features, bias, dtype, True, "nf4", device=torch.device("meta")
                )
                setattr(parent, name, quantised)
    base.is_loaded_in_4bit = True


def _quantised_weight(layer: Linear4bit, fake: Callable[[torch.Tensor], FakeTensor]) -> torch.nn.Parameter:
    """The packed weight of a layer with the state that bitsandbytes keeps beside it."""
    count = layer.in_features * layer.out_features
    blocks = count // 64

    def empty(size: int, dtype: torch.dtype) -> FakeTensor:
        return fake(torch.empty(size, dtype=dtype, device="meta"))

    second = QuantState(
        absmax=empty(-(-blocks // 256), torch.float32),
        code=empty(256, torch.float32),
        blocksize=256,
        dtype=torch.float32,
    )
    state = QuantState(
        absmax=empty(blocks, torch.uint8),
        shape=torch.Size((layer.out_features, layer.in_features)),
        code=empty(16, torch.float32),
        blocksize=64,
        quant_type="nf4",
        dtype=layer.compute_dtype,
        offset=fake(torch.empty((), device="meta")),
        state2=second,
    )
    packed = torch.nn.Parameter(fake(torch.empty(count // 2, 1, dtype=torch.uint8, device="meta")), requires_grad=False)
    packed.quant_state = state  # type: ignore[attr-defined]
    return packed


def _fake_model(
    config: Mapping[str, Any], mode: FakeTensorMode, dtype: torch.dtype, rank: int, dropout: float, quantised: bool
) -> Any:
    shape = AutoConfig.for_model(**{name: value for name, value in config.items() if name != "dtype"})
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(shape, attn_implementation=attention.ATTENTION, dtype=dtype)
    if quantised:
        _quantise(base, dtype)
    model = attach_lora(base, rank=rank, alpha=2 * rank, dropout=dropout, seed=1)

    def fake(tensor: torch.Tensor) -> FakeTensor:
        return FakeTensor(mode, tensor, torch.device("cpu"))

    for module in model.modules():
        for name, parameter in module._parameters.items():
            if isinstance(module, Linear4bit) and name == "weight":
                module._parameters[name] = _quantised_weight(module, fake)
            elif parameter is not None:
                data = parameter.data.float() if parameter.requires_grad else parameter.data.to(dtype)
                module._parameters[name] = torch.nn.Parameter(fake(data), requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = fake(buffer.to("meta"))
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return model.train()


def _forest(size: Size) -> Forest:
    """A forest of this size; each of its trees has one question with an answer of two tokens, the last one unread."""
    builder = TreeBuilder()
    last = builder.add_trunk("line", [0] * size.trunk)
    builder.add_question(0, last, [("question", [0] * (size.branches - 1))], [(0, (1, 2))], 1.0, 0)
    packed = pack([builder.build()] * size.trees)
    edges = torch.zeros(size.logit_rows, dtype=torch.int64)
    names = ("logit_rows", "edge_row", "edge_token", "pair_edge", "pair_answer", "question", "gold")
    changed: dict[str, Any] = dict.fromkeys(names, edges)
    forest = replace(packed, **changed, weights=torch.ones(size.logit_rows), answers=size.logit_rows)
    assert forest.masks.branches  # built from real numbers, before anything is fake
    return forest


def count_training(
    config: Mapping[str, Any],
    size: Size,
    *,
    rank: int = 16,
    dropout: float = 0.0,
    checkpointing: bool = True,
    dtype: torch.dtype = torch.bfloat16,
    quantised: bool = False,
) -> int:
    """Peak bytes of a forward and backward pass beyond the parameters and their gradients."""
    mode, tracker = FakeTensorMode(allow_non_fake_inputs=True), Tracker()
    model = _fake_model(config, mode, dtype, rank, dropout, quantised)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    forest = _forest(size)
    with mode:
        for parameter in model.parameters():
            tracker.add(parameter)
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
                tracker.add(parameter.grad)
    before = tracker.live
    with _counted(mode, tracker, model):
        _likelihoods(model, forest, dtype).sum().backward()
    return tracker.peak - before + size.load.mask


def count_scoring(config: Mapping[str, Any], size: Size, *, rank: int = 16, quantised: bool = False) -> int:
    """Peak bytes of scoring a forest in bf16, beyond the parameters."""
    mode, tracker = FakeTensorMode(allow_non_fake_inputs=True), Tracker()
    model = _fake_model(config, mode, torch.bfloat16, rank, 0.0, quantised).eval()
    forest = _forest(size)
    with mode:
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16() if parameter.requires_grad else parameter.data
            tracker.add(parameter)
    before = tracker.live
    with _counted(mode, tracker, model), torch.no_grad():
        _likelihoods(model, forest, torch.bfloat16)
    return tracker.peak - before + size.load.mask


@contextmanager
def _counted(mode: FakeTensorMode, tracker: Tracker, model: Any) -> Iterator[None]:
    """Everything inside runs on fake tensors, with a GPU's kernel, and is counted."""
    with (
        patch.object(attention, "_fused_attention", _kernel),
        patch.object(attention, "_fused_is_slow", lambda query: False),
        mode,
        tracker,
        disable_input_dtype_casting(model, active=True),
    ):
        yield


def _likelihoods(model: Any, forest: Forest, dtype: torch.dtype) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits = attention.forest_logits(model, forest)
    if logits.requires_grad:  # as accelerate's `prepare_model` does under mixed precision
        logits = logits.float()
    return answer_log_likelihoods(logits, forest)


def planned_training(
    config: Mapping[str, Any],
    size: Size,
    *,
    rank: int = 16,
    dropout: float = 0.0,
    checkpointing: bool = True,
    dtype: torch.dtype = torch.bfloat16,
    quantised: bool = False,
) -> int:
    """The same bytes by the plan: all tensors but weights, adapter, gradients and optimizer states."""
    architecture = parse_architecture(config, "the shape")
    stack = our_stack(quantised=quantised, compute=dtype.itemsize, cast=0)
    adapter = adapter_shape(architecture, rank, "all-linear")
    options = {"checkpointing": checkpointing, "dropout": dropout > 0}
    return training_peak(architecture, adapter, stack, size.load, **options).activations


def planned_scoring(config: Mapping[str, Any], size: Size, *, rank: int = 16, quantised: bool = False) -> int:
    """The same bytes of scoring by the plan."""
    architecture = parse_architecture(config, "the shape")
    adapter = adapter_shape(architecture, rank, "all-linear")
    stack = our_stack(quantised=quantised, compute=2, cast=0)
    return scoring_peak(architecture, adapter, stack, size.load, training=False).activations


def main() -> None:
    """Print the comparison at full depth; it takes some minutes."""
    warnings.simplefilter("ignore")
    print("| base model | how | tokens | counted GB | planned GB | deviation |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, how, size, options in _CASES:
        config = shipped_shapes()[name]
        counted, planned = count_training(config, size, **options), planned_training(config, size, **options)
        deviation = f"{planned / counted - 1:+.1%}"
        cells = (name.rpartition("/")[2], how, f"{size.rows:,}", f"{counted / 1e9:.3f}", f"{planned / 1e9:.3f}")
        print(f"| {' | '.join(cells)} | {deviation} |", flush=True)


_LLAMA2 = "meta-llama/Llama-2-7b-hf"
_CASES: tuple[tuple[str, str, Size, dict[str, Any]], ...] = (
    (_LLAMA2, "QLoRA, checkpointing", Size(), {"quantised": True}),
    (_LLAMA2, "QLoRA, checkpointing", Size(trees=7, logit_rows=400), {"quantised": True}),
    (_LLAMA2, "QLoRA", Size(), {"quantised": True, "checkpointing": False}),
    (_LLAMA2, "LoRA bf16, checkpointing", Size(), {}),
    (_LLAMA2, "LoRA bf16", Size(), {"checkpointing": False}),
    ("meta-llama/Llama-3.1-8B", "QLoRA, checkpointing", Size(), {"quantised": True}),
    ("Qwen/Qwen3-8B", "QLoRA, checkpointing", Size(), {"quantised": True}),
    ("Qwen/Qwen2.5-7B", "LoRA bf16, checkpointing", Size(), {}),
)

if __name__ == "__main__":
    main()
