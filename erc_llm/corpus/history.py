"""Speaker history: the earlier scenes of a person, from which a speaker profile may be written.

This module alone enforces the two rules against leaks: text comes from strictly earlier scenes of any split; labels
come from train only, and never from the scene's own episode, because a new episode has no labels.

Input: a corpus. Output: for a scene and a person, the strictly earlier scenes of that person, latest first, with the
labels that may be used.
Does not depend on: profiles, prompts.
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

_LABELLED_SPLITS = ("train",)  # without the selection split, on which nothing may be fitted


@dataclass(frozen=True, slots=True)
class PastScene:
    """A scene in which a person spoke, as far as a later scene may use it.

    Attributes:
        dialogue: The scene.
        positions: Positions of the person's lines, including those spoken together with others.
        distance: Number of the person's own scenes back in time; 1 is the latest.
        labels: Label of each line; None where it is unlabelled, or where its label may not be used.
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
    """Weight of a scene `distance` own scenes ago; it halves every `half_life` scenes."""
    return float(0.5 ** (distance / half_life))


class History:
    """The earlier scenes of every person, for any scene.

    Scenes are sorted by (season, episode, scene) over all splits; if any of them has no such time, all keep the order
    of the corpus's files over all splits (`timed` is then False). Scenes with the same time are not earlier than each
    other. A scene from outside the corpus is placed by its time, or after all others if it has none.
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
        """Number of scenes before `dialogue` in which a person spoke."""
        return bisect_left(self._moments.get(person, []), self._moment(dialogue))

    def similar(self, dialogue: Dialogue, person: str, most: int) -> tuple[str, ...]:
        """At most `most` other persons whose number of scenes before `dialogue` is closest, closest first.

        Ties are ordered by identity. For scenes of the corpus, the first call computes the results of all scenes in one
        pass over time.
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
        """Count of each label, in label order, over all persons in earlier scenes of other episodes of train."""
        moment = self._moment(dialogue)
        counts = self._label_counts[bisect_left(self._label_moments, moment)]
        own = [c for when, c in self._episode_labels.get(_episode(dialogue), []) if when < moment]
        return tuple(n - sum(c[i] for c in own) for i, n in enumerate(counts))

    def person(self, speaker: str, dialogue: Dialogue) -> str:
        """Identity of a speaker in a scene."""
        return identity(speaker, dialogue, self._generic)

    def persons(self) -> Iterator[str]:
        """All persons who speak, ordered by their first scene."""
        yield from self._scenes

    def scenes(self, person: str) -> tuple[tuple[Dialogue, tuple[int, ...]], ...]:
        """All scenes of a person in time order, with the positions of the person's lines."""
        return tuple((dialogue, positions) for dialogue, positions, _ in self._scenes.get(person, []))

    def speaker(self, person: str) -> str:
        """The plain name of a person, as spelled in the corpus."""
        return self._speakers[person]

    def _moment(self, dialogue: Dialogue) -> Any:
        if self.timed:
            return dialogue.time or (inf,)
        return (self._places.get(dialogue.id, inf),)

    def _all_similar(self, most: int) -> dict[tuple[str, int], tuple[str, ...]]:
        """Results of `similar` before each scene of each person, by (person, number of earlier scenes)."""
        spoke = sorted((moment, person, i) for person, all_ in self._moments.items() for i, moment in enumerate(all_))
        ranking, found = _Ranking(), {}
        for _, together in groupby(spoke, key=lambda scene: scene[0]):  # scenes with the same time together
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
    """Index of persons by number of scenes; finds those with the nearest counts without a scan over all persons."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._people: dict[int, list[str]] = {}  # sorted
        self._taken: list[int] = []  # counts that occur, sorted

    def put(self, person: str, count: int) -> None:
        """Set a person's number of scenes; persons with 0 scenes are not ranked."""
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
        """At most `most` other persons, nearest counts first, then by name."""
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
    """Episode of a scene; a scene without one counts as its own episode."""
    return dialogue.episode_id or dialogue.id


def speakers_of(dialogue: Dialogue) -> tuple[str, ...]:
    """Names of the speakers of a scene, ordered by their first line, without `#ALL#`."""
    return tuple(dict.fromkeys(s for u in dialogue.utterances for s in u.speakers if s != EVERYONE))


def spoken_lines(dialogue: Dialogue) -> dict[str, tuple[int, ...]]:
    """Each speaker of a scene to the positions of the lines that later scenes may use as that speaker's past.

    A line of several speakers counts for each of them, a line of `#ALL#` for every speaker of the scene, and an empty
    line for nobody.
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
    """Position of an utterance to the speakers whose first line it is; other positions are left out."""
    seen: set[str] = set()
    found: dict[int, tuple[str, ...]] = {}
    for k, utterance in enumerate(utterances):
        new = tuple(s for s in dict.fromkeys(utterance.speakers) if s != EVERYONE and s not in seen)
        if new:
            found[k] = new
            seen.update(new)
    return found
