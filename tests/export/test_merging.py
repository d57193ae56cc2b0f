"""Merged models: what plain transformers computes with them, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gguf
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from erc_llm.errors import ModelError
from erc_llm.export.gguf_model import write_gguf
from erc_llm.export.lora import read_lora
from erc_llm.export.merging import INDEX, nf4_round_trip, write_merged
from tests.export.adapters_for_tests import adapted, logits
from tests.tiny_models import TinyModel


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"target_modules": ["q_proj", "down_proj"]}])
def test_a_merged_model_computes_what_base_and_adapter_do(
    options: dict[str, object], tiny_llama: TinyModel, tmp_path: Path
) -> None:
    model = adapted(tiny_llama, tmp_path / "adapter", **options)
    (tmp_path / "merged").mkdir()
    write_merged(tiny_llama.folder, read_lora(tmp_path / "adapter"), tmp_path / "merged", dtype=torch.float32)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), logits(model), rtol=0, atol=1e-4)
    assert (logits(merged) - logits(tiny_llama.model)).abs().max() > 0.5, "the adapter does something"
    text = "Mara: Who left the window open?"
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "merged")(text)["input_ids"] == tiny_llama.tokenizer(text)["input_ids"]
    )


def test_small_shards_hold_the_same_weights_in_16_bits(tiny_llama: TinyModel, tmp_path: Path) -> None:
    adapted(tiny_llama, tmp_path / "adapter")
    for name, most in (("one", 2**30), ("many", 40_000)):
        (tmp_path / name).mkdir()
        lora = read_lora(tmp_path / "adapter")
        write_merged(tiny_llama.folder, lora, tmp_path / name, dtype=torch.bfloat16, shard_bytes=most)
    shards = sorted((tmp_path / "many").glob("*.safetensors"))
    assert len(shards) > 2
    index = json.loads((tmp_path / "many" / INDEX).read_text())
    whole = load_file(tmp_path / "one" / "model.safetensors")
    assert set(index["weight_map"]) == set(whole)
    assert index["metadata"]["total_size"] == sum(t.numel() * 2 for t in whole.values())
    for shard in shards:
        for name, tensor in load_file(shard).items():
            assert tensor.dtype == torch.bfloat16
            assert torch.equal(tensor, whole[name])
    one, many = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("one", "many"))
    assert one.dtype == torch.bfloat16
    assert torch.equal(logits(one), logits(many))


def test_the_update_can_be_added_to_what_nf4_makes_of_the_base(tiny_llama: TinyModel, tmp_path: Path) -> None:
    """As QLoRA trained it: all linear layers but the head are quantised, nothing else is."""
    pytest.importorskip("bitsandbytes")
    adapted(tiny_llama, tmp_path / "adapter")
    lora = read_lora(tmp_path / "adapter")
    (tmp_path / "merged").mkdir()
    write_merged(tiny_llama.folder, lora, tmp_path / "merged", dtype=torch.float32, nf4=torch.float32)
    base, merged = (load_file(f / "model.safetensors") for f in (tiny_llama.folder, tmp_path / "merged"))
    for name, weight in base.items():
        module = name.removesuffix(".weight")
        if module in lora.matrices:
            expected = lora.add_to(module, nf4_round_trip(weight, torch.float32))
            assert not torch.equal(nf4_round_trip(weight, torch.float32), weight)
        else:
            expected = weight
        torch.testing.assert_close(merged[name], expected, rtol=0, atol=0)


def test_a_pickle_is_never_read(tiny_llama: TinyModel, tmp_path: Path) -> None:
    adapted(tiny_llama, tmp_path / "adapter")
    lora = read_lora(tmp_path / "adapter")
    for folder, file in ((tmp_path / "base", "pytorch_model.bin"), (tmp_path / "old", "adapter_model.bin")):
        folder.mkdir()
        (folder / file).write_bytes(b"\x80\x04.")
    (tmp_path / "base" / "config.json").write_bytes((tiny_llama.folder / "config.json").read_bytes())
    with pytest.raises(ModelError, match="pickle"):
        write_merged(tmp_path / "base", lora, tmp_path, dtype=torch.bfloat16)
    with pytest.raises(ModelError, match="pickle"):
        read_lora(tmp_path / "old")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "lora_only"}, "biases"),
        ({"alpha_pattern": {"q_proj": 3}}, "alpha_pattern"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"peft_type": "LOHA"}, "another method"),
        ({"fan_in_fan_out": True}, "transposed"),
        ({"r": 3}, "has rank 4, its adapter_config.json states 3"),
    ],
)
def test_what_is_more_than_plain_lora_is_refused(
    options: dict[str, object], told: str, tiny_llama: TinyModel, tmp_path: Path
) -> None:
    adapted(tiny_llama, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | options))
    with pytest.raises(ModelError, match=told):
        read_lora(tmp_path / "adapter")


def test_saved_embeddings_are_refused(tiny_llama: TinyModel, tmp_path: Path) -> None:
    """PEFT saves them beside the matrices where tokens were added to the base."""
    adapted(tiny_llama, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    embedding = "base_model.model.model.embed_tokens.weight"
    save_file(load_file(path) | {embedding: torch.zeros(8, 64)}, path)
    with pytest.raises(ModelError, match=r"embed_tokens\.weight is no matrix of a plain LoRA adapter"):
        read_lora(tmp_path / "adapter")


def test_a_computed_buffer_of_old_checkpoints_is_left_out(tiny_llama: TinyModel, tmp_path: Path) -> None:
    """LLaMA-2's files have one in every layer; llama.cpp refuses a file with it."""
    base = Path(shutil.copytree(tiny_llama.folder, tmp_path / "base"))
    tensors = load_file(base / "model.safetensors")
    old = {f"model.layers.{k}.self_attn.rotary_emb.inv_freq": torch.ones(8) for k in range(2)}
    save_file(tensors | old, base / "model.safetensors", metadata={"format": "pt"})
    adapted(tiny_llama, tmp_path / "adapter")
    lora = read_lora(tmp_path / "adapter")
    (tmp_path / "merged").mkdir()
    write_merged(base, lora, tmp_path / "merged", dtype=torch.bfloat16)
    assert load_file(tmp_path / "merged" / "model.safetensors").keys() == tensors.keys()
    write_gguf(base, lora, tmp_path / "m.gguf", name="tiny", stored="f16")
    assert len(gguf.GGUFReader(tmp_path / "m.gguf").tensors) == len(tensors)


