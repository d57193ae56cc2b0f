"""Hashes of model weights: read from the hub's cache if it has them, else computed once and stored.

Input: a model folder, or one file. Output: SHA-256 in hexadecimal.
Does not depend on: how models are loaded.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from erc_llm.errors import ModelError
from erc_llm.models.cache import cache_dir

_SHA256 = re.compile(r"[0-9a-f]{64}")


def weights_sha256(folder: Path) -> str:
    """SHA-256 of a model folder's weights.

    One file: the hash of its bytes, which is also what the hub shows for it. Several shards: the hash of their names
    and hashes in order.

    Raises:
        ModelError: There are no weights in the folder that may be read.
    """
    hashes = [(file.name, file_sha256(file)) for file in weight_files(folder)]
    if len(hashes) == 1:
        return hashes[0][1]
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in hashes).encode()).hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder.

    Raises:
        ModelError: There are none; pickles are never read.
    """
    for pattern in ("model*.safetensors", "*.safetensors"):
        if found := sorted(folder.glob(pattern)):
            return found
    if any(folder.glob("pytorch_model*")):
        raise ModelError(
            f"{folder}: its weights are a pickle (pytorch_model.bin), which can run code when it is loaded; convert "
            "them to safetensors, or take a model that comes so"
        )
    raise ModelError(
        f"{folder}: found no weights in safetensors, expected model.safetensors or its shards; a pickle (.bin) can run "
        "code and is never read"
    )


def file_sha256(file: Path) -> str:
    """SHA-256 of a file's bytes, without reading them if the hash is known.

    Reading the 13 GB of a 7B model takes longer than most commands need for the rest of their work. The hub's cache has
    the hash, or an earlier call computed it, for as long as the file's path, size and time of change are the same.
    """
    real = file.resolve()
    if named := _hub_blob_sha256(real):
        return named
    state = real.stat()
    key = hashlib.sha256(f"{real}\0{state.st_size}\0{state.st_mtime_ns}".encode()).hexdigest()
    note = cache_dir() / "sha256" / key
    try:
        known = note.read_text("ascii")
        if len(known) == 64:
            return known
    except OSError:
        pass
    with real.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        draft = note.with_name(f"{note.name}.{os.getpid()}")
        draft.write_text(digest, "ascii")
        os.replace(draft, note)
    except OSError:
        pass  # a cache that cannot be written costs time, not correctness
    return digest


def _hub_blob_sha256(real: Path) -> str | None:
    """The hash that a file of the hub's cache is named by.

    A snapshot there is a folder of links to `models--OWNER--NAME/blobs/ETAG`. The ETag of a file in Git LFS, as weights
    are, is the SHA-256 of its content; that of a small file is its Git SHA-1 of 40 digits, which is another hash. See
    "Understand caching" in the documentation of huggingface_hub.
    """
    in_hub_cache = real.parent.name == "blobs" and real.parent.parent.name.startswith("models--")
    return real.name if in_hub_cache and _SHA256.fullmatch(real.name) else None
