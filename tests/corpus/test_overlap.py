"""Dialogues that two corpora share are found, whatever was done to their spelling; others are not."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from erc_llm.corpus import read_corpus, read_sample
from erc_llm.corpus.dialogues import Dialogue, Utterance
from erc_llm.corpus.labels import MELD
from erc_llm.corpus.overlap import overlapping, words_of

SAMPLE = read_sample()


def rewritten(dialogue: Dialogue, seed: int) -> Dialogue:
    """The same lines in another id, case and punctuation, with other names and a changed word in every third line."""
    draw = random.Random(seed)
    lines = []
    for k, utterance in enumerate(dialogue.utterances):
        words = utterance.text.upper().replace(",", " -").replace(".", "!").replace("'", "\u2019").split()
        if k % 3 == 0 and words:
            words[draw.randrange(len(words))] = "thingummy"
        lines.append(Utterance(f"x{k}", (f"Person {k % 2}",), " ".join(words), None))
    return Dialogue(f"other-{dialogue.id}", tuple(lines))


@pytest.mark.parametrize("seed", range(3))
def test_planted_duplicates_are_found(seed: int) -> None:
    train, dev = SAMPLE.split("train"), SAMPLE.split("dev")
    planted = [rewritten(dialogue, seed) for dialogue in dev]
    matches = overlapping([*train, *planted], dev)
    assert {(m.dialogue, m.held_out) for m in matches} == {(f"other-{d.id}", d.id) for d in dev}
    assert all(m.shared <= m.of for m in matches)


def test_a_part_of_a_scene_is_found() -> None:
    (scene, *_) = SAMPLE.split("dev")
    part = replace(rewritten(scene, 0), utterances=rewritten(scene, 0).utterances[3:7])
    assert [m.held_out for m in overlapping([part], SAMPLE.split("dev"))] == [scene.id]


def test_a_short_dialogue_is_found_behind_a_longer_one_that_shares_more() -> None:
    lines = (
        "The tram to the harbour leaves at nine",
        "Nobody ever fed that old goat on Sundays",
        "The third line is only here to make it long.",
    )
    whole = Dialogue("whole", tuple(Utterance(f"u{i}", ("Ada",), text) for i, text in enumerate(lines)))
    short = Dialogue("short", (Utterance("u", ("Bo",), "Nobody ever fed that old goat"),))
    other = " ".join(f"word{i}" for i in range(60))
    long = Dialogue("long", (Utterance("u", ("Bo",), f"The tram to the harbour leaves at nine {other}"),))
    assert [m.held_out for m in overlapping([whole], [long, short])] == ["short"]


def test_a_dialogue_of_one_sequence_is_found() -> None:
    one, other = (Dialogue(name, (Utterance("u", ("Ada",), "My goat is gone!"),)) for name in ("one", "other"))
    assert [m.shared for m in overlapping([one], [other])] == [1]


def test_common_phrases_are_no_overlap() -> None:
    phrase = Utterance("u", ("Ada",), "I do not know what you mean by that.", None)
    one = [
        Dialogue(f"a{i}", (phrase, Utterance("v", ("Bo",), f"Number {i} is not my favourite one.", None)))
        for i in range(20)
    ]
    other = [Dialogue(f"b{i}", (phrase,)) for i in range(20)]
    assert overlapping(one, other) == []


def test_words() -> None:
    assert words_of("Don\u2019t  cr\u00c9er -- IT, don't!") == ["dont", "creer", "it", "dont"]
    assert words_of("?!") == []
    assert overlapping([Dialogue("a", ())], [Dialogue("b", ())]) == []


@pytest.mark.emorynlp
def test_meld_and_emorynlp_share_scenes(emorynlp: Path) -> None:
    meld = emorynlp.parent / "meld"
    if not meld.is_dir():
        pytest.skip("MELD is not there")
    series = read_corpus(meld, labels=MELD)
    held_out = read_corpus(emorynlp / "aligned").split("dev")
    matches = overlapping(series.split("train"), held_out)
    time = {d.id: d.time for d in (*series.dialogues(), *held_out)}
    alike = [m for m in matches if (time[m.dialogue] or ())[:2] == (time[m.held_out] or ())[:2]]
    assert len(alike) >= 20
    assert len(alike) >= 0.8 * len(matches)  # the rest are old scenes that an episode shows again
