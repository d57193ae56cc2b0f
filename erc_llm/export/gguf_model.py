"""GGUF export: writes a merged model as one file for llama.cpp and Ollama.

Weights are merged in fp32 and stored as asked for, one tensor at a time; vectors stay in fp32.

Input: a folder of base weights and an adapter. Output: a GGUF file.
Does not depend on: prompts, runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import gguf
import numpy as np

from erc_llm.errors import ModelError
from erc_llm.export.gguf_names import FloatArray, GgufLayout, gguf_layout, read_config
from erc_llm.export.gguf_vocabulary import add_vocabulary
from erc_llm.export.lora import Lora
from erc_llm.export.merging import merged_tensors, tensor_shapes

if TYPE_CHECKING:
    import torch

Stored = Literal["f16", "bf16", "q8_0"]
_TYPES = {
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}


def write_gguf(
    base: Path, lora: Lora, target: Path, *, name: str, stored: Stored, nf4: torch.dtype | None = None
) -> None:
    """Write the merged model as a GGUF file.

    Args:
        base: Folder of the base model.
        lora: The adapter.
        target: The file.
        name: Name of the model, for display.
        stored: Type of the matrices.
        nf4: As for `write_merged`.

    Raises:
        ModelError: The architecture or tokenizer cannot be written, or the adapter does not fit the base.
        OSError: The disk is full, or the file cannot be written.
    """
    import torch

    config = read_config(base)
    layout = gguf_layout(config, base)
    writer = gguf.GGUFWriter(target, layout.arch)
    _add_facts(writer, layout, name, stored)
    add_vocabulary(writer, base, int(config["vocab_size"]))
    for tensor, shape in tensor_shapes(base):
        kind = _stored_as(shape, stored)
        traits = gguf.quant_shape_to_byte_shape(shape, kind) if kind is _Q8 or kind is _BF16 else shape
        numbers = {_F32: np.float32, _F16: np.float16}.get(kind, np.uint8)
        size = int(np.prod(traits)) * np.dtype(numbers).itemsize
        writer.add_tensor_info(layout.name(tensor), traits, np.dtype(numbers), size, raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor, values in merged_tensors(base, lora, torch.float32, nf4):
            rows = layout.rows(tensor, values.numpy())
            writer.write_tensor_data(_encode(rows, stored))
    finally:
        writer.close()


_F32, _F16 = gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16
_BF16, _Q8 = gguf.GGMLQuantizationType.BF16, gguf.GGMLQuantizationType.Q8_0


def _stored_as(shape: tuple[int, ...], stored: Stored) -> gguf.GGMLQuantizationType:
    """Type of a tensor: vectors in fp32; rows that blocks of Q8_0 do not divide in f16."""
    if len(shape) < 2:
        return _F32
    kind = _TYPES[stored][0]
    block = gguf.GGML_QUANT_SIZES[kind][0]
    return _F16 if shape[-1] % block else kind


def _encode(values: FloatArray, stored: Stored) -> np.ndarray:
    encoded: np.ndarray = gguf.quantize(values, _stored_as(values.shape, stored))
    return encoded


def _add_facts(writer: Any, layout: GgufLayout, name: str, stored: Stored) -> None:
    config = layout.config
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_file_type(_TYPES[stored][1])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(layout.heads)
    writer.add_head_count_kv(layout.kv_heads)
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_key_length(layout.head_size)
    writer.add_value_length(layout.head_size)
    writer.add_rope_dimension_count(layout.head_size)
    writer.add_rope_freq_base(_rope_theta(config))
    writer.add_vocab_size(int(config["vocab_size"]))


def _rope_theta(config: dict[str, Any]) -> float:
    """Base of the rotary positions; transformers 5 stores it under `rope_parameters`."""
    nested = config.get("rope_parameters") or {}
    found = config.get("rope_theta", nested.get("rope_theta"))
    if found is None:
        raise ModelError("config.json: states no rope_theta, the base of the rotary positions")
    return float(found)
