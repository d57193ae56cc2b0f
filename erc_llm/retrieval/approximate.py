"""Approximate search: an inverted file of faiss, for indices of hundreds of thousands of lines.

The vectors are divided into cells by k-means once, and a query is compared with the vectors of the cells nearest to it
only. So some of the nearest vectors may be missed; the similarities of those that are found are exact. Inverted files:
J. Johnson, M. Douze, H. Jégou, "Billion-scale similarity search with GPUs" (IEEE Transactions on Big Data, 2021).

    cells = find_cells(vectors)
    rows, similarities = CellSearch(vectors, cells).nearest(queries, 8)

Input: dense unit vectors. Output: `Cells`, and rows of the nearest vectors with their similarities.
Does not depend on: conversations, labels, files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from erc_llm.errors import ConfigError, ModelError
from erc_llm.retrieval.vectors import WORDS

INSTALL = "pip install 'erc-llm[neighbours]'"

# Measured by benchmarks/neighbour_search.py: more cells make the search faster and the k-means slower.
_CELLS = 2  # times the square root of the number of vectors
_NEAR = 8  # a query is compared with the vectors of the nearest eighth of the cells
_SAMPLE, _ROUNDS = 64, 10  # of k-means: vectors for each cell, and rounds

Search = Literal["exact", "approximate"]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False, slots=True)
class Cells:
    """A division of vectors into cells.

    Attributes:
        centres: (cells, dimensions) centre of each cell, float32.
        cell: (vectors,) number of each vector's cell.
    """

    centres: Floats
    cell: npt.NDArray[np.int64]


def check_approximate(encoder: object) -> None:
    """Refuse approximate search before anything is embedded.

    Raises:
        ConfigError: The encoder is `words`.
        ModelError: faiss is not installed.
    """
    if encoder == WORDS:
        raise ConfigError(
            f"neighbours: approximate search needs dense vectors, and those of `{WORDS}` are sparse; use exact search, "
            "or an encoder such as all-minilm-l6-v2"
        )
    _faiss()


def find_cells(vectors: Floats) -> Cells:
    """Divide dense vectors, (vectors, dimensions), into cells by k-means, always the same for the same vectors.

    Raises:
        ModelError: faiss is not installed.
    """
    faiss, (count, dimensions) = _faiss(), vectors.shape
    cells = max(1, min(count, int(_CELLS * count**0.5)))
    means = faiss.Kmeans(
        dimensions,
        cells,
        spherical=True,
        niter=_ROUNDS,
        min_points_per_centroid=1,
        max_points_per_centroid=_SAMPLE,
        seed=1,
    )
    dense = np.ascontiguousarray(vectors, dtype=np.float32)
    means.train(dense)
    return Cells(np.array(means.centroids), means.assign(dense)[1].astype(np.int64))


class CellSearch:
    """Search in vectors that are divided into cells.

    Args:
        vectors: (vectors, dimensions) unit vectors.
        cells: Their division, see `find_cells`.

    Raises:
        ModelError: faiss is not installed.
    """

    def __init__(self, vectors: Floats, cells: Cells) -> None:
        faiss = _faiss()
        centres = faiss.IndexFlatIP(vectors.shape[1])
        centres.add(cells.centres)
        self._index = faiss.IndexIVFFlat(centres, vectors.shape[1], len(cells.centres), faiss.METRIC_INNER_PRODUCT)
        self._index.nprobe = -(-len(cells.centres) // _NEAR)
        self._index.is_trained = True
        rows = np.arange(len(vectors), dtype=np.int64)
        dense = np.ascontiguousarray(vectors, dtype=np.float32)
        self._index.add_core(len(dense), faiss.swig_ptr(dense), faiss.swig_ptr(rows), faiss.swig_ptr(cells.cell))

    def nearest(self, queries: Floats, k: int) -> tuple[npt.NDArray[np.int64], Floats]:
        """The k nearest vectors in the cells near each query.

        Returns:
            (queries, k) rows, most similar first, -1 where the cells hold fewer; and their (queries, k) similarities, 0
            for -1.
        """
        similarities, rows = self._index.search(np.ascontiguousarray(queries, dtype=np.float32), k)
        return rows, np.where(rows < 0, np.float32(0), similarities)


def _faiss() -> Any:
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise ModelError(f"neighbours: approximate search needs faiss, which is not installed: {INSTALL}") from error
    return faiss
