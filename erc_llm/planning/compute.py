"""Time and disk: floating-point operations of an epoch, and bytes to download and to keep.

Input: an architecture, an adapter, tokens and attended pairs. Output: FLOPs, seconds, bytes.
Does not depend on: memory, configurations, installed hardware.
"""

from __future__ import annotations

from dataclasses import dataclass

from erc_llm.planning.architecture import AdapterShape, Architecture
from erc_llm.planning.cards import Card
from erc_llm.planning.disk_space import size_text

_OTHER_FILES = 5_000_000  # tokenizer and configuration, in bytes; the vocabularies of Llama 3 and Qwen are larger ones
# Two checkpoints are kept (`save_total_limit` in erc_llm/tuning/trainer.py), and a third is written before one goes.
_CHECKPOINTS = 3
_WEIGHT, _ADAMW = 4, 8  # bytes per trainable parameter: fp32, and AdamW's two fp32 moments


@dataclass(frozen=True, slots=True)
class Work:
    """What an epoch computes on.

    Attributes:
        tokens: Tokens that the model reads.
        logit_rows: Rows whose logits are computed.
        attended: Pairs of a token and a token that it attends to.
    """

    tokens: int
    logit_rows: int
    attended: int


def forward_flops(architecture: Architecture, adapter: AdapterShape, work: Work) -> float:
    """Operations of a forward pass: 2 for each weight and token, 4 for each attended pair and channel."""
    linear = 2 * (architecture.linear_weights + adapter.parameters) * work.tokens
    attention = 4 * architecture.layers * architecture.query_width * work.attended
    head = 2 * architecture.embedding_weights * work.logit_rows
    return float(linear + attention + head)


def training_flops(architecture: Architecture, adapter: AdapterShape, work: Work, *, checkpointing: bool) -> float:
    """Floating-point operations of forward and backward passes.

    The backward pass costs as much as the forward pass for gradients of activations, as the base is frozen; once more
    for attention (two products instead of one), and for the weights of the adapter. Checkpointing adds one forward
    pass, without the head.
    """
    forward = forward_flops(architecture, adapter, work)
    head = 2 * architecture.embedding_weights * work.logit_rows
    attention = 4 * architecture.layers * architecture.query_width * work.attended
    adapter_weights = 2 * adapter.parameters * work.tokens
    again = forward - head if checkpointing else 0
    return forward * 2 + attention + adapter_weights + again


def seconds(flops: float, card: Card, utilisation: float) -> float:
    """Time of this many operations on a card that reaches this part of its rate (0 to 1)."""
    return flops / (card.tflops * 1e12 * utilisation)


def download_bytes(architecture: Architecture) -> int:
    """Bytes of the base model's files on the hub: its weights as stored there, and the small files."""
    return architecture.parameters * architecture.stored_bytes + _OTHER_FILES


def written_bytes(trainable: int, averaged: bool = False) -> tuple[int, str]:
    """Most bytes that a run holds on disk at once, and their parts in words.

    Args:
        trainable: Number of trainable parameters.
        averaged: Whether checkpoints hold the mean of the last steps' weights too.
    """
    adapter = _WEIGHT * trainable
    checkpoint = adapter + _ADAMW * trainable + adapter  # with optimizer states and the best adapter so far
    checkpoint += adapter if averaged else 0
    parts = f"the adapter ({size_text(adapter)}, twice while it is replaced) and {_CHECKPOINTS} checkpoints "
    return 2 * adapter + _CHECKPOINTS * checkpoint, f"{parts}({size_text(checkpoint)} each)"
