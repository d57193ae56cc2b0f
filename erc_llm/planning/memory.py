"""Memory of training and scoring on a GPU, component by component.

What is counted is what the libraries keep, read from their sources: transformers 5 (decoder layers, checkpointing),
PEFT (LoRA layers), bitsandbytes (NF4), torch (AdamW, attention kernels). A test counts the tensors of a real forward
and backward pass on shapes without data, and compares.

Input: an architecture, an adapter, and a `Load` (the tokens of one pass). Output: a `Peak` with its components.
Does not depend on: configurations, corpora, cards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from erc_llm.planning.architecture import AdapterShape, Architecture
from erc_llm.planning.quantised import quantised_bytes

# The driver's context with the kernels that are loaded. fitcheck-llm measured 141 MiB on a T4; newer cards load more.
CUDA_CONTEXT = 512 * 2**20
# What torch's allocator reserves beyond what tensors need, as a part of the activations, with `expandable_segments`.
# An estimate: without that setting, fitcheck-llm measured 0.05 to 0.5 on a T4.
ALLOCATOR_SLACK = 0.10
# Logits that a GPU casts to fp32 at once while the loss is computed; a CPU casts a few rows. 256 MiB in fp32.
LOGITS_CAST = 2**26
_FP32 = 4


@dataclass(frozen=True, slots=True)
class Stack:
    """How a training stack stores what it computes with; the defaults are this package's.

    Attributes:
        quantised: Whether the linear layers are NF4.
        double: Whether the scales of NF4 are quantised too.
        compute: Bytes of an element that matrices are multiplied in: 2 (bf16, fp16) or 4.
        kept: Bytes of an element of embeddings, head, norms, and of the residual stream.
        activation: Bytes of an element of activations inside a layer.
        logit: Bytes kept for each logit while the loss is computed, gradients included.
        cast: Most logits of which there is an fp32 copy at once in addition.
        slack: What the allocator reserves beyond the tensors, as a part of the activations.
    """

    quantised: bool
    double: bool
    compute: int
    kept: int
    activation: int
    logit: int
    cast: int = 0
    slack: float = ALLOCATOR_SLACK

    def cast_bytes(self, logits: int) -> int:
        """Bytes of one fp32 copy of the logits that are worked on together, of this many."""
        return _FP32 * min(logits, self.cast)


def our_stack(*, quantised: bool, compute: int, cast: int = LOGITS_CAST) -> Stack:
    """This package: one precision throughout, but in training logits and their gradient are fp32.

    Under mixed precision accelerate's `prepare_model` converts a model's outputs to fp32. Source of the copy of a part
    of them: `erc_llm.trees.likelihoods`.
    """
    return Stack(quantised, True, compute, compute, compute, 2 * _FP32, cast)


@dataclass(frozen=True, slots=True)
class Load:
    """What one pass through the model reads.

    Attributes:
        tokens: Rows of all trees, or of a padded batch.
        logit_rows: Rows whose logits are computed.
        mask: Entries of all masks of branches (branch rows times rows of the tree); 0 for plain prompts.
    """

    tokens: int
    logit_rows: int
    mask: int = 0

    def scaled(self, tokens: int) -> Load:
        """A pass of this many tokens with the same density of logits and masks."""
        part = tokens / max(self.tokens, 1)
        return Load(tokens, math.ceil(self.logit_rows * part), math.ceil(self.mask * part))

    def read(self, times: int) -> Load:
        """The same rows read this many times before the backward pass; the masks are shared."""
        return Load(times * self.tokens, times * self.logit_rows, self.mask)


@dataclass(frozen=True, slots=True)
class Peak:
    """Memory at the moment of its peak.

    Attributes:
        components: Name to bytes, in the order of display.
        activations: Bytes of those that a pass makes and drops, not the model, the adapter or the optimizer.
        when: What is computed at that moment.
    """

    components: Mapping[str, int]
    activations: int
    when: str

    @property
    def total(self) -> int:
        """Bytes of all components."""
        return sum(self.components.values())

    @property
    def tensors(self) -> int:
        """Bytes of tensors alone: what `torch.cuda.max_memory_allocated` reports."""
        return self.total - self.components["CUDA context"] - self.components["allocator"]


def weight_components(architecture: Architecture, stack: Stack) -> dict[str, int]:
    """Bytes of the base model, by part."""
    small = architecture.small_weights * stack.kept
    parts: dict[str, int] = {}
    if stack.quantised:
        packed, scales = quantised_bytes(architecture, double=stack.double)
        parts |= {"weights (NF4)": packed, "scales of NF4": scales}
    else:
        parts["weights"] = architecture.linear_weights * stack.compute
    parts["embeddings and head"] = (architecture.embedding_weights + architecture.head_weights) * stack.kept
    return parts | {"norms and biases": small}


def adapter_components(parameters: int, averaged: bool = False) -> dict[str, int]:
    """Bytes of a LoRA adapter in training: fp32, with gradients and both states of AdamW.

    Source: `erc_llm.tuning.trainer`, which trains the adapter in fp32 with transformers' default optimizer, torch's
    fused AdamW. `averaged` adds the mean of the last steps' weights.
    """
    parts = {
        "LoRA weights": parameters * _FP32,
        "gradients": parameters * _FP32,
        "optimizer states": parameters * 2 * _FP32,
    }
    return parts | ({"mean of LoRA weights": parameters * _FP32} if averaged else {})


def layer_bytes(
    architecture: Architecture, adapter: AdapterShape, stack: Stack, load: Load, dropout: bool = False
) -> int:
    """Bytes that one decoder layer saves for its backward pass.

    - A norm saves its input in fp32: a copy where the residual stream has 16 bits.
    - A LoRA layer saves its input, shared by the projections that read the same one, and the output of A. With dropout
      it saves a dropped copy and a mask of its own. The frozen weights need no input.
    - Attention saves queries, keys, values and output, and one fp32 per head and row; query heads that share keys and
      values read them in place. Source: `erc_llm.trees.attention`.
    - The gated MLP saves the gate, its activation, the other factor, and the product if the adapter reads it.
    """
    size, hidden = stack.activation, architecture.hidden
    query, kv, inner = architecture.query_width, architecture.kv_width, architecture.inner
    targets = {linear.name.rpartition(".")[2]: linear for linear in adapter.linears_of_a_layer}
    norms = 2 * _FP32 * hidden + (_FP32 * (query + kv) if architecture.head_norm else 0)
    attention = size * 2 * (query + kv) + _FP32 * architecture.heads
    mlp = size * 3 * inner
    inputs = 0
    for group in (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",)):
        read = [targets[name].inputs for name in group if name in targets]
        inputs += sum(read) * (size + 1) if dropout else max(read, default=0) * size
    return (norms + attention + mlp + inputs + size * adapter.rank * len(targets)) * load.tokens


def working_bytes(architecture: Architecture, stack: Stack) -> int:
    """Bytes a token of what a layer's largest step works on besides what is saved: gradients inside the MLP."""
    return stack.activation * (2 * architecture.inner + architecture.hidden)


