"""Sums over resampled clusters: what every bootstrap here draws from.

Goes in: whole numbers or floats by cluster, shape (clusters, cells). Comes out: their sums over resampled clusters, in
chunks, so that memory stays bounded whatever the number of draws. Knows nothing of what the numbers count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from erc_llm.errors import InternalError

_CELLS_PER_CHUNK = 4_000_000  # 32 MB of float64
_EXACT_IN_FLOAT32 = 2**24  # whole numbers up to here, and their sums, are exact


def resampled_sums(per_cluster: NDArray[Any], draws: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Sums over as many clusters as there are, drawn with replacement; the same draws for the same seed.

    Args:
        per_cluster: (clusters, cells) of whole numbers or floats.
        draws: Number of resamples.
        seed: Of the resampling.

    Yields:
        Chunks of shape (draws of the chunk, cells).

    Raises:
        InternalError: No draw is asked for.
    """
    if draws < 1:
        raise InternalError(f"a bootstrap needs at least one draw, found {draws}")
    clusters, flat = len(per_cluster), per_cluster
    if np.issubdtype(flat.dtype, np.integer):
        flat = for_products([flat])
    rng = np.random.default_rng(seed)
    for size in chunk_sizes(draws, max(flat.shape)):
        yield (_times_drawn(clusters, size, rng).astype(flat.dtype) @ flat).astype(np.float64)


def chunk_sizes(draws: int, cells: int) -> Iterator[int]:
    """How many draws to make at a time, where each needs `cells` numbers, so that memory stays bounded."""
    size = max(1, _CELLS_PER_CHUNK // cells)
    for start in range(0, draws, size):
        yield min(size, draws - start)


def for_products(per_cluster: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Parts of numbers by cluster side by side as floats, because integers have no BLAS product.

    As float32, which takes half the memory and time, where the sums of all whole numbers are exact in it; floats beside
    them are then only as exact as float32 is. Parts of floats alone stay as they are.

    Args:
        per_cluster: (clusters, cells) each.
    """
    whole = [part for part in per_cluster if np.issubdtype(part.dtype, np.integer)]
    largest = max((max(int(part.max(initial=0)), -int(part.min(initial=0))) for part in whole), default=None)
    if largest is None:
        return np.concatenate(per_cluster, axis=1)
    exact = largest * len(per_cluster[0]) < _EXACT_IN_FLOAT32
    return np.concatenate(per_cluster, axis=1, dtype=np.float32 if exact else np.float64, casting="unsafe")


def _times_drawn(dialogues: int, draws: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """How often each dialogue is drawn in each draw, shape (draws, dialogues); rows sum to `dialogues`."""
    drawn = rng.integers(dialogues, size=(draws, dialogues))
    drawn += np.arange(draws)[:, None] * dialogues
    counts: NDArray[np.int64] = np.bincount(drawn.ravel(), minlength=draws * dialogues).reshape(draws, dialogues)
    return counts


def percentile_interval(resampled: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % interval that holds the middle of the resamples, (draws,)."""
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)
