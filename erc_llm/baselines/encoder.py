"""The baseline `encoder`: classifies an utterance in its past context by a pretrained encoder and a linear head.

Input: token ids. Output: label scores.
Does not depend on: corpora, training.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from erc_llm.baselines.batches import Padded

Pooling = Literal["first", "mean"]


class TextEncoder(nn.Module):
    """A pretrained encoder that maps a text to one vector.

    Args:
        backbone: A Hugging Face encoder.
        pooling: `first` takes the last hidden state of the first token, `mean` the mean over tokens.
    """

    def __init__(self, backbone: Any, pooling: Pooling = "first") -> None:
        super().__init__()
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None  # its output is not used, so its weights would get no gradient
        self.backbone = backbone
        self._pooling = pooling

    def forward(self, texts: Padded) -> Tensor:
        """Return (texts, hidden) vectors in fp32."""
        hidden: Tensor = self.backbone(input_ids=texts.ids, attention_mask=texts.mask).last_hidden_state
        if self._pooling == "first":
            return hidden[:, 0].float()
        mask = texts.mask[..., None].float()
        return (hidden.float() * mask).sum(1) / mask.sum(1)


class ContextClassifier(nn.Module):
    """Label scores of a target from its context alone.

    Args:
        context: The encoder of contexts.
        hidden: Size of its vectors.
        labels: Number of labels.
    """

    def __init__(self, context: TextEncoder, hidden: int, labels: int) -> None:
        super().__init__()
        self.context = context
        self.head = nn.Linear(hidden, labels)

    def forward(self, contexts: Padded, histories: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        """Return (batch, labels) scores; histories are ignored."""
        return self.score(self.context(contexts))

    def score(self, vectors: Tensor) -> Tensor:
        """Return (batch, labels) scores of (batch, hidden) vectors, in fp32: in bf16 two labels often tie exactly."""
        with torch.autocast(vectors.device.type, enabled=False):
            scores: Tensor = self.head(vectors)
        return scores
