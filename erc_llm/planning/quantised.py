"""Stored bytes of weights in NF4 with double quantisation, as bitsandbytes 0.49 to 0.50 keeps them.

A weight is 4 bits. Each block of 64 weights has its largest absolute value (absmax) in 8 bits; each block of 256 of
those has one in fp32. Source: `quantize_4bit` in bitsandbytes/functional.py; Dettmers et al., "QLoRA", 2023, section 3.

Input: the number of weights of a linear layer. Output: bytes.
Does not depend on: bitsandbytes.
"""

from __future__ import annotations

from erc_llm.planning.architecture import Architecture

_BLOCK, _BLOCK_OF_BLOCKS = 64, 256
_OFFSET = 4  # the mean of the absmax values, one fp32 for each weight matrix


def packed_bytes(weights: int) -> int:
    """Bytes of the 4-bit values of one weight matrix."""
    return (weights + 1) // 2


def absmax_bytes(weights: int, *, double: bool = True) -> int:
    """Bytes of the scales of one weight matrix.

    Args:
        weights: Number of its weights.
        double: Whether the scales are quantised too; else they are fp32.
    """
    blocks = -(-weights // _BLOCK)
    return blocks + 4 * -(-blocks // _BLOCK_OF_BLOCKS) + _OFFSET if double else 4 * blocks


def quantised_bytes(architecture: Architecture, *, double: bool = True) -> tuple[int, int]:
    """(4-bit values, scales) in bytes of all linear layers but the output layer."""
    sizes = [linear.weights for linear in architecture.linears]
    packed = architecture.layers * sum(map(packed_bytes, sizes))
    return packed, architecture.layers * sum(absmax_bytes(size, double=double) for size in sizes)
