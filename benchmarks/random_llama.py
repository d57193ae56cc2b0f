"""Random models of a real model's shape: bf16 files of a Llama, a tokenizer like LLaMA-2's, and an adapter.

Weights are written file by file, so a 7B model needs the memory of one file. Matrices of one shape are equal in all
layers, which saves most of the time that drawing takes.

Input: a shape. Output: folders that transformers and PEFT load.
Does not depend on: what the weights mean.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import Result

RANK = 16
_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# `[INST]` and `<<SYS>>` are plain text to LLaMA-2's tokenizer; its base model has no template.
_SPECIAL = ("<unk>", "<s>", "</s>")


@dataclass(frozen=True, slots=True)
class Shape:
    """Shape of a Llama with one key head per query head, as LLaMA-2-7B has.

    Attributes:
        hidden: Width of the residual stream.
        inner: Width inside a feed-forward block.
        layers: Number of layers.
        heads: Number of attention heads.
        vocabulary: Number of tokens.
        file_gb: GB of a file of weights.
    """

    hidden: int
    inner: int
    layers: int
    heads: int
    vocabulary: int
    file_gb: float


SHAPES = {
    "llama2-7b": Shape(4096, 11008, 32, 32, 32000, 9.98),  # as meta-llama/Llama-2-7b-hf
    "four-layers": Shape(256, 688, 4, 4, 2000, 0.005),
    "tiny": Shape(64, 128, 4, 4, 512, 0.0002),
}


def write_base(shape: Shape, folder: Path, texts: Sequence[str] = ()) -> Result:
    """Write a random base model; with texts also a tokenizer that was trained on them. Returns its sizes in GB."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    folder.mkdir()
    vocabulary = shape.vocabulary
    if texts:
        vocabulary = max(vocabulary, _write_tokenizer(folder, texts, vocabulary))
    LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        vocab_size=vocabulary,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        dtype=torch.bfloat16,
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)
    torch.manual_seed(0)
    sizes: list[int] = []
    held: dict[str, Any] = {}

    def save() -> None:
        file = folder / f"model-{len(sizes) + 1:05d}.safetensors"
        save_file(held, file, metadata={"format": "pt"})
        sizes.append(file.stat().st_size)
        held.clear()

    size = 0
    names: dict[str, str] = {}
    drawn: dict[tuple[int, int], torch.Tensor] = {}
    for name, rows, columns in _weights(shape, vocabulary):
        if (rows, columns) not in drawn:
            matrix = torch.randn(rows, columns).mul_(0.02) if columns else torch.ones(rows)
            drawn[rows, columns] = matrix.bfloat16()
        held[name] = drawn[rows, columns].clone()  # a file holds no tensor twice
        names[name] = f"model-{len(sizes) + 1:05d}.safetensors"
        size += held[name].numel() * 2
        if size > shape.file_gb * 1e9:
            save()
            size = 0
    if held:
        save()
    index = {"metadata": {"total_size": sum(sizes)}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    return {"base_gb": sum(sizes) / 1e9, "largest_file_gb": max(sizes) / 1e9, "files": len(sizes)}


def write_adapter(shape: Shape, folder: Path) -> None:
    """Write a random adapter on all linear layers of a base model."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    torch.manual_seed(1)
    lora: dict[str, Any] = {}
    for name, rows, columns in _weights(shape, shape.vocabulary):
        if name.split(".")[-2] in _LINEAR:
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            lora[f"{stem}.lora_A.weight"] = torch.randn(RANK, columns) * 0.02
            lora[f"{stem}.lora_B.weight"] = torch.randn(rows, RANK) * 0.02
    save_file(lora, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    stated = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "base_model_name_or_path": "random"}
    (folder / "adapter_config.json").write_text(json.dumps(stated), "utf-8")


def _weights(shape: Shape, vocabulary: int) -> Iterator[tuple[str, int, int]]:
    """Name, rows and columns of each weight; 0 columns: a vector."""
    yield "model.embed_tokens.weight", vocabulary, shape.hidden
    for layer in range(shape.layers):
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"model.layers.{layer}.self_attn.{part}.weight", shape.hidden, shape.hidden
        for part, rows, columns in (
            ("gate", shape.inner, shape.hidden),
            ("up", shape.inner, shape.hidden),
            ("down", shape.hidden, shape.inner),
        ):
            yield f"model.layers.{layer}.mlp.{part}_proj.weight", rows, columns
        for part in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{layer}.{part}.weight", shape.hidden, 0
    yield "model.norm.weight", shape.hidden, 0
    yield "lm_head.weight", vocabulary, shape.hidden


def _write_tokenizer(folder: Path, texts: Sequence[str], size: int) -> int:
    """SentencePiece's way as LLaMA-2 has it: `▁` for spaces, bytes for unknown characters, `<s>` before each text.

    Ids beyond what the texts give are filled with tokens that never occur. Returns the number of tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    scratch = Tokenizer(models.BPE())
    scratch.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=True)
    fixed = [*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    room = max(size - len(fixed), 200)
    scratch.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=room, show_progress=False))
    learnt = json.loads(scratch.to_str())["model"]
    pieces = [*fixed, *sorted(learnt["vocab"], key=learnt["vocab"].__getitem__)]
    pieces += [f"<unused{number}>" for number in range(size - len(pieces))]
    merges = [(left, right) for left, right in learnt["merges"]]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    backend = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(list(_SPECIAL))
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )
    tokenizer.save_pretrained(folder)
    return len(tokenizer)
