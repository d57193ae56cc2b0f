"""Profiles in a person's own past lines: which are recalled, and how they are quoted."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erc_llm.corpus import Corpus
from erc_llm.corpus.history import History
from erc_llm.profiles.lines import LinesWriter
from erc_llm.profiles.profiler import NOT_SEEN, Control, Profile, Profiler
from tests.profiles.written_profiles import NOW, every_control, profile_of, relaxed
from tests.prompting.random_corpora import (
    corpora,
    moments,
    scene_of,
)


def test_the_line_that_has_to_do_with_what_is_said_is_recalled_not_one_of_the_same_age() -> None:
    past = scene_of(
        1, ("Ada", "Somebody ate my sandwich again."), ("Ben", "No."), ("Ada", "The dinosaur lived very long ago.")
    )
    about_food = scene_of(2, ("Ben", "Who wants a sandwich?"), ("Ada", "Me!"))
    about_bones = scene_of(2, ("Ben", "We found a dinosaur."), ("Ada", "Me!"))
    assert profile_of([past], LinesWriter(1), about_food).sentences == ('"Somebody ate my sandwich again."',)
    assert profile_of([past], LinesWriter(1), about_bones).sentences == ('"The dinosaur lived very long ago."',)


def test_a_relevant_line_goes_before_a_somewhat_later_irrelevant_one() -> None:
    past = [scene_of(1, ("Ada", "Somebody ate my sandwich.")), scene_of(2, ("Ada", "The train was late again."))]
    now = scene_of(3, ("Ben", "Ada, is that your sandwich?"), ("Ada", "Me!"))
    assert profile_of(past, LinesWriter(), now).sentences[0] == '"Somebody ate my sandwich."'


def test_relevance_does_not_bring_back_what_has_faded() -> None:
    past = [scene_of(1, ("Ada", "Somebody ate my sandwich."))]
    past += [scene_of(i, ("Ada", f"The train number {i} was late.")) for i in range(2, 8)]
    now = scene_of(9, ("Ben", "Ada, somebody ate your sandwich?"), ("Ada", "Me!"))
    assert profile_of(past, LinesWriter(1), now, half_life=50).sentences == ('"Somebody ate my sandwich."',)
    assert profile_of(past, LinesWriter(1), now, half_life=1.2).sentences == ('"The train number 7 was late."',)


@pytest.mark.parametrize("before", [(), (("Ben", "   "),), (("Ben", "Zebra!"),)])
def test_without_anything_to_go_by_recent_lines_are_recalled(before: tuple[tuple[str, str], ...]) -> None:
    past = [scene_of(i, ("Ada", f"The train number {name} was late.")) for i, name in enumerate("abcde", start=1)]
    now = scene_of(9, *before, ("Ada", "Hello."))
    assert profile_of(past, LinesWriter(2), now).sentences == (
        '"The train number e was late."',
        '"The train number d was late."',
    )


def test_of_equally_relevant_lines_the_recent_one_is_recalled() -> None:
    past = [scene_of(i, ("Ada", f"My sandwich was {how}.")) for i, how in enumerate(["eaten", "stolen"], start=1)]
    now = scene_of(3, ("Ben", "A sandwich!"), ("Ada", "Hello."))
    assert profile_of(past, LinesWriter(1), now).sentences == ('"My sandwich was stolen."',)


def test_the_last_digits_of_a_similarity_decide_nothing() -> None:
    """An encoder's depend on what else is in its batch."""
    past = [scene_of(1, ("Ada", "Somebody ate my sandwich."), ("Ben", "No."), ("Ada", "Somebody ate my hat."))]
    now = scene_of(2, ("Ben", "Somebody ate something."), ("Ada", "Yes."))
    told = [
        profile_of(past, LinesWriter(similarity=lambda _, texts, e=e: [0.5, 0.5 + e][: len(texts)]), now).sentences
        for e in (-1e-6, 0.0, 1e-6)
    ]
    assert told[0] == told[1] == told[2]


def test_only_what_stands_before_the_profile_is_asked_with_and_only_own_lines_are_asked_for() -> None:
    asked: list[tuple[str, list[str]]] = []

    def similarity(query: str, texts: Sequence[str]) -> list[float]:
        asked.append((query, list(texts)))
        return [-1.0] * len(texts)

    past = scene_of(1, ("Ada", "This is my own line."), ("Ben", "This is not her line."))
    now = scene_of(2, ("Cleo", "First."), ("Dan", "Second."), ("Ada", "Third, and mine."), ("Ben", "Fourth."))
    profile = profile_of([past], LinesWriter(similarity=similarity), now)
    assert asked[0] == ("First. Second.", ["This is my own line."])
    assert profile.sentences == ('"This is my own line."',)


@relaxed
@given(corpus=corpora(), count=st.integers(1, 4))
def test_never_more_lines_than_asked_for_and_each_was_said_before(corpus: Corpus, count: int) -> None:
    history = History(corpus)
    for dialogue in corpus.dialogues():
        for speaker, profile in Profiler(history, LinesWriter(count)).profiles(dialogue).items():
            past = history.before(dialogue, history.person(speaker, dialogue))
            said = {f'"{u.text}"' for scene in past for u in scene.lines}
            assert len(profile.sentences) <= count
            assert len(set(profile.sentences)) == len(profile.sentences)
            assert set(profile.sentences) <= said | {NOT_SEEN}


@every_control
@relaxed
@given(corpus=corpora())
def test_sources_of_lines_are_where_they_were_said_and_no_labels_are(control: Control, corpus: Corpus) -> None:
    said = {d.id: {f'"{u.text}"' for u in d.utterances} for d in corpus.dialogues()}
    place = moments(corpus)
    for dialogue in corpus.dialogues():
        for profile in Profiler(History(corpus), LinesWriter(2), 1.0, control).profiles(dialogue).values():
            assert profile.label_scenes == ()
            assert profile.labels == 0
            quoted = set(profile.sentences) - {NOT_SEEN}
            assert profile.lines == len(quoted)
            assert len(profile.scenes) <= len(quoted) <= 2
            assert all(said[scene] & quoted for scene in profile.scenes)
            assert quoted <= {line for scene in profile.scenes for line in said[scene]}
            assert [place[scene] for scene in profile.scenes] == sorted(map(place.get, profile.scenes), reverse=True)


def test_a_long_line_is_cut_between_words_and_says_so() -> None:
    past = scene_of(1, ("Ada", " ".join(f"word{i}" for i in range(40))))
    assert profile_of([past], LinesWriter(longest=5), NOW).sentences == ('"word0 word1 word2 word3 word4..."',)
    whole = scene_of(1, ("Ada", "just as long as that"))
    assert profile_of([whole], LinesWriter(longest=5), NOW).sentences == ('"just as long as that"',)


def test_lines_that_say_nothing_are_not_recalled() -> None:
    past = scene_of(1, ("Ada", "Oh!"), ("Ada", "What?"), ("Ada", "  "))
    profile = profile_of([past], LinesWriter(), NOW)
    assert profile == Profile("Ada", ())
    assert profile.text == ""


def test_a_line_said_again_and_again_is_recalled_once_and_cannot_close_its_quotation() -> None:
    past = [scene_of(i, ("Ada", 'He said "we were on a break"!')) for i in range(1, 4)]
    assert profile_of(past, LinesWriter(), NOW).sentences == ("\"He said 'we were on a break'!\"",)
