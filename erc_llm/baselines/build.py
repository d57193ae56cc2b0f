"""Builds a baseline's model on its device: loads the pretrained encoders, and initialises new layers by the seed.

Input: a `BaselineConfig` and the number of labels. Output: a `LoadedBaseline`.
Does not depend on: corpora, training, run directories.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from erc_llm.baselines.baseline_config import BaselineConfig
from erc_llm.baselines.compm import MemoryClassifier
from erc_llm.baselines.encoder import ContextClassifier, TextEncoder
from erc_llm.baselines.memory import SpeakerMemory
from erc_llm.errors import ConfigError, ModelError
from erc_llm.models.autocast import autocast_to
from erc_llm.models.devices import choose_device, choose_precision
from erc_llm.models.encoders import LoadedEncoder, load_encoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, eq=False)
class LoadedBaseline:
    """A baseline's model with what its inputs and its manifest need.

    Attributes:
        model: The model, with fp32 weights.
        tokenizer: Tokenizer of its encoders.
        hidden: Size of an encoder's vectors.
        padding: Id of the pad token.
        device: Device it is on.
        dtype: Dtype of its matrix products.
        precision_reason: Why that dtype, in a few words.
        description: Name of the pretrained encoder, to print beside results.
        base_sha256: Hash of the pretrained encoder's weights.
    """

    model: ContextClassifier
    tokenizer: PreTrainedTokenizerBase
    hidden: int
    padding: int
    device: torch.device
    dtype: torch.dtype
    precision_reason: str
    description: str
    base_sha256: str

    @property
    def frozen_memory(self) -> bool:
        """Whether the encoder of remembered utterances is not trained."""
        return isinstance(self.model, MemoryClassifier) and self.model.frozen

    def autocast(self) -> torch.autocast:
        """A context in which matrices are multiplied in `dtype`."""
        return autocast_to(self.device, self.dtype)


def build(config: BaselineConfig, labels: int) -> LoadedBaseline:
    """Load the encoders, and initialise the new layers by the seed.

    Args:
        config: The baseline's configuration.
        labels: Number of labels.

    Raises:
        ModelError: The encoder is missing, is no encoder or cannot be loaded, or its device is not there.
        ConfigError: The encoder reads fewer tokens than the configuration sets.
    """
    section, memory = config.encoder, config.memory
    device = choose_device(section.device)
    dtype, reason = choose_precision(section.precision, device)
    # At these lengths the backward pass of torch's fused attention takes twice as long on a CPU.
    load = partial(load_encoder, section.base, attention_dropout=section.attention_dropout, eager=device.type == "cpu")
    loaded = load()
    _check_reads_both_ways(loaded)
    _check_length(loaded, "encoder.max_tokens", section.max_tokens)
    hidden = int(loaded.model.config.hidden_size)
    with fork_rng(device):  # the caller's random numbers stay as they were
        torch.manual_seed(config.seed)
        context = TextEncoder(loaded.model)
        model = ContextClassifier(context, hidden, labels)
        if config.kind != "encoder":
            _check_length(loaded, "memory.max_tokens", memory.max_tokens)
            second = TextEncoder(load().model, memory.pooling)
            recurrent = SpeakerMemory(hidden, memory.size or hidden, memory.layers, memory.dropout, config.half_life)
            model = MemoryClassifier(context, second, recurrent, hidden, labels, memory.encoding == "cached")
    if config.training.gradient_checkpointing:
        _checkpoint_gradients(model)
    return LoadedBaseline(
        model=model.to(device),
        tokenizer=loaded.tokenizer,
        hidden=hidden,
        padding=int(loaded.tokenizer.pad_token_id or 0),
        device=device,
        dtype=dtype,
        precision_reason=reason,
        description=loaded.description,
        base_sha256=loaded.sha256,
    )


def fork_rng(device: torch.device) -> AbstractContextManager[None]:
    """Restore torch's random state of the CPU, and of the GPU if one is used, at the end of the block."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _check_reads_both_ways(loaded: LoadedEncoder) -> None:
    """Refuse a model whose first token cannot represent the whole text: a decoder, or a model with one."""
    if loaded.tokenizer.cls_token_id is None or loaded.model.config.is_encoder_decoder:
        raise ModelError(
            f"encoder.base: {loaded.description} is no encoder with a class token; expected one such as roberta-large"
        )


def _check_length(loaded: LoadedEncoder, field: str, asked: int) -> None:
    """Refuse more tokens than an encoder has positions for; RoBERTa's positions begin after its pad token's id."""
    config = loaded.model.config
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None or getattr(config, "position_embedding_type", "absolute") != "absolute":
        return
    embeddings = getattr(loaded.model, "embeddings", None)
    padding = getattr(embeddings, "padding_idx", None)
    most = positions - (0 if padding is None else padding + 1)
    if asked > most:
        raise ConfigError(f"{field}: {asked} tokens, but {loaded.description} reads at most {most}")


def _checkpoint_gradients(model: ContextClassifier) -> None:
    for part in (model.context, getattr(model, "remembering", None)):
        if part is not None:
            part.backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