def test_a_full_disk_is_an_error_of_the_system(
    tiny_llama: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    adapted(tiny_llama, tmp_path / "adapter")
    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        write_merged(tiny_llama.folder, read_lora(tmp_path / "adapter"), tmp_path, dtype=torch.bfloat16)


def test_an_adapter_that_does_not_fit_is_refused(
    tiny_llama: TinyModel, tiny_llama2_style: TinyModel, tmp_path: Path
) -> None:
    adapted(tiny_llama, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    first = next(name for name in tensors if name.endswith("q_proj.lora_A.weight"))
    save_file(tensors | {first: torch.zeros(4, 3)}, path)
    with pytest.raises(ModelError, match=r"q_proj has shape \(64, 3\).* was trained on"):
        write_merged(tiny_llama.folder, read_lora(tmp_path / "adapter"), tmp_path, dtype=torch.bfloat16)
    deeper = {name.replace("layers.1", "layers.9"): tensor for name, tensor in tensors.items()}
    save_file(deeper, path)
    with pytest.raises(ModelError, match=r"layers\.9\..* no inner linear layer"):
        write_merged(tiny_llama.folder, read_lora(tmp_path / "adapter"), tmp_path, dtype=torch.bfloat16)
    head = {name.replace("model.layers.1.self_attn.q_proj", "lm_head"): tensor for name, tensor in tensors.items()}
    save_file(head, path)
    with pytest.raises(ModelError, match="lm_head"):
        write_merged(tiny_llama.folder, read_lora(tmp_path / "adapter"), tmp_path, dtype=torch.bfloat16)
