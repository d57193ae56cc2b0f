"""Corpus records: `Utterance`, `Dialogue` and `Corpus`, all frozen.

A dialogue is a scene. Its place in time is (season, episode, scene), and the dialogues of a split are kept in that
order. In a corpus without episodes the order of the files is the order of time over all splits: each dialogue keeps its
place when it is moved to another split.

Input: the fields of the records. Output: dialogues in time order, content hashes.
Does not depend on: files, prompts, models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

from erc_llm.corpus.labels import LabelSet
from erc_llm.errors import CorpusError

if TYPE_CHECKING:
    import pandas as pd

SELECTION = "selection"  # the split of train that a training run chooses its epoch on
LEFT_OUT = "left_out"  # the split of train that a fold of a cross-fitting leaves out
PARTS_OF_TRAIN = ("train", SELECTION, LEFT_OUT)
EVERYONE = "#ALL#"  # EmoryNLP's marker for a line that everyone present speaks together


@dataclass(frozen=True, slots=True)
class Utterance:
    """One turn of a dialogue.

    Attributes:
        id: Unique within its dialogue.
        speakers: One or more names; `#ALL#` stands for everyone present.
        text: The spoken text; an utterance with empty text is context only.
        label: A name of the corpus's label set; None if unlabelled.
        target: Whether its label is to be predicted; False for context-only lines (gap-healed or empty).
    """

    id: str
    speakers: tuple[str, ...]
    text: str
    label: str | None = None
    target: bool = True


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One scene: utterances in spoken order.

    `season`, `episode` and `scene` are None where the data does not state them.
    """

    id: str
    utterances: tuple[Utterance, ...]
    season: int | None = None
    episode: int | None = None
    scene: int | None = None

    @property
    def episode_id(self) -> str | None:
        """Name of the episode, such as `s01_e15`; None where the data has no episodes."""
        if self.episode is None:
            return None
        return f"s{self.season or 0:02d}_e{self.episode:02d}"

    @property
    def time(self) -> tuple[int, int, int] | None:
        """(season, episode, scene), the sort key of dialogues; None where the data has no episodes."""
        if self.episode is None:
            return None
        return (self.season or 0, self.episode, self.scene or 0)

    @property
    def targets(self) -> tuple[int, ...]:
        """Positions of the utterances whose label is to be predicted."""
        return tuple(i for i, u in enumerate(self.utterances) if u.target)


@dataclass(frozen=True)
class Corpus:
    """Dialogues by split, with their label set.

    Attributes:
        name: Name chosen by the user; the folder's name by default.
        version: `original`, `aligned`, `meld`, `compm`, or `own` for a user's own data.
        labels: The label set; it contains every label in the corpus.
        splits: Split name to dialogues in time order. Common names: train, selection, left_out, dev, test.
        order: Ids of the dialogues in the order of the files; used if any dialogue has no time. Dialogues that are not
            listed come last, split by split.
        healed: Whether missing lines were added as context from another version.
        warnings: Sentences for the user about unusual data that was accepted.
        generic: Names that stand for a different person in each episode; see `erc_llm.corpus.speakers.identity`.
        files: (name, sha256) of every file that was read; names are `folder/file`, without the rest of the path.
    """

    name: str
    version: str
    labels: LabelSet
    splits: Mapping[str, tuple[Dialogue, ...]]
    order: tuple[str, ...] = ()
    healed: bool = False
    warnings: tuple[str, ...] = ()
    generic: frozenset[str] = frozenset()
    files: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "splits", MappingProxyType(dict(self.splits)))

    def split(self, name: str) -> tuple[Dialogue, ...]:
        """Dialogues of one split.

        Raises:
            CorpusError: The corpus has no such split; the message lists the existing ones.
        """
        if name not in self.splits:
            raise CorpusError(f"no split '{name}' in corpus '{self.name}'; it has: {', '.join(self.splits)}")
        return self.splits[name]

    def to_pandas(self) -> pd.DataFrame:
        """A pandas DataFrame with one row per utterance; `erc_llm.corpus.frames.write_frame` is the way back."""
        from erc_llm.corpus.frames import to_frame

        return to_frame(self)

    def dialogues(self) -> Iterator[Dialogue]:
        """All dialogues in time order over all splits."""
        yield from (dialogue for _, dialogue in self.in_time)

    @cached_property
    def timed(self) -> bool:
        """Whether every dialogue has a (season, episode, scene)."""
        return all(dialogue.time is not None for dialogues in self.splits.values() for dialogue in dialogues)

    @cached_property
    def in_time(self) -> tuple[tuple[str, Dialogue], ...]:
        """(split, dialogue) of every dialogue, in time order over all splits.

        Sorted by (season, episode, scene) if every dialogue has it, otherwise by `order`.
        """
        scenes = [(split, dialogue) for split, dialogues in self.splits.items() for dialogue in dialogues]
        if self.timed:
            return tuple(sorted(scenes, key=lambda scene: scene[1].time or ()))
        place = {name: i for i, name in enumerate(self.order)}
        return tuple(sorted(scenes, key=lambda scene: place.get(scene[1].id, len(place))))

    @cached_property
    def sha256(self) -> str:
        """Hash of the content (labels, splits, dialogues), independent of the file format.

        What is held out of train is hashed as part of train, so that cutting it does not change the hash.
        """
        return self._hash(self.splits)

    @cached_property
    def train_sha256(self) -> str:
        """`sha256` of train alone, held-out parts included: adding a test split later does not change it."""
        return self._hash(split for split in self.splits if split in PARTS_OF_TRAIN)

    def _hash(self, splits: Iterable[str]) -> str:
        rows = []
        for split in splits:
            part = "train" if split in PARTS_OF_TRAIN else split
            for dialogue in self.splits[split]:
                lines = [(u.id, u.speakers, u.text, u.label, u.target) for u in dialogue.utterances]
                rows.append(json.dumps([part, dialogue.id, dialogue.time, lines], ensure_ascii=False))
        digest = hashlib.sha256(json.dumps(self.labels.names).encode())
        for row in sorted(rows):
            digest.update(row.encode())
        return digest.hexdigest()
