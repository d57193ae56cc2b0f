"""GGUF adapter: writes LoRA matrices alone, for llama.cpp's `--lora`, and reads them back as PEFT's.

llama.cpp scales an adapter by alpha / rank and reads no other rule, so the written alpha is the one that gives the
adapter's own scale: for rsLoRA, alpha * sqrt(rank).

Input: an adapter and its base model's configuration. Output: a GGUF file, or an adapter folder.
Does not depend on: base weights, prompts, runs.
"""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np

from erc_llm.errors import ModelError
from erc_llm.export.gguf_names import gguf_layout, read_config
from erc_llm.export.lora import Lora
from erc_llm.export.merging import check_fits, linear_modules
from erc_llm.models.adapters import CONFIG, WEIGHTS


def write_gguf_lora(base: Path, lora: Lora, target: Path, *, name: str) -> None:
    """Write an adapter as a GGUF file, in fp32.

    Args:
        base: Folder of the base model; its weights are not read.
        lora: The adapter.
        target: The file.
        name: Name of the adapter, for display.

    Raises:
        ModelError: The architecture cannot be written, or the adapter does not fit the base.
        OSError: The disk is full, or the file cannot be written.
    """
    layout = gguf_layout(read_config(base), base)
    writer = gguf.GGUFWriter(target, layout.arch)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_name(name)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, lora.scale * lora.rank)
    check_fits(base, lora)
    for module in sorted(lora):
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


def read_gguf_lora(file: Path, base: Path, target: Path) -> None:
    """Write a GGUF adapter as PEFT reads it, into an empty folder.

    Args:
        file: The GGUF file.
        base: Folder of the base model; only its configuration is read.
        target: The folder.

    Raises:
        ModelError: The file is damaged, is no adapter, or does not fit the base model.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    layout = gguf_layout(read_config(base), base)
    try:
        found = gguf.GGUFReader(file)
        alpha = float(found.fields[gguf.Keys.Adapter.LORA_ALPHA].contents())
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise ModelError(f"{file}: damaged, or no adapter for llama.cpp: {error}") from error
    modules = {layout.name(f"{module}.weight"): module for module in linear_modules(base)}
    tensors: dict[str, torch.Tensor] = {}
    for tensor in found.tensors:
        stem, _, half = tensor.name.rpartition(".lora_")
        if stem not in modules or half not in ("a", "b"):
            raise ModelError(f"{file}: {tensor.name} has no place in the base model in {base}")
        module, values = modules[stem], np.array(tensor.data, dtype=np.float32)
        if half == "b":
            values = layout.hugging_face_rows(f"{module}.weight", values)
        tensors[f"base_model.model.{module}.lora_{half.upper()}.weight"] = torch.from_numpy(values)
    ranks = {values.shape[0] for name, values in tensors.items() if ".lora_A." in name}
    if len(ranks) != 1:
        raise ModelError(f"{file}: expected one rank for all its matrices, found {sorted(ranks) or 'no matrices'}")
    try:
        save_file(tensors, target / WEIGHTS, metadata={"format": "pt"})
    except SafetensorError as error:
        raise ModelError(f"{target}: cannot be written: {error}") from error
    names = sorted({name.split(".lora_")[0].removeprefix("base_model.model.") for name in tensors})
    stated = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": ranks.pop(),
        "lora_alpha": alpha,
        "target_modules": names,
    }
    (target / CONFIG).write_text(json.dumps(stated | {"bias": "none", "inference_mode": True}, indent=2), "utf-8")
