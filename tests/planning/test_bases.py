"""Where the shape of a base model comes from, and what is said where it cannot be had."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from erc_llm.errors import ModelError
from erc_llm.planning.bases import find_base, shipped_shapes
from tests.tiny_models import TinyModel


def test_a_folder_has_shape_and_tokenizer(tiny_llama: TinyModel) -> None:
    base = find_base(str(tiny_llama.folder))
    assert (base.origin, base.hub_id, base.downloaded) == ("folder", None, True)
    assert base.architecture.parameters == tiny_llama.model.num_parameters()
    assert base.tokenizer == Path(tiny_llama.folder) / "tokenizer.json"


@pytest.mark.parametrize("name", sorted(shipped_shapes()))
def test_known_models_come_with_the_package(name: str) -> None:
    base = find_base(name)
    assert base.origin in ("package", "hub cache")
    assert base.architecture.layers > 10


def test_the_small_model_of_the_wheel_is_known_by_its_alias(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ERC_LLM_CACHE", str(tmp_path))
    base = find_base("smollm2-135m-instruct")
    assert base.hub_id == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert base.architecture.parameters == 134_515_008


def test_the_hub_cache_comes_before_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = dict(shipped_shapes()["meta-llama/Llama-2-7b-hf"]) | {"num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(other), "utf-8")

    def cached(repository: str, file: str) -> str | None:
        return str(tmp_path / file) if (tmp_path / file).is_file() else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    base = find_base("meta-llama/Llama-2-7b-hf")
    assert (base.origin, base.architecture.layers) == ("hub cache", 2)


def test_without_a_network_an_unknown_model_is_one_message() -> None:
    with pytest.raises(ModelError, match=r"'nobody/nothing-1b': it is not in the hub's cache") as error:
        find_base("nobody/nothing-1b")
    assert "hf download nobody/nothing-1b config.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_gated_model_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    cases = ((GatedRepoError, "licence accepted.*hf auth login"), (RepositoryNotFoundError, "no such model"))
    for kind, words in cases:

        def refuse(*args: object, kind: type[Exception] = kind) -> str:
            raise kind.__new__(kind)  # without the response of a hub

        monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
        with pytest.raises(ModelError, match=words):
            find_base("nobody/gated-1b")


def test_folders_and_files_without_a_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no config\.json"):
        find_base(str(tmp_path))
    (tmp_path / "config.json").write_text("{", "utf-8")
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        find_base(str(tmp_path))
    (tmp_path / "config.json").write_text("[]", "utf-8")
    with pytest.raises(ModelError, match="expected the fields of a model configuration, found list"):
        find_base(str(tmp_path))
    with pytest.raises(ModelError, match="it is not a hub id"):
        find_base("./nowhere/at all")
