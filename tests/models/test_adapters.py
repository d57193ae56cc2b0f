"""Adapters: attached by seed, saved whole, loaded by us and by plain PEFT, refused where they do not fit."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from erc_llm.errors import ModelError
from erc_llm.models.adapters import attach_lora, load_adapter, save_adapter
from tests.tiny_models import TinyModel, disturb, random_llama


def _trained(tiny: TinyModel, **options: Any) -> Any:
    """An adapter whose B matrices are not zero, so that it shows in the logits."""
    adapted = attach_lora(tiny.fresh_model(), **({"rank": 4, "alpha": 8, "dropout": 0.0, "seed": 7} | options))
    disturb(adapted, 0.1)
    return adapted.eval()


def _logits(model: Any, tiny: TinyModel) -> torch.Tensor:
    ids = tiny.tokenizer("Tomas: The smoke had to go somewhere.", return_tensors="pt").input_ids
    with torch.no_grad():
        logits: torch.Tensor = model(ids).logits
    return logits


def test_a_fresh_adapter_changes_nothing_and_freezes_the_base(tiny_llama: TinyModel) -> None:
    adapted = attach_lora(tiny_llama.fresh_model(), rank=4, alpha=8, dropout=0.0, seed=7).eval()
    assert torch.equal(_logits(adapted, tiny_llama), _logits(tiny_llama.model, tiny_llama))
    trained = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
    assert len(trained) == 2 * 7 * 2
    assert all("lora_" in name for name in trained)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_adapter_is_used_in_the_precision_of_its_model_and_trained_in_fp32(
    dtype: torch.dtype, tiny_llama: TinyModel, tmp_path: Path
) -> None:
    save_adapter(_trained(tiny_llama), tmp_path / "adapter")
    for trainable, expected in ((False, dtype), (True, torch.float32)):
        base = tiny_llama.fresh_model().to(dtype)
        adapted = load_adapter(base, tmp_path / "adapter", trainable=trainable)
        assert {weight.dtype for name, weight in adapted.named_parameters() if "lora_" in name} == {expected}
        exact = _logits(load_adapter(tiny_llama.fresh_model(), tmp_path / "adapter"), tiny_llama)
        found = _logits(adapted.eval(), tiny_llama).float()
        assert float((found - exact).norm() / exact.norm()) <= 0.05


def test_the_seed_fixes_the_adapter_and_leaves_torch_alone(tiny_llama: TinyModel) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first, again, other = (
        attach_lora(tiny_llama.fresh_model(), rank=4, alpha=8, dropout=0.0, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.rand(3), expected)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
    assert torch.equal(first.get_parameter(name), again.get_parameter(name))
    assert not torch.equal(first.get_parameter(name), other.get_parameter(name))


def test_modules_that_do_not_exist_are_refused(tiny_llama: TinyModel) -> None:
    with pytest.raises(ModelError, match=r"lora\.target_modules.*nothing_like_it"):
        attach_lora(tiny_llama.fresh_model(), rank=4, alpha=8, dropout=0.0, target_modules=["nothing_like_it"], seed=1)


def test_saved_and_loaded_is_the_same_for_us_and_for_peft(tiny_llama: TinyModel, tmp_path: Path) -> None:
    from peft import PeftModel

    adapted = _trained(tiny_llama)
    save_adapter(adapted, tmp_path / "adapter", base_model="someone/base")
    assert sorted(os.listdir(tmp_path)) == ["adapter"]
    assert sorted(os.listdir(tmp_path / "adapter")) == ["adapter_config.json", "adapter_model.safetensors"]
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "someone/base"
    wanted = _logits(adapted, tiny_llama)
    assert not torch.equal(wanted, _logits(tiny_llama.model, tiny_llama))
    ours = load_adapter(tiny_llama.fresh_model(), tmp_path / "adapter")
    theirs = PeftModel.from_pretrained(tiny_llama.fresh_model(), tmp_path / "adapter")
    assert torch.equal(_logits(ours, tiny_llama), wanted)
    assert torch.equal(_logits(theirs, tiny_llama), wanted)
    assert not any(weight.requires_grad for weight in ours.parameters())
    again = load_adapter(tiny_llama.fresh_model(), tmp_path / "adapter", trainable=True)
    assert any(weight.requires_grad for weight in again.parameters())


def test_equal_adapters_have_equal_bytes(tiny_llama: TinyModel, tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_adapter(_trained(tiny_llama), tmp_path / name)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_saving_over_an_adapter_replaces_it(tiny_llama: TinyModel, tmp_path: Path) -> None:
    save_adapter(_trained(tiny_llama, seed=1), tmp_path / "adapter")
    adapted = _trained(tiny_llama, seed=2)
    save_adapter(adapted, tmp_path / "adapter")
    loaded = load_adapter(tiny_llama.fresh_model(), tmp_path / "adapter")
    assert torch.equal(_logits(loaded, tiny_llama), _logits(adapted, tiny_llama))


def test_no_space_left_leaves_the_old_adapter(
    tiny_llama: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import PeftModel

    adapted = _trained(tiny_llama)
    save_adapter(adapted, tmp_path / "adapter")
    before = (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes()

    def full(self: Any, folder: str, **options: Any) -> None:
        (Path(folder) / "adapter_model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(PeftModel, "save_pretrained", full)
    with pytest.raises(ModelError, match="No space left on device"):
        save_adapter(adapted, tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes() == before
    assert os.listdir(tmp_path) == ["adapter"]


def test_an_adapter_of_another_width_names_the_tensor(tiny_llama: TinyModel, tmp_path: Path) -> None:
    save_adapter(_trained(tiny_llama), tmp_path / "adapter", base_model="someone/base")
    wider = random_llama(tiny_llama.tokenizer, hidden=128)
    with pytest.raises(ModelError) as caught:
        load_adapter(wider, tmp_path / "adapter")
    for part in ("layers.0.mlp.down_proj.lora_A.weight", "(4, 128)", "(4, 256)", "someone/base"):
        assert part in str(caught.value)


@pytest.mark.parametrize("layers", [1, 3])
def test_an_adapter_of_another_depth_is_refused(layers: int, tiny_llama: TinyModel, tmp_path: Path) -> None:
    save_adapter(_trained(tiny_llama), tmp_path / "adapter")
    other = random_llama(tiny_llama.tokenizer, layers=layers)
    wanted = "does not have" if layers == 1 else r"has no .*layers\.2.*lacks 14 tensors"
    with pytest.raises(ModelError, match=wanted):
        load_adapter(other, tmp_path / "adapter")
    assert not any("lora" in name for name, _ in other.named_parameters())


def test_a_rank_that_contradicts_the_configuration_is_refused(tiny_llama: TinyModel, tmp_path: Path) -> None:
    save_adapter(_trained(tiny_llama), tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"r": 8}))
    with pytest.raises(ModelError, match="does not fit"):
        load_adapter(tiny_llama.fresh_model(), tmp_path / "adapter")


@pytest.mark.parametrize(
    "damage", ["no folder", "no weights", "no config", "weights cut", "config cut", "not an adapter"]
)
def test_a_damaged_adapter_is_one_clear_error(damage: str, tiny_llama: TinyModel, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    if damage != "no folder":
        save_adapter(_trained(tiny_llama), folder)
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    if damage == "no weights":
        weights.unlink()
    elif damage == "no config":
        config.unlink()
    elif damage == "weights cut":
        weights.write_bytes(weights.read_bytes()[:3000])
    elif damage == "config cut":
        config.write_text(config.read_text()[:30])
    elif damage == "not an adapter":
        config.write_text("[1, 2]")
    with pytest.raises(ModelError, match="adapter"):
        load_adapter(tiny_llama.fresh_model(), folder)


def test_an_adapter_goes_onto_a_quantised_base(tiny_llama: TinyModel, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from erc_llm.models.loading import load_base_model

    save_adapter(_trained(tiny_llama), tmp_path / "adapter")
    base = load_base_model(str(tiny_llama.folder), precision="fp32", device="cpu", quantisation="nf4").model
    plain = _logits(base, tiny_llama)
    assert not torch.equal(_logits(load_adapter(base, tmp_path / "adapter"), tiny_llama), plain)


def test_tensors_nobody_asked_for_are_refused(tiny_llama: TinyModel, tmp_path: Path) -> None:
    save_adapter(_trained(tiny_llama), tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.model.model.layers.9.mlp.up_proj.lora_A.weight"] = torch.zeros(4, 64)
    save_file(tensors, file)
    with pytest.raises(ModelError, match=r"layers\.9.*does not have"):
        load_adapter(tiny_llama.fresh_model(), tmp_path / "adapter")
