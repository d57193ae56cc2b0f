"""What a person did before a scene: the past that a speaker profile may be written from.

In: a corpus. Out: for a scene and a person, the scenes in which that person spoke strictly earlier, latest first, with
the labels that may be seen. Two rules are kept here and nowhere else: text comes from strictly earlier scenes of any
split; labels come from train only, and never from the scene's own episode, because a new episode never has labels.
Knows no profile and no prompt.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import inf
from operator import add
from typing import Any

from erc_llm.corpus.dialogues import EVERYONE, Corpus, Dialogue, Utterance
from erc_llm.corpus.speakers import identity

_LABELLED_SPLITS = ("train",)  # the selection split is train that nothing is ever fitted on


@dataclass(frozen=True, slots=True)
class PastScene:
    """A scene in which a person spoke, as a later scene may look back on it.

    Attributes:
        dialogue: The scene.
        positions: The person's lines in it, those spoken together with others included.
        distance: How many of the person's own scenes ago; 1 is the latest.
        labels: Label of each line; None where there is none, or where it may not be seen.
    """

    dialogue: Dialogue
    positions: tuple[int, ...]
    distance: int
    labels: tuple[str | None, ...]

    @property
    def lines(self) -> tuple[Utterance, ...]:
        """The person's utterances in the scene."""
        return tuple(self.dialogue.utterances[k] for k in self.positions)


def fading(distance: float, half_life: float) -> float:
    """Weight of what was `distance` own scenes ago: half of it is left after `half_life`, in scenes."""
    return float(0.5 ** (distance / half_life))


class History:
    """Everybody's past, by scene.

    Scenes are put in the order of (season, episode, scene) over all splits; where one of them has no such time, all
    keep the order of the corpus's files (`timed` is False then), whichever split they are in. Scenes of the same time
    do not see each other. A scene that is not part of the corpus comes where its time says, or after everything.
    """

    def __init__(self, corpus: Corpus) -> None:
        self.timed = corpus.timed
        self._generic = corpus.generic
        self._places: dict[str, int] = {}
        for i, (_, dialogue) in enumerate(corpus.in_time):
            self._places.setdefault(dialogue.id, i)
        self.label_names = corpus.labels.names
        self._moments: dict[str, list[Any]] = {}
        self._scenes: dict[str, list[tuple[Dialogue, tuple[int, ...], bool]]] = {}
        self._speakers: dict[str, str] = {}
        self._label_moments: list[Any] = []
        self._label_counts: list[tuple[int, ...]] = [(0,) * len(self.label_names)]
        self._episode_labels: dict[str, list[tuple[Any, tuple[int, ...]]]] = {}
        self._similar: dict[int, dict[tuple[str, int], tuple[str, ...]]] = {}
        for split, dialogue in corpus.in_time:
            self._add(dialogue, split in _LABELLED_SPLITS)

    def before(self, dialogue: Dialogue, person: str, most: int | None = None) -> tuple[PastScene, ...]:
        """Scenes before `dialogue` in which `person` (an `identity`) spoke, latest first; at most `most` of them."""
        moments = self._moments.get(person, [])
        stop = bisect_left(moments, self._moment(dialogue))
        start = 0 if most is None else max(0, stop - most)
        scenes = self._scenes.get(person, [])
        return tuple(self._seen(*scenes[i], stop - i, dialogue) for i in range(stop - 1, start - 1, -1))

    def count(self, dialogue: Dialogue, person: str) -> int:
        """In how many scenes before `dialogue` a person spoke."""
        return bisect_left(self._moments.get(person, []), self._moment(dialogue))

    def similar(self, dialogue: Dialogue, person: str, most: int) -> tuple[str, ...]:
        """Others with about as many scenes before `dialogue` as a person, the most similar first; at most `most`.

        Those who are equally similar come in the order of their identities. For scenes of the corpus all answers are
        found in one pass over time, at the first question.
        """
        count, moment = self.count(dialogue, person), self._moment(dialogue)
        moments = self._moments.get(person, [])
        if moments[count : count + 1] == [moment]:
            if most not in self._similar:
                self._similar[most] = self._all_similar(most)
            return self._similar[most][person, count]
        ranking = _Ranking()
        for known, theirs in self._moments.items():
            ranking.put(known, bisect_left(theirs, moment))
        return ranking.nearest(person, most)

    def label_counts(self, dialogue: Dialogue) -> tuple[int, ...]:
        """How often each label, in label order, was seen on anybody earlier in other episodes of train."""
        moment = self._moment(dialogue)
        counts = self._label_counts[bisect_left(self._label_moments, moment)]
        own = [c for when, c in self._episode_labels.get(_episode(dialogue), []) if when < moment]
        return tuple(n - sum(c[i] for c in own) for i, n in enumerate(counts))

    def person(self, speaker: str, dialogue: Dialogue) -> str:
        """The identity of a speaker of a scene."""
        return identity(speaker, dialogue, self._generic)

    def persons(self) -> Iterator[str]:
        """Everybody who ever speaks, in the order of their first scene."""
        yield from self._scenes

    def scenes(self, person: str) -> tuple[tuple[Dialogue, tuple[int, ...]], ...]:
        """All scenes of a person in time order, with the positions of the person's lines."""
        return tuple((dialogue, positions) for dialogue, positions, _ in self._scenes.get(person, []))

    def speaker(self, person: str) -> str:
        """The plain name of a person, as the corpus has it."""
        return self._speakers[person]

    def _moment(self, dialogue: Dialogue) -> Any:
        if self.timed:
            return dialogue.time or (inf,)
        return (self._places.get(dialogue.id, inf),)

    def _all_similar(self, most: int) -> dict[tuple[str, int], tuple[str, ...]]:
        """(person, how many scenes before) to `similar`, of everybody before each of their scenes."""
        spoke = sorted((moment, person, i) for person, all_ in self._moments.items() for i, moment in enumerate(all_))
        ranking, found = _Ranking(), {}
        for _, together in groupby(spoke, key=lambda scene: scene[0]):  # scenes of one time do not see each other
            now = list(together)
            found.update({(person, i): ranking.nearest(person, most) for _, person, i in now})
            for _, person, i in now:
                ranking.put(person, i + 1)
        return found

    def _add(self, dialogue: Dialogue, labelled: bool) -> None:
        moment = self._moment(dialogue)
        for speaker, positions in spoken_lines(dialogue).items():
            person = self.person(speaker, dialogue)
            if positions:
                self._speakers[person] = speaker
                self._moments.setdefault(person, []).append(moment)
                self._scenes.setdefault(person, []).append((dialogue, positions, labelled))
        if labelled:
            found = Counter(utterance.label for utterance in dialogue.utterances)
            counts = tuple(found[name] for name in self.label_names)
            self._label_moments.append(moment)
            self._label_counts.append(tuple(map(add, self._label_counts[-1], counts)))
            self._episode_labels.setdefault(_episode(dialogue), []).append((moment, counts))

    def _seen(
        self, past: Dialogue, positions: tuple[int, ...], labelled: bool, distance: int, now: Dialogue
    ) -> PastScene:
        visible = labelled and _episode(past) != _episode(now)
        labels = tuple(past.utterances[k].label if visible else None for k in positions)
        return PastScene(past, positions, distance, labels)


