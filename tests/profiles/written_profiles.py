"""Profiles of made-up scenes by every writer, for the tests of profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from erc_llm.corpus import Corpus, Dialogue
from erc_llm.corpus.history import History
from erc_llm.profiles.lines import LinesWriter
from erc_llm.profiles.profiler import Control, Profile, ProfileContext, Profiler, ProfileWriter
from erc_llm.profiles.statistics import StatisticsWriter
from tests.prompting.random_corpora import (
    corpus_of,
    scene_of,
)

relaxed = settings(max_examples=25, deadline=None)
CONTROLS: tuple[Control, ...] = ("none", "shuffled", "stale")
every_control = pytest.mark.parametrize("control", CONTROLS)


class TellsAll:
    """Everything a writer may use, so that whatever leaks is seen in the text."""

    def write(self, moment: ProfileContext) -> Profile:
        past = [
            (p.dialogue.id, p.distance, p.labels, p.positions, [(u.speakers, u.text) for u in p.dialogue.utterances])
            for p in moment.scenes
        ]
        preceding = [(u.speakers, u.text) for u in moment.preceding]
        told = (moment.person, str(moment.weights), str(dict(moment.everyone)), str(preceding), str(past))
        return Profile(moment.speaker, told, *sources_of(moment))


def sources_of(moment: ProfileContext) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids of all scenes of a moment, and of those with labels."""
    labelled = tuple(p.dialogue.id for p in moment.scenes if any(label is not None for label in p.labels))
    return tuple(p.dialogue.id for p in moment.scenes), labelled


WRITERS: tuple[ProfileWriter, ...] = (StatisticsWriter(), LinesWriter(2), TellsAll())


class Everybody:
    """The profiles of a corpus's scenes by every writer."""

    def __init__(self, corpus: Corpus, control: Control = "none", half_life: float = 1.0) -> None:
        history = History(corpus)
        self._profilers = [Profiler(history, writer, half_life, control) for writer in WRITERS]

    def of(self, dialogue: Dialogue) -> list[dict[str, Profile]]:
        return [profiler.profiles(dialogue) for profiler in self._profilers]


def written(corpus: Corpus, dialogue: Dialogue, control: Control = "none") -> list[dict[str, Profile]]:
    """The profiles of one scene by every writer."""
    return Everybody(corpus, control).of(dialogue)


def profile_of(
    scenes: Sequence[Dialogue] | Mapping[str, Sequence[Dialogue]],
    writer: ProfileWriter,
    now: Dialogue,
    speaker: str = "Ada",
    half_life: float = 8.0,
    control: Control = "none",
) -> Profile:
    """A speaker's profile before scene `now`, whose past is these scenes of train (or of the splits named)."""
    splits = scenes if isinstance(scenes, Mapping) else {"train": scenes}
    return Profiler(History(corpus_of(splits)), writer, half_life, control).profiles(now)[speaker]


def any_scene(corpus: Corpus) -> st.SearchStrategy[Dialogue]:
    return st.sampled_from(list(corpus.dialogues()))


def lasting_mood(speaker: str, label: str, count: int, start: int = 1) -> list[Dialogue]:
    """Episodes in which one person always feels the same and the others are divided."""
    return [
        scene_of(
            i,
            (speaker, "What is this now?", label),
            ("Ben", "It is my hat.", "Neutral"),
            (speaker, "Take it away, please.", label),
            ("Cleo", "It is a nice hat.", ("Joyful", "Sad", "Mad", "Scared")[i % 4]),
        )
        for i in range(start, start + count)
    ]


NOW = scene_of(60, ("Ada", "Well."), ("Ben", "Well?"), ("Cleo", "Well!"))
