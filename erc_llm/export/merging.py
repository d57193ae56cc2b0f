"""Merging: writes a base model with an adapter's update added to its weights, in 16 bits, shard by shard.

A base that was used in NF4 was another function in training than its 16-bit original. The update can be added to
either: to the original weights, or to what NF4 makes of them.

Input: a folder of base weights and an adapter. Output: a folder that plain transformers loads.
Does not depend on: prompts, runs; at no time is more than one shard in memory.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erc_llm.errors import ModelError
from erc_llm.export.lora import Lora
from erc_llm.files import write_text
from erc_llm.models.hashes import weight_files
from erc_llm.models.loading import TOKENIZER_FILES
from erc_llm.models.tensor_files import save_tensors

if TYPE_CHECKING:
    import torch

SHARD_BYTES = 2 * 1024**3  # most bytes of a written shard; the memory that merging needs follows it
INDEX = "model.safetensors.index.json"


def write_merged(
    base: Path,
    lora: Lora,
    target: Path,
    *,
    dtype: torch.dtype,
    nf4: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the merged model into an empty folder.

    Args:
        base: Folder of the base model: safetensors, configuration, tokenizer.
        lora: The adapter.
        target: The folder.
        dtype: Dtype of the written weights, torch.bfloat16 or torch.float16.
        nf4: The update is added to what NF4 makes of the base's weights in this dtype, that of the run's computation;
            None: to the weights themselves.
        shard_bytes: Most bytes of a shard.

    Raises:
        ModelError: The base is not in safetensors, or the adapter does not fit it.
        OSError: The disk is full, or the folder cannot be written.
    """
    shards: list[dict[str, str]] = []
    total = 0

    def save(tensors: dict[str, torch.Tensor]) -> None:
        name = f"model-{len(shards) + 1:05d}.safetensors"
        save_tensors(tensors, target / name)
        shards.append(dict.fromkeys(tensors, name))

    held: dict[str, torch.Tensor] = {}
    size = 0
    for name, tensor in merged_tensors(base, lora, dtype, nf4):
        new = tensor.numel() * tensor.element_size()
        if held and size + new > shard_bytes:
            save(held)
            held, size = {}, 0
        held[name] = tensor
        size, total = size + new, total + new
    save(held)
    _name_shards(target, shards, total)
    _write_config(base, target, dtype)
    copy_files(base, target, ("generation_config.json", *TOKENIZER_FILES))


def merged_tensors(
    base: Path, lora: Lora, dtype: torch.dtype, nf4: torch.dtype | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and merged tensor of each of the base's tensors, one at a time. Arguments and errors as `write_merged`."""
    from safetensors import SafetensorError, safe_open

    linear = check_fits(base, lora)
    for file in weight_files(base):
        try:
            with safe_open(file, framework="pt") as stored:
                for name in _tensors(stored):
                    module = name.removesuffix(".weight")
                    tensor = stored.get_tensor(name)
                    if nf4 is not None and module in linear:
                        tensor = nf4_round_trip(tensor, nf4)
                    merged = lora.add_to(module, tensor) if module in lora.matrices else tensor
                    yield name, merged.to(dtype).contiguous()
        except SafetensorError as error:
            raise ModelError(f"{file}: is damaged: {error}") from error


def nf4_round_trip(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What NF4 with double quantisation makes of a weight, as QLoRA loads it: (out, in) in `dtype`.

    Raises:
        ModelError: bitsandbytes is not installed.
    """
    from importlib.util import find_spec

    if find_spec("bitsandbytes") is None:
        raise ModelError("the NF4 base needs bitsandbytes, which is not installed: pip install 'erc-llm[qlora]'")
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(weight.to(dtype).contiguous(), quant_type="nf4", compress_statistics=True)
    restored: torch.Tensor = dequantize_4bit(packed, state)
    return restored.to(dtype)


def linear_modules(base: Path) -> set[str]:
    """Names of the modules that QLoRA quantises and LoRA adapts: all linear layers but the head."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base, local_files_only=True))
    head = model.get_output_embeddings()
    return {name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head}


def check_fits(base: Path, lora: Lora) -> set[str]:
    """Check that an adapter's updates are for weights that a base model has; returns `linear_modules`.

    Raises:
        ModelError: One is for another module than an inner linear layer, or has another shape.
    """
    linear, shapes = linear_modules(base), dict(tensor_shapes(base))
    for module, (a, b) in lora.matrices.items():
        if module not in linear:
            raise ModelError(
                f"{lora.folder}: adapts {module}, which is no inner linear layer of the base model in {base}; heads "
                "and embeddings may be tied to another weight, so updates of them are not exported"
            )
        expected, found = (b.shape[0], a.shape[1]), shapes.get(f"{module}.weight")
        if found != expected:
            raise ModelError(
                f"{lora.folder}: its update of {module} has shape {expected}, the base model's weight {found}; it was "
                f"trained on {lora.base}"
            )
    return linear


def _name_shards(target: Path, shards: list[dict[str, str]], total: int) -> None:
    """Rename the shards as transformers expects, and write their index; a single one needs none."""
    if len(shards) == 1:
        (target / next(iter(shards[0].values()))).rename(target / "model.safetensors")
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        final = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        (target / next(iter(shard.values()))).rename(target / final)
        weight_map |= dict.fromkeys(shard, final)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_text(target / INDEX, json.dumps(index, indent=2) + "\n", ModelError)


def copy_files(base: Path, target: Path, patterns: Sequence[str] = TOKENIZER_FILES) -> None:
    """Copy the files of a model folder that have these names, by default those of its tokenizer."""
    for pattern in patterns:
        for file in base.glob(pattern):
            shutil.copyfile(file, target / file.name)


def _write_config(base: Path, target: Path, dtype: torch.dtype) -> None:
    config = json.loads((base / "config.json").read_text("utf-8"))
    for leftover in ("quantization_config", "_name_or_path", "torch_dtype"):
        config.pop(leftover, None)
    config["dtype"] = str(dtype).removeprefix("torch.")
    write_text(target / "config.json", json.dumps(config, indent=2) + "\n", ModelError)


def tensor_shapes(base: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of each tensor of a model folder, in the order of `merged_tensors`; no weight is read."""
    from safetensors import SafetensorError, safe_open

    for file in weight_files(base):
        try:
            with safe_open(file, framework="pt") as stored:
                for name in _tensors(stored):
                    yield name, tuple(stored.get_slice(name).get_shape())
        except SafetensorError as error:
            raise ModelError(f"{file}: is damaged: {error}") from error


def _tensors(stored: Any) -> Iterator[str]:
    """Names of a file's weights. LLaMA-2's files also have a buffer that is computed, which no program reads."""
    return (name for name in stored.keys() if not name.endswith(".rotary_emb.inv_freq"))  # noqa: SIM118, it is no dict
