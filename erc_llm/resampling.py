"""Cluster bootstrap: sums over resampled clusters, the basis of all intervals and permutation tests.

Input: integers or floats by cluster, shape (clusters, cells). Output: their sums over resampled clusters, in chunks, so
that memory stays bounded for any number of draws.
Does not depend on: the meaning of the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from erc_llm.errors import InternalError

_CELLS_PER_CHUNK = 4_000_000  # 32 MB of float64
_EXACT_IN_FLOAT32 = 2**24  # float32 holds integers up to here exactly


def resampled_sums(per_cluster: NDArray[Any], draws: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Sums over resamples of the clusters, drawn with replacement; equal seeds give equal draws.

    Args:
        per_cluster: (clusters, cells) of integers or floats.
        draws: Number of resamples; each has as many clusters as `per_cluster`.
        seed: Seed of the resampling.

    Yields:
        Chunks of shape (draws of the chunk, cells).

    Raises:
        InternalError: `draws` is below 1.
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
    """Numbers of draws per chunk, so that memory stays bounded; a draw needs `cells` numbers."""
    size = max(1, _CELLS_PER_CHUNK // cells)
    for start in range(0, draws, size):
        yield min(size, draws - start)


def for_products(per_cluster: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Concatenate arrays along the cells and convert them to floats, because BLAS has no integer product.

    The result is float32, which takes half the memory and time, if the sums of all integers are exact in it; float
    arrays are then rounded to float32 too. Float arrays without integer arrays keep their type.

    Args:
        per_cluster: Arrays of shape (clusters, cells).
    """
    whole = [part for part in per_cluster if np.issubdtype(part.dtype, np.integer)]
    largest = max((max(int(part.max(initial=0)), -int(part.min(initial=0))) for part in whole), default=None)
    if largest is None:
        return np.concatenate(per_cluster, axis=1)
    exact = largest * len(per_cluster[0]) < _EXACT_IN_FLOAT32
    return np.concatenate(per_cluster, axis=1, dtype=np.float32 if exact else np.float64, casting="unsafe")


def _times_drawn(dialogues: int, draws: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Count of each dialogue in each draw, shape (draws, dialogues); rows sum to `dialogues`."""
    drawn = rng.integers(dialogues, size=(draws, dialogues))
    drawn += np.arange(draws)[:, None] * dialogues
    counts: NDArray[np.int64] = np.bincount(drawn.ravel(), minlength=draws * dialogues).reshape(draws, dialogues)
    return counts


def percentile_interval(resampled: NDArray[np.float64]) -> tuple[float, float]:
    """95 % percentile interval of the resamples, (draws,)."""
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)
