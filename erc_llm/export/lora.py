"""A saved LoRA adapter as plain matrices: the update of each weight, and what other programs cannot express.

Input: an adapter folder. Output: a `Lora`.
Does not depend on: base models, PEFT objects.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erc_llm.errors import ModelError
from erc_llm.models.adapters import CONFIG, LORA_TENSOR, WEIGHTS

if TYPE_CHECKING:
    import torch

_UNSUPPORTED = {  # field of adapter_config.json: (value that is fine, what another value means)
    "peft_type": ("LORA", "another method than LoRA"),
    "use_dora": (False, "DoRA"),
    "bias": ("none", "trained biases"),
    "modules_to_save": (None, "whole trained modules (modules_to_save)"),
    "rank_pattern": ({}, "ranks of single layers (rank_pattern)"),
    "alpha_pattern": ({}, "scales of single layers (alpha_pattern)"),
    "layer_replication": (None, "replicated layers"),
    "trainable_token_indices": (None, "trained token embeddings"),
    "target_parameters": (None, "adapted parameters (target_parameters)"),
    "alora_invocation_tokens": (None, "activated LoRA"),
    "use_qalora": (False, "QALoRA"),
    "fan_in_fan_out": (False, "transposed weights (fan_in_fan_out)"),
}


@dataclass(frozen=True)
class Lora:
    """A plain LoRA adapter: the update of a weight is `scale * B @ A`.

    Attributes:
        folder: Folder of the adapter.
        base: Hub id or folder of its base model, as PEFT stored it.
        rank: Inner dimension.
        alpha: PEFT's `lora_alpha`.
        rank_stabilised: Whether the scale is alpha / sqrt(rank) (rsLoRA) instead of alpha / rank.
        matrices: Module name, such as `model.layers.0.self_attn.q_proj`, to A (rank, in) and B (out, rank).
    """

    folder: Path
    base: str
    rank: int
    alpha: float
    rank_stabilised: bool
    matrices: Mapping[str, tuple[torch.Tensor, torch.Tensor]]

    @classmethod
    def none(cls, base: Path) -> Lora:
        """An adapter that updates nothing, to write the base model in a folder alone."""
        return cls(base, str(base), rank=1, alpha=1, rank_stabilised=False, matrices={})

    @property
    def scale(self) -> float:
        """Factor of B @ A."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)

    def add_to(self, module: str, weight: torch.Tensor) -> torch.Tensor:
        """A module's weight with its update, (out, in) in fp32; only a copy of the weight if it has none."""
        import torch

        full = weight.to(torch.float32, copy=True)
        if module in self.matrices:
            a, b = self.matrices[module]
            full.addmm_(b.float(), a.float(), alpha=self.scale)
        return full

    def __iter__(self) -> Iterator[str]:
        return iter(self.matrices)


def read_lora(folder: Path) -> Lora:
    """Read a plain LoRA adapter.

    Raises:
        ModelError: A file is missing or damaged, weights are a pickle, or the adapter has parts beyond plain LoRA,
            which other programs would drop silently.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights = folder / WEIGHTS
    if not weights.is_file() and any(folder.glob("*.bin")):
        raise ModelError(f"{folder}: found a pickle (.bin), which can run code when it is loaded; save it as {WEIGHTS}")
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text("utf-8"))
        tensors = load_file(weights)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{folder}: expected an adapter folder with {CONFIG} and {WEIGHTS}: {error}") from error
    if odd := beyond_lora(config):
        raise ModelError(f"{folder}: only plain LoRA can be exported, found {', '.join(odd)}")
    try:
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder / CONFIG}: states no r and lora_alpha; the file is damaged") from error
    return Lora(
        folder=folder,
        base=str(config.get("base_model_name_or_path")),
        rank=rank,
        alpha=alpha,
        rank_stabilised=bool(config.get("use_rslora", False)),
        matrices=_pairs(folder, tensors, rank),
    )


def beyond_lora(config: Mapping[str, Any]) -> list[str]:
    """What an adapter has beyond plain LoRA, in words.

    Args:
        config: The fields of its `adapter_config.json`.
    """
    return [words for name, (fine, words) in _UNSUPPORTED.items() if (config.get(name) or fine) != fine]


def _pairs(
    folder: Path, tensors: Mapping[str, torch.Tensor], rank: int
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    halves: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        match = LORA_TENSOR.fullmatch(name)
        if match is None:
            raise ModelError(f"{folder}: {name} is no matrix of a plain LoRA adapter")
        halves.setdefault(match["module"], {})[match["matrix"]] = tensor
    for module, found in halves.items():
        if found.keys() != {"A", "B"}:
            raise ModelError(f"{folder}: {module} has lora_{min(found)} only; the file is damaged")
        if not found["A"].shape[0] == found["B"].shape[-1] == rank:
            raise ModelError(f"{folder}: {module} has rank {found['A'].shape[0]}, its {CONFIG} states {rank}")
    if not halves:
        raise ModelError(f"{folder}: {WEIGHTS} holds no matrices")
    return {module: (found["A"], found["B"]) for module, found in halves.items()}
