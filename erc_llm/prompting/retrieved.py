"""What is retrieved for a line, in words: similar labelled lines as demonstrations, or their label distribution.

The texts are data like the lines of a scene: each on one line, its markers broken. Double quotes in them become single
ones, so that a text cannot end its own quotation.

Input: a function that finds similar labelled lines. Output: token ids for a question or a trunk.
Does not depend on: how lines are found, models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from erc_llm.corpus.dialogues import Dialogue
from erc_llm.prompting.encoding import TextEncoder
from erc_llm.prompting.templates import load_retrieval

LONGEST = 32  # tokens of a demonstration's text; 19 of 20 lines of EmoryNLP have no more
_LABELS = 3  # most labels of a distribution
_STEP = 5  # percent; a few similar lines do not tell shares more exactly
_CUT = "..."
_SEAM = 2  # tokens by which a text may be longer between quotation marks than alone


@dataclass(frozen=True, slots=True)
class Found:
    """What was found for one line.

    Attributes:
        lines: Text and index of the label of each similar line, most similar first.
        shares: Share of each label among similar lines, in label order; empty if the lines themselves are shown.
    """

    lines: tuple[tuple[str, int], ...] = ()
    shares: tuple[float, ...] = ()


# From a dialogue, numbers of its lines, and its episode where the dialogue does not state it.
Retrieve = Callable[[Dialogue, Sequence[int], str | None], Sequence[Found]]


class RetrievedText:
    """Words what is found for lines, and encodes it.

    Args:
        retrieve: Finds similar labelled lines; it keeps what it has found.
        encoder: The encoder of the prompt.
        answers: Text of each label as an answer.
        renamed: Replaces the names in a text; None to keep them.
    """

    def __init__(
        self,
        retrieve: Retrieve,
        encoder: TextEncoder,
        answers: Sequence[str],
        renamed: Callable[[str], str] | None = None,
    ) -> None:
        self.search = retrieve
        self._encoder = encoder
        self._answers = answers
        self._renamed = renamed
        self._template = load_retrieval()
        self._shown = lru_cache(maxsize=20_000)(self._show)

    def ids(self, dialogue: Dialogue, episode: str | None, k: int) -> tuple[int, ...]:
        """Token ids of what is found for line `k`; none if nothing is."""
        (found,) = self.search(dialogue, [k], episode)
        return self._encoded(found)

    def longest(self, count: int) -> int:
        """Most tokens of what is found for a line.

        Args:
            count: Number of demonstrations; 0 for a distribution.
        """
        label = max(range(len(self._answers)), key=lambda i: len(self._encoder.data(self._answers[i])))
        if count:
            return len(self._encoded(Found(lines=((_CUT, label),) * count))) + count * (LONGEST + _SEAM)
        shares = (1.0 / _LABELS,) * _LABELS
        return len(self._encoded(Found(shares=shares))) + _LABELS * len(self._encoder.data(self._answers[label]))

    def _encoded(self, found: Found) -> tuple[int, ...]:
        shares = self._percents(found.shares)
        lines = [{"text": self._shown(text), "label": self._answers[label]} for text, label in found.lines]
        if not (shares or lines):
            return ()
        block = "distribution" if shares else "demonstrations"
        text = self._template.render(block, {"shares": shares, "lines": lines})
        return self._encoder.data(self._encoder.break_markers(text))

    def _percents(self, shares: Sequence[float]) -> list[dict[str, object]]:
        most = sorted(range(len(shares)), key=lambda i: -shares[i])[:_LABELS]
        rounded = [(_STEP * round(100 * shares[i] / _STEP), self._answers[i]) for i in most]
        return [{"percent": percent, "label": label} for percent, label in rounded if percent > 0]

    def _show(self, text: str) -> str:
        """The beginning of a text, harmless and without double quotes."""
        text = self._encoder.harmless(text if self._renamed is None else self._renamed(text)).replace('"', "'")
        kept = self._encoder.beginning(text, LONGEST)
        return text if kept == text else kept.rstrip() + _CUT
