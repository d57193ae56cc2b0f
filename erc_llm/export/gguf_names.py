"""GGUF names and layouts: which architectures can be written, and what llama.cpp calls and expects of their tensors.

Input: a Hugging Face configuration and tensor names. Output: GGUF names, and rows in llama.cpp's order.
Does not depend on: files, adapters.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from erc_llm.errors import ModelError

FloatArray = npt.NDArray[np.float32]

# transformers' `model_type` to llama.cpp's architecture. llama.cpp has Mistral's layers under llama.
_ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
}


@dataclass(frozen=True)
class GgufLayout:
    """How one model's tensors are called and stored in GGUF.

    Attributes:
        arch: llama.cpp's name of the architecture.
        config: The Hugging Face configuration, as a dictionary.
        names: Maps Hugging Face tensor names to GGUF names.
    """

    arch: str
    config: dict[str, Any]
    names: Any

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return int(self.config["num_attention_heads"])

    @property
    def kv_heads(self) -> int:
        """Number of heads of keys and values."""
        return int(self.config.get("num_key_value_heads") or self.heads)

    @property
    def head_size(self) -> int:
        """Width of a head."""
        return int(self.config.get("head_dim") or self.config["hidden_size"] // self.heads)

    def name(self, tensor: str) -> str:
        """GGUF name of a tensor.

        Raises:
            ModelError: The architecture has no such tensor.
        """
        found = self.names.get_name(tensor, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise ModelError(f"{tensor}: has no place in a GGUF file of the architecture {self.arch}")
        return str(found)

    def rows(self, tensor: str, values: FloatArray) -> FloatArray:
        """The tensor with its rows in llama.cpp's order.

        llama.cpp's llama rotates pairs of neighbouring values of a query or key, Hugging Face's the first half with the
        second; so the rows of each head are interleaved (`permute` in llama.cpp's convert_hf_to_gguf.py). The same
        applies to the rows of a `lora_B`.
        """
        if self.arch != "llama":
            return values
        for part, heads in ((".q_proj.", self.heads), (".k_proj.", self.kv_heads)):
            if part in tensor:
                halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
                return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
        return values

    def hugging_face_rows(self, tensor: str, values: FloatArray) -> FloatArray:
        """The inverse of `rows`."""
        if self.arch != "llama":
            return values
        for part, heads in ((".q_proj.", self.heads), (".k_proj.", self.kv_heads)):
            if part in tensor:
                pairs = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
                return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(values.shape))
        return values


def gguf_layout(config: dict[str, Any], source: Path) -> GgufLayout:
    """The layout of a model.

    Args:
        config: Its Hugging Face configuration.
        source: Its folder, for messages.

    Raises:
        ModelError: The architecture is not one that can be written.
    """
    kind = str(config.get("model_type"))
    if kind not in _ARCHITECTURES:
        raise ModelError(
            f"{source}: its architecture is '{kind}'; GGUF export knows {', '.join(_ARCHITECTURES)}. Export it with "
            "--format merged, and convert that folder with llama.cpp's convert_hf_to_gguf.py"
        )
    for field in ("rope_scaling", "rope_parameters"):  # transformers 5 writes the latter
        if _scaled(config.get(field) or {}):
            raise ModelError(
                f"{source}: its positions are scaled ({field}={config[field]}), which GGUF export does not write; "
                "export it with --format merged, and convert that folder with llama.cpp's convert_hf_to_gguf.py"
            )
    arch = _ARCHITECTURES[kind]
    names = gguf.get_tensor_name_map(arch, int(config["num_hidden_layers"]))
    return GgufLayout(gguf.MODEL_ARCH_NAMES[arch], config, names)


def _scaled(scaling: dict[str, Any]) -> bool:
    return str(scaling.get("rope_type", scaling.get("type", "default"))) != "default"


def read_config(base: Path) -> dict[str, Any]:
    """The Hugging Face configuration of a model folder, with the defaults of its class for fields left out.

    Raises:
        ModelError: It is missing or damaged.
    """
    from transformers import AutoConfig

    try:
        found: dict[str, Any] = AutoConfig.from_pretrained(base, local_files_only=True).to_dict()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{base / 'config.json'}: missing or damaged: {error}") from error
    return found
