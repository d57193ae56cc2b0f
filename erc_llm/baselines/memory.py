"""The memory of a speaker: vectors of earlier utterances, run through a GRU, summed up as one vector.

In: ids of remembered utterances. Out: (batch, hidden) what to add to a context's vector. Knows no labels and no files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from erc_llm.baselines.batches import Padded, pad
from erc_llm.baselines.inputs import Example, Ids

_AT_ONCE = 64  # texts in one forward


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Vectors of remembered utterances, each distinct one once.

    Attributes:
        row: Ids of an utterance to its row.
        vectors: (utterances + 1, hidden); the last row is zero, for padding.
    """

    row: Mapping[Ids, int]
    vectors: Tensor

    def histories(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """(batch, longest, hidden) memories, oldest first and padded behind, and (batch,) utterances in each."""
        device = self.vectors.device
        lengths = [len(example.memory) for example in examples]
        empty, width = len(self.row), max(lengths)
        rows = [[self.row[ids] for ids in e.memory] + [empty] * (width - len(e.memory)) for e in examples]
        index = torch.tensor(rows, dtype=torch.int64, device=device).reshape(len(examples), width)
        return self.vectors[index], torch.tensor(lengths, device=device)


def take_snapshot(
    embed: Callable[[Padded], Tensor], examples: Iterable[Example], padding: int, hidden: int, device: torch.device
) -> Snapshot:
    """Embed every distinct utterance that the examples remember, of like length together.

    Args:
        embed: Ids and mask to (texts, hidden); whether gradients flow is up to the caller.
        examples: Whose memories.
        padding: Id of the pad token.
        hidden: Size of a vector.
        device: Where to.
    """
    texts = sorted({ids for example in examples for ids in example.memory}, key=lambda ids: (len(ids), ids))
    chunks = [texts[start : start + _AT_ONCE] for start in range(0, len(texts), _AT_ONCE)]
    vectors = [embed(pad(chunk, padding, device)).float() for chunk in chunks]
    return Snapshot(
        {ids: row for row, ids in enumerate(texts)}, torch.cat([*vectors, torch.zeros(1, hidden, device=device)])
    )


class SpeakerMemory(nn.Module):
    """A unidirectional GRU over a speaker's earlier utterances.

    CoMPM's: several layers with dropout between them, a zero initial state, the last state is the memory, and nothing
    (zeros) where the speaker has not spoken. It is added to the context's vector; the projection between them exists
    only where their sizes differ.

    Args:
        hidden: Size of an utterance's vector, and of the result.
        size: Hidden units of the GRU.
        layers: Of the GRU.
        dropout: Between its layers.
        half_life: See `weights_of`.
    """

    def __init__(self, hidden: int, size: int, layers: int, dropout: float, half_life: float | None = None) -> None:
        super().__init__()
        self.gru = nn.GRU(hidden, size, layers, dropout=dropout if layers > 1 else 0.0, batch_first=True)
        # Without a bias, so that an empty memory stays zero.
        self.projection: nn.Module = nn.Identity() if size == hidden else nn.Linear(size, hidden, bias=False)
        self._half_life = half_life

    def forward(self, histories: Tensor, lengths: Tensor) -> Tensor:
        """(batch, hidden) memories of (batch, longest, hidden) histories, oldest first and padded behind."""
        batch, longest, hidden = histories.shape
        if longest == 0:
            return histories.new_zeros(batch, hidden)
        # In fp32: a GRU in bf16 saves little here, and rounds the state in every step.
        with torch.autocast(histories.device.type, enabled=False):
            states, _ = self.gru(histories.float())
            weights = weights_of(lengths, longest, self._half_life)
            summed: Tensor = self.projection(torch.einsum("bl,bls->bs", weights, states))
        return summed


def weights_of(lengths: Tensor, longest: int, half_life: float | None) -> Tensor:
    """(batch, longest) how much each state of a memory counts; rows sum to 1, or to 0 where a memory is empty.

    An utterance's distance is how many of the speaker's own utterances ago it is, 1 for the latest. With a half-life
    its weight is 0.5 ** (distance / half_life), divided by the sum of a row; without one, all weight is on the latest
    state, in which the recurrence has diluted the distant ones: the limit of a short half-life.

    Args:
        lengths: (batch,) utterances in each memory.
        longest: Width of the padded memories.
        half_life: In own utterances.
    """
    distance = lengths[:, None] - torch.arange(longest, device=lengths.device)
    if half_life is None:
        return (distance == 1).float()
    # Relative to the latest, so that a very short half-life does not make all weights vanish.
    weights = torch.pow(0.5, (distance.float() - 1) / half_life).masked_fill(distance < 1, 0.0)
    return weights / weights.sum(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
