"""Profiles never peek: nothing later, and no label that use would not have, changes a byte."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erc_llm.corpus import Corpus, Dialogue, Utterance, read_corpus, selection_split
from erc_llm.corpus.history import History, first_lines, speakers_of
from erc_llm.profiles.lines import LinesWriter
from erc_llm.profiles.profiler import Control, Profile, ProfileContext, Profiler, ProfileWriter
from erc_llm.profiles.statistics import StatisticsWriter
from tests.profiles.written_profiles import (
    Everybody,
    TellsAll,
    any_scene,
    every_control,
    lasting_mood,
    relaxed,
    sources_of,
    written,
)
from tests.prompting.random_corpora import (
    changed,
    corpora,
    corpus_of,
    moments,
    relabelled,
    rewritten_after,
    rewritten_future,
    same_episode,
    scene_of,
    split_of,
)


@every_control
@relaxed
@given(corpus=st.one_of(corpora(), corpora("some")))
def test_sources_are_strictly_earlier_and_label_sources_of_train_and_of_other_episodes(
    control: Control, corpus: Corpus
) -> None:
    check_sources(corpus, Profiler(History(corpus), TellsAll(), 1.0, control))


def check_sources(corpus: Corpus, profiler: Profiler) -> tuple[int, int]:
    """Of every profile of every scene; returns how many sources there were, and how many of labels."""
    scenes = {d.id: d for d in corpus.dialogues()}
    place, split = moments(corpus), split_of(corpus)
    sources = label_sources = 0
    for dialogue in corpus.dialogues():
        for speaker, profile in profiler.profiles(dialogue).items():
            assert profile.speaker == speaker
            assert all(place[source] < place[dialogue.id] for source in profile.scenes)
            assert set(profile.label_scenes) <= set(profile.scenes)
            assert all(split[source] == "train" for source in profile.label_scenes)
            assert not any(same_episode(scenes[source], dialogue) for source in profile.label_scenes)
            sources += len(profile.scenes)
            label_sources += len(profile.label_scenes)
    return sources, label_sources


@every_control
@relaxed
@given(data=st.data())
def test_labels_that_are_not_of_train_change_no_byte(control: Control, data: st.DataObject) -> None:
    corpus = data.draw(st.one_of(corpora(), corpora("some")))
    other = changed(corpus, lambda split, d: d if split == "train" else relabelled(d))
    before, after = Everybody(corpus, control), Everybody(other, control)
    for one, two in zip(corpus.dialogues(), other.dialogues(), strict=True):
        assert before.of(one) == after.of(two)


@every_control
@pytest.mark.parametrize("episodes", [None, "some"])
@relaxed
@given(data=st.data())
def test_labels_of_the_own_episode_change_no_byte(control: Control, episodes: str | None, data: st.DataObject) -> None:
    corpus = data.draw(corpora(episodes))
    now = data.draw(any_scene(corpus))
    other = changed(corpus, lambda _, d: relabelled(d) if same_episode(d, now) else d)
    assert written(corpus, now, control) == written(other, relabelled(now), control)


@every_control
@relaxed
@given(data=st.data())
def test_later_lines_and_later_speakers_change_no_byte_of_a_profile_before_them(
    control: Control, data: st.DataObject
) -> None:
    corpus = data.draw(corpora())
    now = data.draw(any_scene(corpus).filter(lambda d: speakers_of(d)))
    position = data.draw(st.sampled_from(sorted(first_lines(now.utterances))))
    other = data.draw(rewritten_after(now, position))
    before = {s for k, speakers in first_lines(now.utterances).items() if k <= position for s in speakers}
    rewritten = changed(corpus, lambda _, d: other if d.id == now.id else d)
    for one, two in zip(written(corpus, now, control), written(rewritten, other, control), strict=True):
        assert {s: one[s] for s in before} == {s: two[s] for s in before}


@every_control
@relaxed
@given(data=st.data())
def test_later_scenes_change_no_byte(control: Control, data: st.DataObject) -> None:
    corpus = data.draw(corpora())
    now = data.draw(any_scene(corpus))
    other = data.draw(rewritten_future(corpus, now))
    assert written(corpus, now, control) == written(other, now, control)


@every_control
def test_somebody_who_speaks_later_for_the_first_time_changes_no_byte(control: Control) -> None:
    past = [scene_of(i, ("Ada", f"I said this {i} times."), ("Ben", "So did I, Ada.")) for i in range(1, 4)]
    now = scene_of(4, ("Ada", "Again."))
    later = [scene_of(5 + i, (f"Person {i}", "I am new here, hello.")) for i in range(9)]
    alone = History(corpus_of({"train": [*past, now]}))
    crowded = History(corpus_of({"train": [*past, now], "dev": later}))
    for seed in range(10):  # of the shuffled control's draws, one could be right by chance
        one, two = (Profiler(history, TellsAll(), 1.0, control, seed) for history in (alone, crowded))
        assert one.profiles(now) == two.profiles(now)


def test_labels_of_earlier_train_episodes_are_told() -> None:
    """Otherwise the tests above would hold of profiles that use no label at all."""
    corpus = lasting_mood("Ada", "Mad", 10)
    now = scene_of(50, ("Ada", "Well."))
    other = changed(corpus_of({"train": corpus}), lambda _, d: relabelled(d))
    one, two = (Everybody(told, half_life=8.0).of(now) for told in (corpus_of({"train": corpus}), other))
    assert one[0]["Ada"] != two[0]["Ada"]
    assert one[2]["Ada"] != two[2]["Ada"]
    assert one[0]["Ada"].label_scenes == one[0]["Ada"].scenes != ()


# The whole of EmoryNLP


@pytest.fixture(scope="module")
def original(emorynlp: Path) -> Corpus:
    return selection_split(read_corpus(emorynlp / "original"))


@pytest.mark.emorynlp
@every_control
def test_sources_of_every_profile_of_emorynlp(control: Control, original: Corpus) -> None:
    class Silent:
        def write(self, moment: ProfileContext) -> Profile:
            return Profile(moment.speaker, (moment.person,), *sources_of(moment))

    sources, label_sources = check_sources(original, Profiler(History(original), Silent(), control=control))
    assert sources > label_sources > 10_000


@pytest.mark.emorynlp
def test_no_byte_of_emorynlps_profiles_comes_from_hidden_labels_or_the_future(original: Corpus) -> None:
    """Every scene without its future: other labels in dev, selection and its episode, nothing after that episode.

    In one scene of every third episode (another one each time), nothing after the scene either; the controls are looked
    at in these episodes only, which keeps this short. Of each scene, everything after the first line of one of its
    speakers (another one each time) is gone.
    """
    hidden = changed(original, lambda split, d: d if split == "train" else relabelled(d))
    past = History(original)
    scenes = sorted(original.dialogues(), key=lambda d: d.time or ())
    for number, (_, episode) in enumerate(groupby(scenes, key=lambda d: d.episode_id)):
        told = list(episode)
        now = told[number % len(told)]
        cuts = [(told[-1], told), *([(now, [now])] if number % 3 == 0 else [])]
        for last, asked in cuts:
            blind = History(without_future(hidden, last))
            for one, two in zip(profilers(past, number), profilers(blind, number), strict=True):
                for dialogue in asked:
                    whole, part = one.profiles(dialogue), two.profiles(cut_short(dialogue, number))
                    assert part
                    assert part == {speaker: whole[speaker] for speaker in part}


def profilers(history: History, number: int) -> list[Profiler]:
    """Both writers, in every third episode under a control too; a short half-life keeps them quick."""
    pairs: list[tuple[ProfileWriter, Control]] = [(StatisticsWriter(), "none"), (LinesWriter(2), "none")]
    if number % 3 == 0:
        pairs += [(StatisticsWriter(), "shuffled"), (LinesWriter(2), "stale")]
    return [Profiler(history, writer, 1.0, control) for writer, control in pairs]


def without_future(corpus: Corpus, now: Dialogue) -> Corpus:
    """The corpus up to and with a scene; other labels in that scene's episode."""
    assert now.time is not None
    last, episode = now.time, now.episode_id

    def change(_: str, dialogue: Dialogue) -> Dialogue | None:
        if dialogue.time is None or dialogue.time > last:
            return None
        return relabelled(dialogue) if dialogue.episode_id == episode else dialogue

    return changed(corpus, change)


def cut_short(dialogue: Dialogue, number: int) -> Dialogue:
    """The scene up to the first line of one of its speakers, with other words there and a newcomer after it."""
    firsts = sorted(first_lines(dialogue.utterances)) or [0]
    position = firsts[(number + (dialogue.scene or 0)) % len(firsts)]
    here = replace(dialogue.utterances[position], text="These are other words.")
    newcomer = Utterance("new", dialogue.utterances[0].speakers, "I am back already.", "Sad")
    return relabelled(replace(dialogue, utterances=(*dialogue.utterances[:position], here, newcomer)))
