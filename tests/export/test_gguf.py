"""GGUF files, read back by transformers' own reader: the same logits, tokens and special tokens."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from erc_llm.errors import ModelError
from erc_llm.export.gguf_lora import write_gguf_lora
from erc_llm.export.gguf_model import Stored, write_gguf
from erc_llm.export.gguf_names import gguf_layout
from erc_llm.export.lora import read_lora
from tests.export.adapters_for_tests import adapted, logits
from tests.tiny_models import TinyModel, random_llama, save_tiny


def read_back(file: Path) -> tuple[torch.nn.Module, object]:
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


@pytest.mark.parametrize(("stored", "most"), [("f16", 0.05), ("bf16", 0.3), ("q8_0", 1.0)])
def test_a_gguf_file_computes_what_base_and_adapter_do(
    stored: Stored, most: float, tiny_llama: TinyModel, tmp_path: Path
) -> None:
    model = adapted(tiny_llama, tmp_path / "adapter")
    file = tmp_path / "model.gguf"
    write_gguf(tiny_llama.folder, read_lora(tmp_path / "adapter"), file, name="tiny", stored=stored)
    loaded, tokenizer = read_back(file)
    assert (logits(loaded) - logits(model)).abs().max() < most
    text = "Mara: It is <tool_call> freezing <|im_end|>\n"
    assert tokenizer(text)["input_ids"] == tiny_llama.tokenizer(text)["input_ids"]  # type: ignore[operator]
    fields = gguf.GGUFReader(file).fields
    assert fields["tokenizer.ggml.eos_token_id"].contents() == tiny_llama.tokenizer.eos_token_id
    assert fields["tokenizer.chat_template"].contents() == tiny_llama.tokenizer.chat_template
    assert fields["general.name"].contents() == "tiny"


def test_a_head_of_its_own_is_written(tiny_llama: TinyModel, tmp_path: Path) -> None:
    untied = save_tiny(tmp_path / "base", tiny_llama.tokenizer, random_llama(tiny_llama.tokenizer, tied=False))
    model = adapted(untied, tmp_path / "adapter")
    write_gguf(untied.folder, read_lora(tmp_path / "adapter"), tmp_path / "m.gguf", name="tiny", stored="f16")
    assert (logits(read_back(tmp_path / "m.gguf")[0]) - logits(model)).abs().max() < 0.05


@pytest.mark.parametrize("family", ["Qwen2", "Mistral"])
def test_other_architectures_are_read_back(family: str, tiny_llama: TinyModel, tmp_path: Path) -> None:
    """Qwen2 has biases on q, k and v, and its rows keep their order; Mistral is written as a Llama."""
    shape = tiny_llama.model.config.to_dict()
    for own in ("architectures", "model_type", "attention_bias", "mlp_bias", "pretraining_tp", "rope_parameters"):
        shape.pop(own, None)
    config = getattr(transformers, f"{family}Config")(**shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}ForCausalLM")(config).float().eval()
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.data.normal_()
    other = save_tiny(tmp_path / "base", tiny_llama.tokenizer, model)
    trained = adapted(other, tmp_path / "adapter")
    write_gguf(other.folder, read_lora(tmp_path / "adapter"), tmp_path / "m.gguf", name="tiny", stored="f16")
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    assert fields["general.architecture"].contents() == ("qwen2" if family == "Qwen2" else "llama")
    assert (logits(read_back(tmp_path / "m.gguf")[0]) - logits(trained)).abs().max() < 0.05


def test_llama_2s_vocabulary_keeps_its_order_of_merges(tiny_llama2_style: TinyModel, tmp_path: Path) -> None:
    adapted(tiny_llama2_style, tmp_path / "adapter")
    file = tmp_path / "m.gguf"
    write_gguf(tiny_llama2_style.folder, read_lora(tmp_path / "adapter"), file, name="tiny", stored="f16")
    fields = gguf.GGUFReader(file).fields
    assert fields["tokenizer.ggml.model"].contents() == "llama"
    tokens, scores = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "scores"))
    vocabulary = tiny_llama2_style.tokenizer.get_vocab()
    assert [vocabulary[token] for token in tokens] == list(range(len(tokens)))
    merges = json.loads((tiny_llama2_style.folder / "tokenizer.json").read_text())["model"]["merges"]
    merged = list(dict.fromkeys("".join(pair) for pair in merges))
    assert [scores[vocabulary[token]] for token in merged] == sorted(
        (scores[vocabulary[token]] for token in merged), reverse=True
    )
    kinds = fields["tokenizer.ggml.token_type"].contents()
    assert [kinds[vocabulary[t]] for t in ("<unk>", "<s>", "<0x0A>", merged[0])] == [2, 3, 6, 1]


@pytest.mark.parametrize("stabilised", [False, True])
def test_an_adapter_alone_keeps_its_scale_under_llama_cpps_rule(
    stabilised: bool, tiny_llama: TinyModel, tmp_path: Path
) -> None:
    """llama.cpp adds alpha / rank * B A to a weight in its own order of rows."""
    adapted(tiny_llama, tmp_path / "adapter", use_rslora=stabilised)
    lora = read_lora(tmp_path / "adapter")
    write_gguf_lora(tiny_llama.folder, lora, tmp_path / "lora.gguf", name="tiny")
    found = gguf.GGUFReader(tmp_path / "lora.gguf")
    tensors = {tensor.name: np.array(tensor.data) for tensor in found.tensors}
    alpha = found.fields["adapter.lora.alpha"].contents()
    assert found.fields["general.type"].contents() == "adapter"
    layout = gguf_layout(json.loads((tiny_llama.folder / "config.json").read_text()), tiny_llama.folder)
    for module in lora:
        weight = dict(tiny_llama.model.named_parameters())[f"{module}.weight"].detach()
        stem = layout.name(f"{module}.weight")
        a, b = tensors[f"{stem}.lora_a"], tensors[f"{stem}.lora_b"]
        update = alpha / a.shape[0] * b @ a
        before, after = (layout.rows(f"{module}.weight", w.numpy()) for w in (weight, lora.add_to(module, weight)))
        np.testing.assert_allclose(before + update, after, rtol=0, atol=1e-5)


def test_what_llama_cpp_could_not_read_is_refused(tiny_llama: TinyModel, tmp_path: Path) -> None:
    config = json.loads((tiny_llama.folder / "config.json").read_text())
    with pytest.raises(ModelError, match="'gpt_neox'; GGUF export knows llama, mistral, qwen2"):
        gguf_layout(config | {"model_type": "gpt_neox"}, tiny_llama.folder)
    for field in ("rope_scaling", "rope_parameters"):
        with pytest.raises(ModelError, match=f"scaled .{field}="):
            gguf_layout(config | {field: {"rope_type": "yarn", "factor": 4.0}}, tiny_llama.folder)
    assert gguf_layout(config | {"model_type": "qwen2"}, tiny_llama.folder).arch == "qwen2"
    with pytest.raises(ModelError, match="no place"):
        gguf_layout(config, tiny_llama.folder).name("model.layers.0.self_attn.rotary.inv_freq")
