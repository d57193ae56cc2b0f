"""The baseline `compm`: classifies the sum of a context's vector and a memory of its speaker.

Source: Lee and Lee, "CoMPM" (NAACL 2022), section 3, and its public code. The vector of a context is that of its class
token. The memory is the last state of a GRU over the class tokens of the speaker's earlier utterances.

Input: token ids of contexts, and vectors of histories. Output: label scores.
Does not depend on: corpora, training.
"""

from __future__ import annotations

from torch import Tensor, nn

from erc_llm.baselines.batches import Padded
from erc_llm.baselines.encoder import ContextClassifier, TextEncoder
from erc_llm.baselines.memory import SpeakerMemory


class MemoryClassifier(ContextClassifier):
    """Label scores of a target from its context and its speaker's memory.

    Args:
        context: The encoder of contexts.
        remembering: The second encoder, which embeds remembered utterances.
        memory: Makes one vector of a history.
        hidden: Size of both encoders' vectors.
        labels: Number of labels.
        frozen: Do not train the second encoder.
    """

    def __init__(
        self,
        context: TextEncoder,
        remembering: TextEncoder,
        memory: SpeakerMemory,
        hidden: int,
        labels: int,
        frozen: bool,
    ) -> None:
        super().__init__(context, hidden, labels)
        self.remembering = remembering.requires_grad_(not frozen)
        self.memory = memory
        self.frozen = frozen

    def train(self, mode: bool = True) -> MemoryClassifier:
        """Set the mode as usual; a frozen second encoder stays in eval mode, without dropout."""
        super().train(mode)
        if self.frozen:
            self.remembering.eval()
        return self

    def forward(self, contexts: Padded, histories: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        """Return (batch, labels) scores; histories are (batch, longest, hidden), lengths (batch,)."""
        assert histories is not None, "a memory needs histories"
        assert lengths is not None, "histories come with their lengths"
        return self.score(self.context(contexts) + self.memory(histories, lengths))


def new_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that start at random: head, GRU, projection."""
    pretrained = ("context.", "remembering.")
    return [p for name, p in model.named_parameters() if not name.startswith(pretrained) and p.requires_grad]


def pretrained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The pretrained parameters that are trained further."""
    new = set(map(id, new_parameters(model)))
    return [p for p in model.parameters() if id(p) not in new and p.requires_grad]
