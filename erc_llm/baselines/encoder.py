"""The baseline `encoder`: an utterance in its past context through a pretrained encoder, and a linear head.

In: token ids. Out: label scores. Knows no corpus and no training.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from erc_llm.baselines.batches import Padded

Pooling = Literal["first", "mean"]


class TextEncoder(nn.Module):
    """A pretrained encoder that makes one vector of a text.

    Args:
        backbone: A Hugging Face encoder.
        pooling: `first` takes the first token's last hidden state, `mean` the mean over tokens.
    """

    def __init__(self, backbone: Any, pooling: Pooling = "first") -> None:
        super().__init__()
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None  # its output is not read, so it would never be trained
        self.backbone = backbone
        self._pooling = pooling

    def forward(self, texts: Padded) -> Tensor:
        """(texts, hidden) vectors in fp32."""
        hidden: Tensor = self.backbone(input_ids=texts.ids, attention_mask=texts.mask).last_hidden_state
        if self._pooling == "first":
            return hidden[:, 0].float()
        mask = texts.mask[..., None].float()
        return (hidden.float() * mask).sum(1) / mask.sum(1)


class ContextClassifier(nn.Module):
    """Label scores of a target from its context alone.

    Args:
        context: Encodes the context.
        hidden: Size of its vectors.
        labels: Number of labels.
    """

    def __init__(self, context: TextEncoder, hidden: int, labels: int) -> None:
        super().__init__()
        self.context = context
        self.head = nn.Linear(hidden, labels)

    def forward(self, contexts: Padded, histories: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        """(batch, labels) scores; memories are not looked at."""
        return self.score(self.context(contexts))

    def score(self, vectors: Tensor) -> Tensor:
        """(batch, labels) scores of (batch, hidden) vectors, in fp32: in bf16 two labels are often exactly equal."""
        with torch.autocast(vectors.device.type, enabled=False):
            scores: Tensor = self.head(vectors)
        return scores