class _Ranking:
    """People by how many scenes they have, for finding the nearest ones without looking at everybody."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._people: dict[int, list[str]] = {}  # sorted
        self._taken: list[int] = []  # the counts that somebody has, sorted

    def put(self, person: str, count: int) -> None:
        """A person has so many scenes from now on; who has none is not known."""
        before = self._counts.get(person, 0)
        if before:
            people = self._people[before]
            del people[bisect_left(people, person)]
            if not people:
                del self._people[before]
                del self._taken[bisect_left(self._taken, before)]
        if count:
            if count not in self._people:
                insort(self._taken, count)
            insort(self._people.setdefault(count, []), person)
        self._counts[person] = count

    def nearest(self, person: str, most: int) -> tuple[str, ...]:
        """Others with about as many scenes, the nearest counts first, then by name."""
        own, found = self._counts.get(person, 0), list[str]()
        high = bisect_left(self._taken, own)
        low = high - 1
        while len(found) < most and (low >= 0 or high < len(self._taken)):
            below = own - self._taken[low] if low >= 0 else inf
            above = self._taken[high] - own if high < len(self._taken) else inf
            names: list[str] = []
            if below <= above:
                names += self._people[self._taken[low]][: most + 1]
                low -= 1
            if above <= below:
                names += self._people[self._taken[high]][: most + 1]
                high += 1
            found += sorted(name for name in names if name != person)
        return tuple(found[:most])


def _episode(dialogue: Dialogue) -> str:
    """The episode of a scene; a scene without one is an episode of its own."""
    return dialogue.episode_id or dialogue.id


def speakers_of(dialogue: Dialogue) -> tuple[str, ...]:
    """The single speakers of a scene in the order of their first line; `#ALL#` is nobody of its own."""
    return tuple(dict.fromkeys(s for u in dialogue.utterances for s in u.speakers if s != EVERYONE))


def spoken_lines(dialogue: Dialogue) -> dict[str, tuple[int, ...]]:
    """Positions of the lines that count as a speaker's own in later scenes, for every single speaker of a scene.

    A line of several speakers counts for each of them, one of `#ALL#` for every speaker of the scene, an empty line for
    nobody.
    """
    return {
        speaker: tuple(
            k
            for k, u in enumerate(dialogue.utterances)
            if u.text.strip() and (speaker in u.speakers or EVERYONE in u.speakers)
        )
        for speaker in speakers_of(dialogue)
    }


def first_lines(utterances: Sequence[Utterance]) -> dict[int, tuple[str, ...]]:
    """Position of a line to the speakers whose first line it is."""
    seen: set[str] = set()
    found: dict[int, tuple[str, ...]] = {}
    for k, utterance in enumerate(utterances):
        new = tuple(s for s in dict.fromkeys(utterance.speakers) if s != EVERYONE and s not in seen)
        if new:
            found[k] = new
            seen.update(new)
    return found
