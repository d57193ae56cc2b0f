"""A base model on the hub: gated, unknown, out of reach, half downloaded, in the cache."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from erc_llm.planning.checks_hub import check_hub, missing_shards
from erc_llm.planning.findings import Finding
from tests.gated_hub import COMMIT, refusing_files

FILES = {"config.json": 600, "model.safetensors": 3 * 10**6}


def _ask(monkeypatch: pytest.MonkeyPatch, status: int, code: str | None = None) -> tuple[Finding, ...]:
    with refusing_files("someone/tiny", FILES, status, code) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        return check_hub("someone/tiny").findings


def _cached(cache: Path, *files: str) -> Path:
    """A snapshot in the hub's cache with an index of two shards and these files."""
    folder = cache / "models--someone--tiny"
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "blobs").mkdir()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in ("config.json", "tokenizer_config.json", *files):
        (snapshot / name).touch()
    return folder


@pytest.mark.parametrize("status", [401, 403])
def test_gated_weights(status: int, hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = next(f for f in _ask(monkeypatch, status, "GatedRepo") if f.severity == "error")
    assert "'someone/tiny' is gated" in finding.found
    assert "/someone/tiny, wait until access is granted, then `hf auth login`" in finding.remedy


def test_a_token_that_the_hub_refuses(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = next(f for f in _ask(monkeypatch, 401) if f.severity == "error")
    assert "refuses this account's token" in finding.found
    assert "HF_TOKEN" in finding.remedy


def test_a_model_that_can_be_downloaded(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (note,) = _ask(monkeypatch, 200)
    assert note.severity == "note"
    assert note.found == "3 MB of weights of 'someone/tiny' will be downloaded"


def test_a_model_that_does_not_exist(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing_files("someone/tiny", FILES) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        state = check_hub("someone/else")
    assert not state.available
    assert "has no model 'someone/else'" in state.findings[0].found


def test_a_model_of_pickles(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing_files("someone/tiny", {"config.json": 600, "pytorch_model.bin": 10}, 200) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        (finding,) = check_hub("someone/tiny").findings
    assert finding.severity == "error"
    assert "pickle" in finding.found


def test_a_cache_that_cannot_be_written(tmp_path: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    with refusing_files("someone/tiny", FILES, 200) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        state = check_hub("someone/tiny")
    assert state.available, "the small files can be had, so other checks go on"
    finding = next(f for f in state.findings if f.severity == "error")
    assert finding.where == "HF_HOME"
    assert "cannot be written" in finding.found


def test_no_network_is_an_error(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    (finding,) = check_hub("someone/tiny").findings
    assert finding.severity == "error"
    assert "did not answer" in finding.found
    assert "hf download someone/tiny" in finding.remedy
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (finding,) = check_hub("someone/tiny").findings
    assert "HF_HUB_OFFLINE is set" in finding.found


def test_a_half_downloaded_model(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _cached(hub_cache, "model-00001-of-00002.safetensors")
    (folder / "blobs" / "0123.incomplete").write_bytes(bytes(2000))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    state = check_hub("someone/tiny")
    assert state.available  # the small files are there
    half = state.findings[0]
    assert "; missing shards: model-00002-of-00002.safetensors" in half.found
    assert "end in .incomplete: 1 (2 kB)" in half.found
    assert "continues the download" in half.remedy


def test_a_whole_model_in_the_cache_needs_no_network(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _cached(hub_cache, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert check_hub("someone/tiny").findings == ()


def test_a_folder_without_an_index_lacks_no_shards(tmp_path: Path) -> None:
    assert missing_shards(tmp_path) == []
