"""Speaker memory: runs the vectors of a speaker's earlier utterances through a GRU, and returns one vector.

Input: token ids of remembered utterances. Output: (batch, hidden) vectors to add to those of contexts.
Does not depend on: labels, files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from erc_llm.baselines.batches import Padded, pad
from erc_llm.baselines.inputs import Example, Ids

_AT_ONCE = 64  # texts in one forward pass


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Vectors of remembered utterances, one for each distinct utterance.

    Attributes:
        row: Row of each utterance, by its token ids.
        vectors: (utterances + 1, hidden); the last row is zero, for padding.
    """

    row: Mapping[Ids, int]
    vectors: Tensor

    def histories(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """Return (batch, longest, hidden) vectors, oldest first and padded at the end, and (batch,) their numbers."""
        device = self.vectors.device
        lengths = [len(example.memory) for example in examples]
        empty, width = len(self.row), max(lengths)
        rows = [[self.row[ids] for ids in e.memory] + [empty] * (width - len(e.memory)) for e in examples]
        index = torch.tensor(rows, dtype=torch.int64, device=device).reshape(len(examples), width)
        return self.vectors[index], torch.tensor(lengths, device=device)


def take_snapshot(
    embed: Callable[[Padded], Tensor], examples: Iterable[Example], padding: int, hidden: int, device: torch.device
) -> Snapshot:
    """Embed every distinct remembered utterance of the examples, those of similar length together.

    Args:
        embed: Maps ids and mask to (texts, hidden) vectors; whether gradients flow is up to the caller.
        examples: The examples.
        padding: Id of the pad token.
        hidden: Size of a vector.
        device: Device of the tensors.
    """
    texts = sorted({ids for example in examples for ids in example.memory}, key=lambda ids: (len(ids), ids))
    chunks = [texts[start : start + _AT_ONCE] for start in range(0, len(texts), _AT_ONCE)]
    vectors = [embed(pad(chunk, padding, device)).float() for chunk in chunks]
    return Snapshot(
        {ids: row for row, ids in enumerate(texts)}, torch.cat([*vectors, torch.zeros(1, hidden, device=device)])
    )


class SpeakerMemory(nn.Module):
    """A unidirectional GRU over a speaker's earlier utterances.

    As in CoMPM, it has several layers with dropout between them and starts at a zero state. The last state is the
    memory; a speaker who has not spoken has a memory of zeros. The memory is added to the context's vector, after a
    projection if their sizes differ.

    Args:
        hidden: Size of an utterance's vector, and of the result.
        size: Hidden units of the GRU.
        layers: Number of layers of the GRU.
        dropout: Dropout between its layers.
        half_life: Half-life of a state's weight; see `weights_of`.
    """

    def __init__(self, hidden: int, size: int, layers: int, dropout: float, half_life: float | None = None) -> None:
        super().__init__()
        self.gru = nn.GRU(hidden, size, layers, dropout=dropout if layers > 1 else 0.0, batch_first=True)
        # It has no bias, so that an empty memory stays zero.
        self.projection: nn.Module = nn.Identity() if size == hidden else nn.Linear(size, hidden, bias=False)
        self._half_life = half_life

    def forward(self, histories: Tensor, lengths: Tensor) -> Tensor:
        """Return (batch, hidden) memories of (batch, longest, hidden) histories, oldest first, padded at the end."""
        batch, longest, hidden = histories.shape
        if longest == 0:
            return histories.new_zeros(batch, hidden)
        # It computes in fp32: bf16 saves little here, and would round the state in every step.
        with torch.autocast(histories.device.type, enabled=False):
            states, _ = self.gru(histories.float())
            weights = weights_of(lengths, longest, self._half_life)
            summed: Tensor = self.projection(torch.einsum("bl,bls->bs", weights, states))
        return summed


def weights_of(lengths: Tensor, longest: int, half_life: float | None) -> Tensor:
    """Return (batch, longest) weights of a memory's states; rows sum to 1, or to 0 where a memory is empty.

    The distance of an utterance counts the speaker's own utterances back from the present, 1 for the latest. With a
    half-life the weight is 0.5 ** (distance / half_life), divided by the sum of its row. Without one, all weight is on
    the latest state, as in the limit of a short half-life; the recurrence itself dilutes distant utterances.

    Args:
        lengths: (batch,) number of utterances in each memory.
        longest: Width of the padded memories.
        half_life: Half-life in the speaker's own utterances; None for the latest state alone.
    """
    distance = lengths[:, None] - torch.arange(longest, device=lengths.device)
    if half_life is None:
        return (distance == 1).float()
    # Distances are relative to the latest utterance, so that a very short half-life does not make all weights vanish.
    weights = torch.pow(0.5, (distance.float() - 1) / half_life).masked_fill(distance < 1, 0.0)
    return weights / weights.sum(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
