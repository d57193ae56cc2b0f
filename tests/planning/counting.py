"""Counts the bytes of every tensor of a real forward and backward pass, at the shape of a large model, without data.

The model has parameters that are fake: they have shapes and no memory. Everything else is what training runs:
transformers' layers, PEFT's adapter, checkpointing, autocast, attention over forests, the log-likelihoods. Attention is
the kernel that a GPU takes for trees, and NF4 layers are bitsandbytes' own.

Input: a shape, an adapter, a forest's size. Output: peak bytes beyond what was there before.
Does not depend on: the plan that it is compared with.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Linear4bit
from peft.helpers import disable_input_dtype_casting
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from transformers import AutoConfig, AutoModelForCausalLM

from erc_llm.models.adapters import attach_lora
from erc_llm.trees import attention
from erc_llm.trees.forest import Forest, TreeLayout
from erc_llm.trees.likelihoods import answer_log_likelihoods


@dataclass(frozen=True)
class Size:
    """A forest of equal trees."""

    trees: int = 4
    trunk: int = 400
    branches: int = 212
    logit_rows: int = 200

    @property
    def rows(self) -> int:
        return self.trees * (self.trunk + self.branches)


class Tracker(TorchDispatchMode):
    """Follows how many bytes of storage are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def add(self, tensor: torch.Tensor) -> None:
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
    """Attention by the kernel that a GPU takes where there is a mask; shapes as in `_fused_attention`."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    bias = None
    if mask is not None:
        bias = torch.zeros(mask.shape, dtype=query.dtype).masked_fill(mask.logical_not(), -torch.inf)
        bias = bias.expand(1, query.shape[1], -1, -1)
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    result: torch.Tensor = kernel(query, key, value, bias, True, dropout, mask is None, scale=scaling)[0]
    return result


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


def _fake_forest(size: Size) -> Forest:
    rows, trunk = size.trunk + size.branches, size.trunk
    layouts = tuple(
        TreeLayout(k * rows, k * rows + trunk - k * rows, (k + 1) * rows, torch.ones(1, 1, size.branches, rows).bool())
        for k in range(size.trees)
    )
    row, edges = torch.zeros(1, size.rows, dtype=torch.int64), torch.zeros(size.logit_rows, dtype=torch.int64)
    weights = torch.ones(size.logit_rows)
    return Forest(row, row, layouts, edges, edges, edges, edges, edges, size.logit_rows, weights, edges, edges)


def count_training(
    config: Mapping[str, Any],
    size: Size,
    monkeypatch: pytest.MonkeyPatch,
    *,
    rank: int = 16,
    dropout: float = 0.0,
    checkpointing: bool = True,
    dtype: torch.dtype = torch.bfloat16,
    quantised: bool = False,
) -> int:
    """Peak bytes of a forward and backward pass beyond the parameters and their gradients."""
    monkeypatch.setattr(attention, "_fused_attention", _kernel)
    monkeypatch.setattr(attention, "_fused_is_slow", lambda query: False)
    mode, tracker = FakeTensorMode(allow_non_fake_inputs=True), Tracker()
    model = _fake_model(config, mode, dtype, rank, dropout, quantised)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    with mode:
        forest = _fake_forest(size)
        for parameter in model.parameters():
            tracker.add(parameter)
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
                tracker.add(parameter.grad)
    before = tracker.live
    with mode, tracker, disable_input_dtype_casting(model, active=True):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = answer_log_likelihoods(attention.forest_logits(model, forest), forest).sum()
        loss.backward()
    masks = sum(layout.mask.numel() for layout in forest.layouts if layout.mask is not None)
    return tracker.peak - before + masks