def dequantised_bytes(architecture: Architecture, stack: Stack) -> int:
    """Bytes of the largest weight matrix in the compute precision, which NF4 makes again and again.

    The backward pass always does, the forward pass above 1,536 rows. Source: bitsandbytes 0.50, `MatMul4Bit` and
    backends/cuda/ops.py.
    """
    return max(linear.weights for linear in architecture.linears) * stack.compute if stack.quantised else 0


def mask_bytes(stack: Stack, load: Load) -> int:
    """Bytes of the masks of a forest: one for each entry, and the same as numbers; all layers share them.

    A GPU with the kernel for whole forests keeps a few numbers a block instead, and has about 3 bytes a pair of rows
    for a moment before the first layer, where little else is alive yet. Source: `erc_llm.trees.masks`.
    """
    return load.mask * (1 + stack.compute)


def training_peak(
    architecture: Architecture,
    adapter: AdapterShape,
    stack: Stack,
    load: Load,
    *,
    checkpointing: bool,
    dropout: bool = False,
    averaged: bool = False,
) -> Peak:
    """The peak of one optimizer step.

    It is either while the loss is computed, or while the last decoder layer is (computed again and) differentiated.

    Args:
        architecture: The base model's.
        adapter: The adapter's.
        stack: How values are stored.
        load: What one forward and backward pass reads.
        checkpointing: Whether only the input of each layer is kept and the layer is computed again.
        dropout: Whether the adapter drops inputs.
        averaged: Whether its weights are averaged over the last steps.
    """
    layer = layer_bytes(architecture, adapter, stack, load, dropout)
    inputs = architecture.layers * architecture.hidden * stack.kept * load.tokens
    # Autocast's copies of the adapter live as long as the layers that saved them.
    copies = adapter.parameters * stack.compute if stack.activation < _FP32 else 0
    kept = inputs if checkpointing else architecture.layers * layer + copies
    head = 2 * _FP32 * architecture.hidden * load.tokens  # the last norm, which reads all rows, and its output
    logits = load.logit_rows * architecture.vocabulary
    in_loss = logits * stack.logit + stack.cast_bytes(logits) + head
    working = working_bytes(architecture, stack) * load.tokens + dequantised_bytes(architecture, stack)
    in_layer = (layer if checkpointing else 0) + working
    name = "inputs of layers (checkpoints)" if checkpointing else "activations of all layers"
    held = weight_components(architecture, stack) | adapter_components(adapter.parameters, averaged)
    activations = {name: kept, "masks of trees": mask_bytes(stack, load)}
    if in_loss > in_layer:
        return _peak(held, activations | {"logits of answer rows": in_loss}, stack, "the loss")
    name = "one layer, computed again" if checkpointing else "one layer's gradients"
    return _peak(held, activations | {name: in_layer}, stack, "the last layer's backward pass")


