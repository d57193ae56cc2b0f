"""Sentence encoders: texts to vectors.

In: a folder, a hub id or `all-minilm-l6-v2`; texts. Out: unit vectors, mean-pooled over tokens (Reimers and Gurevych
2019). Vectors are kept by text for the life of the encoder. Knows nothing of conversations.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from erc_llm.errors import ModelError
from erc_llm.models import encoder_folder

_LONGEST = 128  # tokens; what is behind them does not count
_BATCH = 64


class SentenceEncoder:
    """An encoder of Hugging Face's, on the CPU.

    Args:
        name: See `erc_llm.models.encoder_folder`.

    Raises:
        ModelError: It is missing or cannot be loaded.
    """

    def __init__(self, name: str) -> None:
        from safetensors import SafetensorError
        from transformers import AutoModel, AutoTokenizer

        from erc_llm.wheels import quiet_loading, weights_sha256

        folder: Path = encoder_folder(name)
        try:
            with quiet_loading():
                self._model: Any = AutoModel.from_pretrained(folder, local_files_only=True).eval()
                self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise ModelError(f"{folder}: cannot be loaded as an encoder: {error}") from error
        self.sha256 = weights_sha256(folder)
        self._known: dict[str, npt.NDArray[np.float32]] = {}

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """(texts, dimensions) unit vectors; of an empty text, whatever the model makes of it."""
        new = sorted(set(texts) - self._known.keys(), key=lambda text: (len(text), text))
        for start in range(0, len(new), _BATCH):
            batch = new[start : start + _BATCH]
            self._known.update(zip(batch, self._encode(batch), strict=True))
        return np.stack([self._known[text] for text in texts])

    def similarity(self, query: str, texts: Sequence[str]) -> list[float]:
        """Cosine of each text and the query."""
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
