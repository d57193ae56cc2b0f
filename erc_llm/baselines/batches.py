"""Examples to padded batches, and the whole order of a training.

In: examples, a batch size, a seed. Out: batches whose rows are about equally long, as tensors. The order is a function
of seed and epoch alone, so that resuming is going on at a step. Knows no model.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from erc_llm.baselines.inputs import Example, Ids

_BUCKET = 25  # batches that are sorted by length together: little padding, and still a new order each epoch


@dataclass(frozen=True, eq=False)
class Padded:
    """Texts of different lengths as one rectangle.

    Attributes:
        ids: (texts, tokens), padded on the right.
        mask: (texts, tokens) 1 for a token, 0 for padding.
    """

    ids: Tensor
    mask: Tensor


def pad(texts: Sequence[Ids], padding: int, device: torch.device) -> Padded:
    """Put texts into one rectangle as wide as the longest.

    Args:
        texts: At least one.
        padding: Id of the pad token.
        device: Where to.
    """
    width = max(map(len, texts))
    ids = [[*text, *[padding] * (width - len(text))] for text in texts]
    mask = [[1] * len(text) + [0] * (width - len(text)) for text in texts]
    return Padded(torch.tensor(ids, device=device), torch.tensor(mask, device=device))


def epoch_batches(lengths: Sequence[int], size: int, seed: int, epoch: int) -> list[list[int]]:
    """Numbers of the examples of each batch of an epoch; every example once, every batch but one full.

    Args:
        lengths: (examples,) tokens of each.
        size: Examples of a batch.
        seed: Of the run.
        epoch: From 0.
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
    """Numbers of all examples, of like length together, for a pass that only reads."""
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].context))
    return [order[i : i + size] for i in range(0, len(order), size)]
