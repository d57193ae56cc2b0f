"""Label smoothing: the distribution over the labels that training teaches for each gold label.

With amount x and gold label g it is (1 - x) onehot(g) + x r, where r is one of

- `uniform`: 1 / labels (Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2016, section 7);
- `shares`: the label distribution of train (that section's prior u; Pereyra et al., "Regularizing Neural Networks by
  Penalizing Confident Output Distributions", 2017, call it unigram smoothing). Taken after class balancing, it leaves
  the label distribution that the loss sees as it is, so that correcting for it stays exact;
- `confusions`: how often held-out lines of label g were predicted as each label, g itself included. A distribution for
  each class, as in Zhang et al., "Delving Deep into Label Smoothing", 2021, from counts instead of probabilities.

Input: the amount, the kind, and the label distribution or the confusion counts. Output: (labels, labels) rows.
Does not depend on: trees, models, losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from erc_llm.prompting.state import smoothed

Toward = Literal["uniform", "shares", "confusions"]
Rows = tuple[tuple[float, ...], ...]


def smoothed_labels(
    amount: float, toward: Toward, shares: Sequence[float], confusion: Sequence[Sequence[int]] | None
) -> Rows | None:
    """(labels, labels) distribution to be learned for each gold label (row); None without smoothing.

    Args:
        amount: Part of the probability that is distributed, 0 to below 1.
        toward: The distribution that it has.
        shares: (labels,) label distribution that the loss sees; it sums to 1.
        confusion: (labels, labels) how often a gold label (row) was predicted as each label; for `confusions`.
    """
    if not amount:
        return None
    labels = len(shares)
    if toward == "uniform":
        rows = np.full((labels, labels), 1 / labels)
    elif toward == "shares":
        rows = np.tile(np.array(shares), (labels, 1))
    else:
        assert confusion is not None, "`read_confusion` has refused such a configuration"
        rows = np.array(smoothed(confusion))
        rows /= rows.sum(axis=1, keepdims=True)
    mixed = (1 - amount) * np.eye(labels) + amount * rows
    return tuple(map(tuple, mixed.tolist()))
