"""Profiles in counts: what is told of a person is what evidence carries."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given

from erc_llm.corpus import Corpus, Dialogue
from erc_llm.corpus.history import History
from erc_llm.profiles.profiler import Profile, Profiler
from erc_llm.profiles.statistics import StatisticsWriter
from tests.profiles.written_profiles import NOW, Everybody, lasting_mood, profile_of, relaxed
from tests.prompting.random_corpora import (
    corpora,
    corpus_of,
    scene_of,
)


def leanings(profile: Profile) -> list[str]:
    return [sentence.lower() for sentence in profile.sentences if "than most" in sentence]


def shifts(profile: Profile) -> list[str]:
    return [sentence.lower() for sentence in profile.sentences if "lately" in sentence.lower()]


def test_a_strong_leaning_is_told_with_its_evidence() -> None:
    profile = profile_of(lasting_mood("Ada", "Mad", 10), StatisticsWriter(), NOW)
    (sentence,) = leanings(profile)
    assert "more mad" in sentence
    assert "more neutral" not in sentence
    assert "(worth 16 labels)" in sentence, "twenty, faded a little, and two of a scene tell less than two scenes"
    assert profile.labels == 20


def test_a_leaning_is_relative_to_everyone() -> None:
    """Ben is never anything but neutral, which is no news where nobody is."""
    scenes = [
        scene_of(i, ("Ada", "What is this?", "Neutral"), ("Ben", "A hat.", "Neutral"), ("Cleo", "Oh.", "Neutral"))
        for i in range(1, 11)
    ]
    assert leanings(profile_of(scenes, StatisticsWriter(), NOW, "Ben")) == []
    (sentence,) = leanings(profile_of(lasting_mood("Ada", "Mad", 10), StatisticsWriter(), NOW, "Ben"))
    assert "more neutral" in sentence


def test_less_than_most_is_told_too() -> None:
    others = [("Ben", "Grr, my hat.", "Mad"), ("Cleo", "Grr, your hat.", "Mad")]
    scenes = [scene_of(i, *others, ("Ada", "Fine.", "Neutral"), ("Ada", "Good.", "Neutral")) for i in range(1, 11)]
    assert "less mad" in leanings(profile_of(scenes, StatisticsWriter(), NOW))[0]


def test_who_feels_like_everybody_has_no_leaning() -> None:
    moods = ("Mad", "Neutral", "Joyful")
    scenes = [
        scene_of(i, *((who, "It is my hat.", mood) for mood in moods for who in ("Ada", "Ben"))) for i in range(1, 11)
    ]
    for who in ("Ada", "Ben"):
        profile = profile_of(scenes, StatisticsWriter(), NOW, who)
        assert leanings(profile) == shifts(profile) == []
        assert profile.labels == 30


@pytest.mark.parametrize("mad", [1, 2])
def test_a_leaning_that_chance_explains_is_not_told(mad: int) -> None:
    """Ada is mad once or twice in ten times, everybody else once in six."""
    moods = ["Mad"] * mad + ["Neutral"] * (10 - mad)
    scenes = [
        scene_of(i, ("Ada", "My hat.", mood), *(("Ben", "A hat.", m) for m in ["Mad"] + ["Neutral"] * 5))
        for i, mood in enumerate(moods, start=1)
    ]
    assert leanings(profile_of(scenes, StatisticsWriter(), NOW)) == []


@pytest.mark.parametrize("label", ["Sad", "Mad", "Neutral"])
def test_a_single_label_is_no_strong_evidence_however_rare(label: str) -> None:
    usual = [("Ben", "It is my hat.", "Neutral")] * 9 + [("Ben", "It was my hat.", "Sad")]
    scenes = [scene_of(i, *usual) for i in range(1, 9)]
    once = scene_of(9, ("Ada", "Oh my hat!", label))
    profile = profile_of([*scenes, once], StatisticsWriter(), NOW)
    assert profile.labels == 1
    assert leanings(profile) == []


@pytest.mark.parametrize("split", ["dev", "selection", "test"])
def test_no_label_of_another_split_is_told(split: str) -> None:
    profile = profile_of({split: lasting_mood("Ada", "Mad", 10)}, StatisticsWriter(), NOW)
    assert leanings(profile) == shifts(profile) == []
    assert (len(profile.scenes), profile.labels, profile.label_scenes) == (10, 0, ())


def test_no_label_of_the_own_episode_is_told() -> None:
    scenes = [replace(scene, episode=1, scene=i) for i, scene in enumerate(lasting_mood("Ada", "Mad", 10))]
    profile = profile_of(scenes, StatisticsWriter(), scene_of(20, ("Ada", "Well."), episode=1))
    assert leanings(profile) == shifts(profile) == []
    assert (len(profile.scenes), profile.labels) == (10, 0)


def test_a_recent_shift_is_told_against_the_long_run() -> None:
    scenes = [*lasting_mood("Ada", "Neutral", 12), *lasting_mood("Ada", "Sad", 3, start=13)]
    (sentence,) = shifts(profile_of(scenes, StatisticsWriter(), NOW))
    assert "more sad" in sentence
    assert "than usual" in sentence
    assert "(worth 5 labels)" in sentence


def test_what_is_long_ago_is_not_lately() -> None:
    """Scenes without a label in between, as those of dev are, push it out of the half-life."""
    scenes = [*lasting_mood("Ada", "Neutral", 12), *lasting_mood("Ada", "Sad", 3, start=13)]
    since = [scene_of(i, ("Ada", "I say nothing of it.")) for i in range(16, 23)]
    assert shifts(profile_of({"train": scenes, "dev": since[:2]}, StatisticsWriter(), NOW, half_life=4))
    assert not shifts(profile_of({"train": scenes, "dev": since}, StatisticsWriter(), NOW, half_life=4))


def test_one_scene_is_no_shift_however_long() -> None:
    scenes = [*lasting_mood("Ada", "Neutral", 12), scene_of(13, *[("Ada", "Oh no, not you.", "Sad")] * 12)]
    assert shifts(profile_of(scenes, StatisticsWriter(), NOW)) == []


def test_labels_of_one_scene_are_one_mood() -> None:
    """As many labels tell more, the more scenes they come from."""
    usual = lasting_mood("Ben", "Neutral", 30)
    angry = [("Ada", "Give it back to me.", "Mad")] * 12
    together = [scene_of(31, *angry)]
    apart = [scene_of(31 + i, line) for i, line in enumerate(angry)]
    assert leanings(profile_of([*usual, *together], StatisticsWriter(), NOW)) == []
    (sentence,) = leanings(profile_of([*usual, *apart], StatisticsWriter(), NOW))
    assert "more mad" in sentence


MOODS = ("Neutral", "Neutral", "Neutral", "Joyful", "Joyful", "Scared", "Mad", "Peaceful", "Powerful", "Sad")


def moody_corpus(seed: int, shuffled: bool) -> Corpus:
    """Forty episodes of four people with three lines each. A label is the mood that its speaker is in, or any.

    Ada is often mad, and nobody else is anything in particular; where `shuffled`, all moods are dealt anew.
    """
    draw = random.Random(seed)
    blocks = {}
    for i in range(40):
        for who in ("Ada", "Ben", "Cleo", "Dan"):
            mood, held = ("Mad", 0.8) if who == "Ada" and i % 2 else (draw.choice(MOODS), 0.37)  # 0.14 alike
            blocks[i, who] = [mood if draw.random() < held else draw.choice(MOODS) for _ in range(3)]
    if shuffled:
        dealt = list(blocks.values())
        draw.shuffle(dealt)
        blocks = dict(zip(blocks, dealt, strict=True))
    said = [
        [(who, "It is a nice hat.", blocks[i, who][k]) for k in range(3) for who in ("Ada", "Ben", "Cleo", "Dan")]
        for i in range(40)
    ]
    return corpus_of({"train": [scene_of(i + 1, *lines) for i, lines in enumerate(said)]})


def shares_told(shuffled: bool) -> tuple[float, float]:
    """Of profiles with at least 25 labels, over several corpora: the share that tells a leaning, and a shift."""
    found = []
    for seed in range(20):
        corpus = moody_corpus(seed, shuffled)
        profiler = Profiler(History(corpus), StatisticsWriter())
        profiles = [p for d in corpus.dialogues() for p in profiler.profiles(d).values()]
        found += [(bool(leanings(p)), bool(shifts(p))) for p in profiles if p.labels >= 25]
    assert len(found) > 1000
    return sum(told for told, _ in found) / len(found), sum(told for _, told in found) / len(found)


def test_chance_is_told_in_less_than_one_profile_of_twenty() -> None:
    assert max(shares_told(shuffled=True)) < 0.05
    assert shares_told(shuffled=False)[0] > 0.2


def talk(scenes: Sequence[Dialogue], speaker: str = "Ada", half_life: float = 8.0) -> str:
    return profile_of(scenes, StatisticsWriter(), NOW, speaker, half_life).text


def test_how_much_one_talks_and_with_whom() -> None:
    scenes = [
        scene_of(i, ("Ada", "So."), ("Ada", "I say."), ("Ada", "Hats!"), ("Ben Ode", "Oh."), ("Ada", "And shoes."))
        for i in range(1, 4)
    ]
    assert talk(scenes) == "Talks a lot, mostly with Ben."
    now = scene_of(60, ("Ben Ode", "Well."))
    assert profile_of(scenes, StatisticsWriter(), now, "Ben Ode").text == "Talks little, mostly with Ada."


def test_an_equal_share_is_as_much_as_others() -> None:
    scenes = [scene_of(i, ("Ada", "So."), ("Ben", "So?"), ("Ada", "So."), ("Ben", "Oh.")) for i in range(1, 4)]
    assert talk(scenes) == "Talks as much as others, mostly with Ben."


def test_whose_lines_one_answers_most_comes_first() -> None:
    scenes = [scene_of(i, ("Ben", "So?"), ("Ada", "So."), ("Dan", "Oh.")) for i in range(1, 3)]
    scenes += [scene_of(i, ("Cleo", "So?"), ("Ada", "So."), ("Dan", "Oh.")) for i in range(3, 6)]
    assert "mostly with Cleo and Ben" in talk(scenes, half_life=20)


def test_with_whom_one_talked_long_ago_fades() -> None:
    scenes = [scene_of(i, ("Ben", "So?"), ("Ada", "So.")) for i in range(1, 5)]
    scenes += [scene_of(i, ("Cleo", "So?"), ("Ada", "So.")) for i in range(5, 7)]
    assert "mostly with Cleo and Ben" in talk(scenes, half_life=1)
    assert "mostly with Ben and Cleo" in talk(scenes, half_life=50)


def test_who_talks_alone_talks_with_nobody() -> None:
    assert " with " not in talk([scene_of(1, ("Ada", "So."), ("Ada", "Hm."), ("#ALL#", "Well."))])


@relaxed
@given(corpus=corpora("all"))
def test_statistics_are_sentences_in_plain_english(corpus: Corpus) -> None:
    everybody = Everybody(corpus)
    for dialogue in corpus.dialogues():
        for profile in everybody.of(dialogue)[0].values():
            assert profile.sentences
            for sentence in profile.sentences:
                assert sentence[0].isupper()
                assert sentence.endswith(".")
                assert "\n" not in sentence
