"""GGUF adapter: writes LoRA matrices alone, for llama.cpp's `--lora`.

llama.cpp scales an adapter by alpha / rank and reads no other rule, so the written alpha is the one that gives the
adapter's own scale: for rsLoRA, alpha * sqrt(rank).

Input: an adapter and its base model's configuration. Output: a GGUF file.
Does not depend on: base weights, prompts, runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from erc_llm.errors import ModelError
from erc_llm.export.gguf_names import gguf_layout
from erc_llm.export.lora import Lora


def write_gguf_lora(base: Path, lora: Lora, target: Path, *, name: str) -> None:
    """Write an adapter as a GGUF file, in fp32.

    Args:
        base: Folder of the base model; only its configuration is read.
        lora: The adapter.
        target: The file.
        name: Name of the adapter, for display.

    Raises:
        ModelError: The architecture cannot be written, or the adapter is on an embedding or head.
        OSError: The disk is full, or the file cannot be written.
    """
    config: dict[str, Any] = json.loads((base / "config.json").read_text("utf-8"))
    layout = gguf_layout(config, base)
    writer = gguf.GGUFWriter(target, layout.arch)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_name(name)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, lora.scale * lora.rank)
    for module in sorted(lora):
        if module.rpartition(".")[2] in ("lm_head", "embed_tokens"):
            raise ModelError(
                f"{lora.folder}: adapts {module}, which may be tied to another weight; llama.cpp cannot adapt it. "
                "Export it with --format merged"
            )
        a, b = (matrix.float().numpy() for matrix in lora.matrices[module])
        stem = layout.name(f"{module}.weight")
        writer.add_tensor(f"{stem}.lora_a", np.ascontiguousarray(a))
        writer.add_tensor(f"{stem}.lora_b", layout.rows(f"{module}.weight", np.ascontiguousarray(b)))
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
