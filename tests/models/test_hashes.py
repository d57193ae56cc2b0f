"""Hashes of weights: read from the hub's cache, else computed once, and again where the file changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from erc_llm.errors import ModelError
from erc_llm.models import hashes


def _unreadable(*args: Any, **kwargs: Any) -> str:
    raise AssertionError("the file was read")


def _in_hub_cache(folder: Path, blob: str, content: bytes, repository: str = "models--someone--tiny") -> Path:
    """A snapshot's `model.safetensors`, a link to a blob, as huggingface_hub lays its cache out."""
    blobs, snapshot = folder / repository / "blobs", folder / repository / "snapshots" / ("0" * 40)
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (blobs / blob).write_bytes(content)
    (snapshot / "model.safetensors").symlink_to(Path("..", "..", "blobs", blob))
    return snapshot


def test_a_hash_is_remembered_until_the_file_changes(cache: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = hashes.file_sha256(gguf)
    with monkeypatch.context() as patch:
        patch.setattr("hashlib.file_digest", _unreadable)
        assert hashes.file_sha256(gguf) == first
    gguf.write_bytes(b"weightz")
    os.utime(gguf, ns=(5, 5))
    assert hashes.file_sha256(gguf) != first


def test_an_unwritable_cache_still_gives_the_hash(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("ERC_LLM_CACHE", str(tmp_path / "file"))
    assert len(hashes.file_sha256(gguf)) == 64


def test_shards_are_hashed_together(cache: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"model-0000{number}-of-00002.safetensors").write_bytes(bytes([number]))
    both = hashes.weights_sha256(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    assert hashes.weights_sha256(tmp_path) != both
    with pytest.raises(ModelError, match="no weights"):
        hashes.weights_sha256(cache.parent / "nowhere")


def test_a_file_of_the_hubs_cache_is_not_read(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha256(b"weights").hexdigest()
    snapshot = _in_hub_cache(tmp_path / "hub", digest, b"weights")
    monkeypatch.setattr("hashlib.file_digest", _unreadable)
    assert hashes.weights_sha256(snapshot) == digest


def test_a_hash_is_the_same_in_the_hubs_cache_and_in_a_folder(cache: Path, tmp_path: Path) -> None:
    snapshot = _in_hub_cache(tmp_path / "hub", hashlib.sha256(b"weights").hexdigest(), b"weights")
    copied = tmp_path / "copied"
    copied.mkdir()
    (copied / "model.safetensors").write_bytes(b"weights")
    assert hashes.weights_sha256(snapshot) == hashes.weights_sha256(copied)


@pytest.mark.parametrize(
    ("blob", "repository"),
    [
        (hashlib.sha1(b"weights").hexdigest(), "models--someone--tiny"),  # what Git names small files by
        ("a" * 64 + ".incomplete", "models--someone--tiny"),
        ("A" * 64, "models--someone--tiny"),
        ("a" * 64, "my-blobs"),  # no cache of the hub: the name may be anything
    ],
)
def test_a_name_that_is_no_sha256_of_the_hub_is_not_believed(
    cache: Path, tmp_path: Path, blob: str, repository: str
) -> None:
    snapshot = _in_hub_cache(tmp_path / "hub", blob, b"weights", repository)
    assert hashes.weights_sha256(snapshot) == hashlib.sha256(b"weights").hexdigest()