def scoring_peak(
    architecture: Architecture,
    adapter: AdapterShape,
    stack: Stack,
    load: Load,
    *,
    training: bool,
    averaged: bool = False,
) -> Peak:
    """The peak of scoring one forest.

    Args:
        architecture: The base model's.
        adapter: The adapter's; in the compute precision where it is loaded from a file.
        stack: How values are stored.
        load: What one forward pass reads.
        training: Whether the optimizer is there as well, as when the selection split is scored.
        averaged: Whether training averages the adapter's weights over the last steps.
    """
    held = weight_components(architecture, stack)
    if training:
        held |= adapter_components(adapter.parameters, averaged)
    else:
        held["LoRA weights"] = adapter.parameters * stack.compute
    masks = {"masks of trees": mask_bytes(stack, load)}
    residual = architecture.hidden * stack.kept * load.tokens
    # In the MLP: the activated gate, the other factor, and the adapter's share of it before and after scaling.
    inner = 4 * architecture.inner * stack.activation * load.tokens
    in_layer = inner + 4 * residual + dequantised_bytes(architecture, stack)
    logits = load.logit_rows * architecture.vocabulary
    # As in training, outputs are fp32 there; otherwise a part of them is cast, and its log-sum computed.
    size, copies = (_FP32, 1) if training else (stack.compute, 2)
    at_logits = logits * size + copies * stack.cast_bytes(logits) + 2 * residual
    if at_logits > in_layer:
        return _peak(held, masks | {"logits of answer rows": at_logits}, stack, "the logits")
    return _peak(held, masks | {"one layer": in_layer}, stack, "a layer")


def _peak(held: Mapping[str, int], activations: Mapping[str, int], stack: Stack, when: str) -> Peak:
    """The peak of what is held all the time and of the activations, with what no tensor holds."""
    made = sum(activations.values())
    outside = {"allocator": round(made * stack.slack), "CUDA context": CUDA_CONTEXT}
    return Peak({**held, **activations, **outside}, made, when)
