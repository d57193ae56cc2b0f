"""Batches: groups examples of similar length, and pads them into tensors.

The order of batches is a function of seed and epoch alone, so a training run can be resumed at any step.

Input: examples, a batch size, a seed. Output: the examples of each batch, and padded token ids.
Does not depend on: models.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from erc_llm.baselines.inputs import Example, Ids

_BUCKET = 25  # batches that are sorted by length together: little padding, and still another order in each epoch


@dataclass(frozen=True, eq=False)
class Padded:
    """Texts of different lengths in one rectangular tensor.

    Attributes:
        ids: (texts, tokens) token ids, padded on the right.
        mask: (texts, tokens) 1 for a token, 0 for padding.
    """

    ids: Tensor
    mask: Tensor


def pad(texts: Sequence[Ids], padding: int, device: torch.device) -> Padded:
    """Pad texts to the length of the longest.

    Args:
        texts: Token ids of at least one text.
        padding: Id of the pad token.
        device: Device of the tensors.
    """
    width = max(map(len, texts))
    ids = [[*text, *[padding] * (width - len(text))] for text in texts]
    mask = [[1] * len(text) + [0] * (width - len(text)) for text in texts]
    return Padded(torch.tensor(ids, device=device), torch.tensor(mask, device=device))


def epoch_batches(lengths: Sequence[int], size: int, seed: int, epoch: int) -> list[list[int]]:
    """Indices of the examples in each batch of an epoch; every example occurs once, every batch but one is full.

    Args:
        lengths: (examples,) number of tokens of each.
        size: Examples in a batch.
        seed: Seed of the run.
        epoch: Number of the epoch, from 0.
    """
    draw = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    draw.shuffle(order)
    batches = []
    for start in range(0, len(order), size * _BUCKET):
        bucket = sorted(order[start : start + size * _BUCKET], key=lambda i: lengths[i])
        batches += [bucket[i : i + size] for i in range(0, len(bucket), size)]
    draw.shuffle(batches)
    return batches


def steps_per_epoch(examples: int, size: int) -> int:
    """Optimizer steps of an epoch."""
    return math.ceil(examples / size)


def reading_batches(examples: Sequence[Example], size: int) -> list[list[int]]:
    """Indices of all examples, those of similar length together, for a pass without training."""
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].context))
    return [order[i : i + size] for i in range(0, len(order), size)]
