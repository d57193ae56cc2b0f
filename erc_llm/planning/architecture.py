"""Architectures: the shape of a causal language model, and its exact number of parameters.

Input: the content of a `config.json`. Output: an `Architecture`, with the linear layers of one decoder layer.
Does not depend on: torch, transformers, where the file came from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from erc_llm.errors import ConfigError, ModelError

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
_STORED_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer of a decoder layer.

    Attributes:
        name: Its name inside the decoder layer, such as `self_attn.q_proj`.
        inputs: Width of its input.
        outputs: Width of its output.
        bias: Whether it has a bias.
    """

    name: str
    inputs: int
    outputs: int
    bias: bool = False

    @property
    def weights(self) -> int:
        """Number of weights, without the bias."""
        return self.inputs * self.outputs


@dataclass(frozen=True, slots=True)
class Architecture:
    """Shape of a decoder-only language model with gated MLPs.

    Attributes:
        model_type: `model_type` of transformers; one of `MODEL_TYPES`.
        layers: Number of decoder layers.
        hidden: Width of the residual stream.
        inner: Width inside the MLP.
        heads: Number of attention heads.
        kv_heads: Number of key and value heads.
        head_dim: Width of one head.
        vocabulary: Number of tokens in the vocabulary.
        tied: Whether the output layer shares its weights with the input embeddings.
        attention_bias: Whether the query, key and value projections have a bias.
        output_bias: Whether the attention's output projection has a bias.
        mlp_bias: Whether the linear layers of the MLP have a bias.
        head_norm: Whether queries and keys are normalised for each head (Qwen3).
        positions: Most positions of the model; None if its configuration does not state them.
        stored_bytes: Bytes of a weight as the hub stores it.
    """

    model_type: str
    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    head_norm: bool = False
    positions: int | None = None
    stored_bytes: int = 2

    @property
    def query_width(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of all key heads together, and of all value heads."""
        return self.kv_heads * self.head_dim

    @property
    def linears(self) -> tuple[Linear, ...]:
        """The linear layers of one decoder layer."""
        hidden, query, kv, inner = self.hidden, self.query_width, self.kv_width, self.inner
        return (
            Linear("self_attn.q_proj", hidden, query, self.attention_bias),
            Linear("self_attn.k_proj", hidden, kv, self.attention_bias),
            Linear("self_attn.v_proj", hidden, kv, self.attention_bias),
            Linear("self_attn.o_proj", query, hidden, self.output_bias),
            Linear("mlp.gate_proj", hidden, inner, self.mlp_bias),
            Linear("mlp.up_proj", hidden, inner, self.mlp_bias),
            Linear("mlp.down_proj", inner, hidden, self.mlp_bias),
        )

    @property
    def linear_weights(self) -> int:
        """Number of weights in the linear layers of all decoder layers: what quantisation makes smaller."""
        return self.layers * sum(linear.weights for linear in self.linears)

    @property
    def embedding_weights(self) -> int:
        """Number of weights in the input embeddings."""
        return self.vocabulary * self.hidden

    @property
    def head_weights(self) -> int:
        """Number of weights of the output layer that it does not share with the embeddings."""
        return 0 if self.tied else self.embedding_weights

    @property
    def small_weights(self) -> int:
        """Number of weights of norms and biases."""
        biases = sum(linear.outputs for linear in self.linears if linear.bias)
        norms = 2 * self.hidden + (2 * self.head_dim if self.head_norm else 0)
        return self.layers * (biases + norms) + self.hidden

    @property
    def parameters(self) -> int:
        """Number of parameters, a shared output layer counted once."""
        return self.linear_weights + self.embedding_weights + self.head_weights + self.small_weights


def parse_architecture(config: Mapping[str, Any], source: str) -> Architecture:
    """The architecture that a `config.json` describes.

    Args:
        config: Its content. Missing fields have the defaults of transformers.
        source: Where it came from, for messages.

    Raises:
        ModelError: The architecture is not one of `MODEL_TYPES`, a field is missing, or its attention has a window.
    """
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise ModelError(
            f"{source}: model_type is '{kind}', expected one of {', '.join(MODEL_TYPES)}; other architectures may "
            "train, but their memory cannot be planned"
        )
    missing = [name for name in _REQUIRED if not isinstance(config.get(name), int) or config[name] < 1]
    if missing:
        raise ModelError(f"{source}: {', '.join(missing)} is missing or not a positive whole number")
    _refuse_window(config, source)
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    biased = kind == "qwen2" or bool(config.get("attention_bias", False))
    return Architecture(
        model_type=kind,
        layers=config["num_hidden_layers"],
        hidden=hidden,
        inner=config["intermediate_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or (128 if kind == "qwen3" else hidden // heads),
        vocabulary=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", False)),
        attention_bias=biased and kind != "mistral",
        output_bias=biased and kind in ("llama", "qwen3"),
        mlp_bias=kind == "llama" and bool(config.get("mlp_bias", False)),
        head_norm=kind == "qwen3",
        positions=config.get("max_position_embeddings"),
        stored_bytes=_STORED_BYTES.get(str(config.get("dtype") or config.get("torch_dtype")), 2),
    )


_REQUIRED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


def _refuse_window(config: Mapping[str, Any], source: str) -> None:
    """Refuse a sliding window, which a token tree cannot express; Qwen switches its own off by default."""
    uses = config.get("use_sliding_window", False) if config["model_type"].startswith("qwen") else True
    if uses and config.get("sliding_window") is not None:
        raise ModelError(
            f"{source}: its attention has a sliding window of {config['sliding_window']}, which a token tree cannot "
            "express; use another base model, such as mistralai/Mistral-7B-v0.3"
        )


@dataclass(frozen=True, slots=True)
class AdapterShape:
    """The linear layers that a LoRA adapter is attached to.

    Attributes:
        rank: Rank of the updates.
        targets: (layer, linear layer) of every update.
    """

    rank: int
    targets: tuple[tuple[int, Linear], ...]

    @property
    def parameters(self) -> int:
        """Number of trainable parameters: rank times (inputs + outputs) for each target (Hu et al., 2021)."""
        return sum(self.rank * (linear.inputs + linear.outputs) for _, linear in self.targets)

    @property
    def linears_of_a_layer(self) -> tuple[Linear, ...]:
        """The targets in the layer that has the most."""
        by_layer: dict[int, list[Linear]] = {}
        for layer, linear in self.targets:
            by_layer.setdefault(layer, []).append(linear)
        most = max(map(len, by_layer.values()), default=0)
        return tuple(next((found for found in by_layer.values() if len(found) == most), []))


def adapter_shape(architecture: Architecture, rank: int, target_modules: str | Sequence[str]) -> AdapterShape:
    """The adapter that PEFT would attach.

    Args:
        architecture: The base model's.
        rank: Rank of the updates.
        target_modules: As PEFT reads them: `all-linear` (all but the output layer), a regular expression over whole
            module names, or a list of names and their endings.

    Raises:
        ConfigError: No linear layer matches.
    """
    found = tuple(
        (layer, linear)
        for layer in range(architecture.layers)
        for linear in architecture.linears
        if _matches(f"model.layers.{layer}.{linear.name}", target_modules)
    )
    if not found:
        names = ", ".join(linear.name.rpartition(".")[2] for linear in architecture.linears)
        raise ConfigError(f"lora.target_modules: {target_modules!r} matches no linear layer; there are {names}")
    return AdapterShape(rank, found)


def _matches(name: str, targets: str | Sequence[str]) -> bool:
    if isinstance(targets, str):
        return targets == "all-linear" or re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)
