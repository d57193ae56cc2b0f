"""The records every other module speaks of: `Utterance`, `Dialogue`, `Corpus`.

They are frozen and know nothing of files, prompts or models. A dialogue is a scene; its place in time is
(season, episode, scene); dialogues of a split are kept in that order. In a corpus without episodes the order of its
file is the order of time, over all splits: whatever is cut or moved between splits, each dialogue keeps its place.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

from erc_llm.corpus.labels import LabelSet
from erc_llm.errors import CorpusError

EVERYONE = "#ALL#"  # EmoryNLP's marker for a line that all present speak together


@dataclass(frozen=True, slots=True)
class Utterance:
    """One turn of a dialogue.

    Attributes:
        id: Unique within its dialogue.
        speakers: One or more global identities; `#ALL#` stands for everyone present.
        text: What was said; may be empty (then it is context only).
        label: A name of the corpus's label set, or None where nobody labelled it.
        target: Whether a model is asked about it. Context-only lines (gap-healed or empty) are not.
    """

    id: str
    speakers: tuple[str, ...]
    text: str
    label: str | None = None
    target: bool = True


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One scene: utterances in the order in which they were said.

    `season`, `episode` and `scene` are None where the data does not tell.
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
        """(season, episode, scene), by which dialogues are ordered; None without episodes."""
        if self.episode is None:
            return None
        return (self.season or 0, self.episode, self.scene or 0)

    @property
    def targets(self) -> tuple[int, ...]:
        """Positions of the utterances a model is asked about."""
        return tuple(i for i, u in enumerate(self.utterances) if u.target)


@dataclass(frozen=True)
class Corpus:
    """Dialogues by split, with the label set they use.

    Attributes:
        name: What the user calls it, usually the folder's name.
        version: `original`, `aligned`, `compm`, or `own` for a user's own data.
        labels: The label set of every label in it.
        splits: Split name to dialogues in time order. Names in use: train, selection, dev, test.
        order: Ids of the dialogues in the order of the files, where not every one tells its time. What it does not
            name comes after, split after split.
        healed: Whether missing lines were filled in from another version as context.
        warnings: Sentences about what was found odd while reading, for people.
        generic: Names that mean another person in every episode; see `erc_llm.corpus.speakers.identity`.
        files: (name, sha256) of every file that was read; names are `folder/file`, never a machine's whole path.
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
            CorpusError: The corpus has no such split; the message lists those it has.
        """
        if name not in self.splits:
            raise CorpusError(f"no split '{name}' in corpus '{self.name}'; it has: {', '.join(self.splits)}")
        return self.splits[name]

    def dialogues(self) -> Iterator[Dialogue]:
        """All dialogues, in the order of time over all splits."""
        yield from (dialogue for _, dialogue in self.in_time)

    @cached_property
    def timed(self) -> bool:
        """Whether every dialogue tells its place in time."""
        return all(dialogue.time is not None for dialogues in self.splits.values() for dialogue in dialogues)

    @cached_property
    def in_time(self) -> tuple[tuple[str, Dialogue], ...]:
        """Every dialogue with its split, in the order of time over all splits.

        That is (season, episode, scene) where every dialogue has it, and `order` where one does not.
        """
        scenes = [(split, dialogue) for split, dialogues in self.splits.items() for dialogue in dialogues]
        if self.timed:
            return tuple(sorted(scenes, key=lambda scene: scene[1].time or ()))
        place = {name: i for i, name in enumerate(self.order)}
        return tuple(sorted(scenes, key=lambda scene: place.get(scene[1].id, len(place))))

    @cached_property
    def sha256(self) -> str:
        """Hash of the content (labels, splits, dialogues), whatever file format it came from.

        A selection split counts as the part of train it is, so that cutting it changes no hash.
        """
        return self._hash(self.splits)

    @cached_property
    def train_sha256(self) -> str:
        """The same of train alone, its selection split included: a test split that is added later changes nothing."""
        return self._hash(split for split in self.splits if split in ("train", "selection"))

    def _hash(self, splits: Iterable[str]) -> str:
        rows = []
        for split in splits:
            part = "train" if split == "selection" else split
            for dialogue in self.splits[split]:
                lines = [(u.id, u.speakers, u.text, u.label, u.target) for u in dialogue.utterances]
                rows.append(json.dumps([part, dialogue.id, dialogue.time, lines], ensure_ascii=False))
        digest = hashlib.sha256(json.dumps(self.labels.names).encode())
        for row in sorted(rows):
            digest.update(row.encode())
        return digest.hexdigest()


def selection_split(corpus: Corpus, fraction: float = 0.1, seed: int = 13) -> Corpus:
    """Cut a `selection` split of whole episodes out of train, for every choice that is made before reporting.

    Episodes are drawn in a seeded order until `fraction` of train's dialogues is reached. Where the data has no
    episodes, every dialogue counts as an episode of its own. No dialogue changes its place in time.

    Raises:
        CorpusError: Train is missing or has fewer than two episodes, so that nothing could be left to fit on.
    """
    train = corpus.split("train")
    episode = {d.id: d.episode_id or d.id for d in train}
    names = sorted(set(episode.values()))
    if len(names) < 2:
        raise CorpusError(f"corpus '{corpus.name}': cannot cut a selection split, train has {len(names)} episode")
    random.Random(seed).shuffle(names)
    drawn: set[str] = set()
    for name in names[:-1]:
        drawn.add(name)
        if sum(episode[d.id] in drawn for d in train) >= fraction * len(train):
            break
    kept = tuple(d for d in train if episode[d.id] not in drawn)
    held_out = tuple(d for d in train if episode[d.id] in drawn)
    splits = {"train": kept, "selection": held_out} | {k: v for k, v in corpus.splits.items() if k != "train"}
    order = () if corpus.timed else tuple(d.id for d in corpus.dialogues())
    return replace(corpus, splits=splits, order=order)


def labelled_scenes(corpus: Corpus, most: int | None, seed: int) -> tuple[Dialogue, ...]:
    """Dialogues of train that have labelled targets, in their order.

    Args:
        corpus: With its selection split cut.
        most: Keep that many of them, drawn by `seed`; None: all.
        seed: Not negative.

    Raises:
        CorpusError: There are none.
    """
    scenes = [d for d in corpus.split("train") if any(d.utterances[k].label is not None for k in d.targets)]
    if not scenes:
        raise CorpusError(f"corpus '{corpus.name}': no labelled utterance in train, so there is nothing to train on")
    if most is not None and most < len(scenes):
        chosen = set(random.Random(f"scenes/{seed}").sample(range(len(scenes)), most))
        scenes = [d for i, d in enumerate(scenes) if i in chosen]
    return tuple(scenes)
