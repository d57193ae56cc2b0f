"""Storage of an index: one file in the safetensors format beside a run, without the text of the lines.

Input: an `Index`, or a path. Output: the content of its file, or the `Index`.
Does not depend on: runs, encoders.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from erc_llm.errors import RunError
from erc_llm.models.hashes import file_sha256
from erc_llm.retrieval.approximate import Cells
from erc_llm.retrieval.index import Index

NEIGHBOURS = "neighbours.index"  # not *.safetensors, so that nobody takes it for weights of a model
_FORMAT = 1
_HEAD = "erc_llm"
_SPARSE = ("data", "indices", "indptr")


def packed(index: Index) -> bytes:
    """The content of an index's file."""
    from safetensors.numpy import save

    tensors: dict[str, npt.NDArray[Any]] = {"label": index.label, "episode": index.episode}
    if index.rarity is None:
        tensors["vectors"] = index.vectors
    else:
        tensors |= {name: getattr(index.vectors, name) for name in _SPARSE} | {"rarity": index.rarity}
    if index.centre is not None:
        tensors["centre"] = index.centre
    if index.cells is not None:
        tensors |= {"cell": index.cells.cell, "cell_centres": index.cells.centres}
    head = {
        "format_version": _FORMAT,
        "encoder": index.encoder,
        "encoder_sha256": index.encoder_sha256,
        "train_sha256": index.train_sha256,
        "labels": index.labels,
        "episodes": index.episodes,
        "shape": index.vectors.shape,
    }
    plain = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
    content: bytes = save(plain, {_HEAD: json.dumps(head)})
    return content


def read_index(path: Path, sha256: str, again: str) -> Index:
    """The index in a file.

    Args:
        path: The file.
        sha256: Hash that it must have.
        again: What makes the file again, for messages.

    Raises:
        RunError: The file is missing, or is another one.
    """
    from safetensors import safe_open

    if not path.is_file():
        raise RunError(f"{path}: is missing; {again}")
    if (found := file_sha256(path)) != sha256:
        raise RunError(f"{path}: has hash {found[:12]}, the calibration was fitted with {sha256[:12]}; {again}")
    with safe_open(path, "numpy") as file:
        head: dict[str, Any] = json.loads(file.metadata()[_HEAD])
        if head["format_version"] != _FORMAT:
            raise RunError(f"{path}: found index format {head['format_version']}, expected {_FORMAT}; {again}")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    vectors = tensors.get("vectors")
    if vectors is None:
        from scipy.sparse import csr_matrix

        vectors = csr_matrix(tuple(tensors[name] for name in _SPARSE), shape=tuple(head["shape"]))
    return Index(
        head["encoder"],
        head["encoder_sha256"],
        head["train_sha256"],
        tuple(head["labels"]),
        vectors,
        tensors["label"],
        tuple(head["episodes"]),
        tensors["episode"],
        tensors.get("rarity"),
        tensors.get("centre"),
        Cells(tensors["cell_centres"], tensors["cell"]) if "cell" in tensors else None,
    )
