"""Uploading an export, to a hub of our own on loopback."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from erc_llm.errors import RunError, UserError
from erc_llm.export.push import push
from erc_llm.runs.exported import ExportRecord, write_record
from tests.upload_hub import TOKEN, UploadHub, taking_uploads

RECORD = ExportRecord(
    form="peft", stored="f32", from_base="original", base="example/tiny", weights={}, scored_in="float32",
    tolerance=1e-3, largest_difference=0.0, flips=0, probes=3, verified_by="peft 1", created="2026-01-01", versions={},
)  # fmt: skip


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadHub]:
    with taking_uploads() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", found.address, raising=False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield found


@pytest.fixture
def export(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny-peft"
    folder.mkdir()
    weights = b"weights" * 100
    (folder / "adapter_model.safetensors").write_bytes(weights)
    (folder / "README.md").write_text("# A card\n")
    write_record(folder, replace(RECORD, weights={"adapter_model.safetensors": hashlib.sha256(weights).hexdigest()}))
    return folder


def held(hub: UploadHub, name: str) -> dict[str, bytes]:
    return {file: content for file, content in hub.repositories[name].items() if file != ".gitattributes"}


def test_an_export_is_uploaded_whole_in_one_commit(hub: UploadHub, export: Path) -> None:
    address = push(export, "me/tiny", private=True)
    assert held(hub, "me/tiny") == {path.name: path.read_bytes() for path in export.iterdir()}
    assert hub.private == {"me/tiny": True}
    assert hub.commits == ["Upload tiny-peft (peft)"]
    assert address.startswith(f"{hub.address}/me/tiny/commit/")


def test_nothing_is_overwritten_without_force(hub: UploadHub, export: Path) -> None:
    push(export, "me/tiny")
    hub.repositories["me/tiny"]["old.txt"] = b"old"
    before = dict(hub.repositories["me/tiny"])
    (export / "README.md").write_text("# Another card\n")
    with pytest.raises(UserError, match=r"me/tiny: holds 4 files already.* --force"):
        push(export, "me/tiny")
    assert hub.repositories["me/tiny"] == before
    push(export, "me/tiny", force=True)
    assert held(hub, "me/tiny") == {path.name: path.read_bytes() for path in export.iterdir()}


def test_a_public_repository_does_not_pass_for_a_private_one(hub: UploadHub, export: Path) -> None:
    push(export, "me/tiny")
    (export / "README.md").write_text("# Another card\n")
    before = dict(hub.repositories["me/tiny"])
    with pytest.raises(UserError, match="everybody can read it"):
        push(export, "me/tiny", force=True, private=True)
    assert hub.repositories["me/tiny"] == before


def test_what_another_wrote_meanwhile_is_not_overwritten(
    hub: UploadHub, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(export, "me/tiny")
    original = HfApi.create_commit

    def late(api: HfApi, *arguments: object, **options: object) -> object:
        hub.commits.append("by another")
        return original(api, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(HfApi, "create_commit", late)
    (export / "README.md").write_text("# Another card\n")
    with pytest.raises(UserError, match="no file was changed"):
        push(export, "me/tiny", force=True)
    assert hub.repositories["me/tiny"]["README.md"] == b"# A card\n"


def test_only_files_of_the_export_are_uploaded(hub: UploadHub, export: Path) -> None:
    (export / ".env").write_text("HF_TOKEN=secret\n")
    (export / "notes.txt").write_text("to do\n")
    push(export, "me/tiny")
    assert set(held(hub, "me/tiny")) == {"README.md", "export.json", "adapter_model.safetensors"}


def test_no_network_is_an_error(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", "http://127.0.0.1:9", raising=False)
    with pytest.raises(UserError, match="did not take it"):
        push(export, "me/tiny")


def test_a_record_without_its_weights_is_damaged(export: Path) -> None:
    for names in ([], ["model.gguf"], ["../adapter_model.safetensors"], ["other.safetensors"], ["adapter_model.bin"]):
        write_record(export, replace(RECORD, weights=dict.fromkeys(names, "0" * 64)))
        with pytest.raises(RunError, match=r"export.json: damaged \(it (names|does not name)"):
            push(export, "me/tiny")


def test_a_damaged_export_and_a_refusal_of_the_hub_are_errors(
    hub: UploadHub, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match=r"did not take it: .*`hf auth login`") as told:
        push(export, "me/tiny")
    assert "hf_wrong" not in str(told.value)
    assert hub.repositories == {}
    with pytest.raises(UserError, match="did not take it"):
        push(export, "not a repository")
    (export / "adapter_model.safetensors").write_bytes(b"other")
    with pytest.raises(RunError, match="has hash"):
        push(export, "me/tiny")
    with pytest.raises(RunError, match="is no export"):
        push(export.parent, "me/tiny")
