"""Label sets: the closed set of labels of a corpus, EmoryNLP's seven by default.

Input: label names and accepted spellings. Output: a `LabelSet` that maps spellings to canonical names.
Does not depend on: files, tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from erc_llm.errors import ConfigError


@dataclass(frozen=True)
class LabelSet:
    """Label names in their canonical order, with the spellings accepted for each.

    Attributes:
        names: Canonical names; predictions and probabilities use this order.
        spellings: Additional accepted spelling to canonical name. Matching ignores case and outer spaces.
        neutral: The label that means "no emotion"; None if there is none.
        coarse: Each label's coarser one, such as its polarity; empty if there are none.
    """

    names: tuple[str, ...]
    spellings: Mapping[str, str] = field(default_factory=dict, hash=False)
    neutral: str | None = None
    coarse: Mapping[str, str] = field(default_factory=dict, hash=False, compare=False)

    def __post_init__(self) -> None:
        folded = [name.strip().casefold() for name in self.names]
        if len(self.names) < 2 or len(set(folded)) != len(folded) or "" in folded:
            raise ConfigError(f"labels: expected at least two different, non-empty names, found {list(self.names)}")
        for spelling, name in self.spellings.items():
            if name not in self.names:
                raise ConfigError(f"labels.spellings: '{spelling}' maps to '{name}', not one of {list(self.names)}")
        if self.neutral is not None and self.neutral not in self.names:
            raise ConfigError(f"labels.neutral: found '{self.neutral}'; expected one of {list(self.names)}")
        if self.coarse:
            self._check_coarse()
        table = {s.strip().casefold(): n for s, n in self.spellings.items()}
        table |= dict(zip(folded, self.names, strict=True))
        object.__setattr__(self, "_table", table)

    def _check_coarse(self) -> None:
        holes = [name for name in self.names if not self.coarse.get(name, "").strip()]
        if holes or self.coarse.keys() - set(self.names):
            raise ConfigError(
                f"labels.coarse: expected a coarser label for each of {list(self.names)} and nothing else; missing are "
                f"{holes}, unknown are {sorted(self.coarse.keys() - set(self.names))}"
            )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def coarse_names(self) -> tuple[str, ...]:
        """The coarser labels, in the order in which the labels name them; empty if there are none."""
        return tuple(dict.fromkeys(self.coarse[name] for name in self.names)) if self.coarse else ()

    def coarse_probabilities(self, probabilities: Mapping[str, float]) -> dict[str, float]:
        """Probability of each coarser label, the sum over its labels; empty if there are none."""
        sums = dict.fromkeys(self.coarse_names, 0.0)
        for name, probability in probabilities.items() if self.coarse else ():
            sums[self.coarse[name]] += probability
        return sums

    def index(self, name: str) -> int:
        """Position of a canonical name."""
        return self.names.index(name)

    def match(self, spelling: str) -> str | None:
        """Canonical name of a spelling; None if the label set does not accept it."""
        table: dict[str, str] = self._table  # type: ignore[attr-defined]
        return table.get(spelling.strip().casefold())


MELD = LabelSet(
    names=("neutral", "joy", "surprise", "anger", "sadness", "fear", "disgust"),
    neutral="neutral",
    coarse={
        "neutral": "neutral",
        "joy": "positive",
        "surprise": "ambiguous",  # MELD marks it as positive or negative line by line
        "anger": "negative",
        "sadness": "negative",
        "fear": "negative",
        "disgust": "negative",
    },
)

EMORYNLP = LabelSet(
    names=("Joyful", "Mad", "Neutral", "Peaceful", "Powerful", "Sad", "Scared"),
    neutral="Neutral",
    coarse={
        "Joyful": "positive",
        "Mad": "negative",
        "Neutral": "neutral",
        "Peaceful": "positive",
        "Powerful": "positive",
        "Sad": "negative",
        "Scared": "negative",
    },
)

LABEL_SETS = {"emorynlp": EMORYNLP, "meld": MELD}
