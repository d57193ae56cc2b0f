"""The stored lengths of histories count the lines that speaker profiles are written from."""

from __future__ import annotations

from hypothesis import given, settings

from erc_llm.corpus.dialogues import EVERYONE, Corpus, Dialogue, Utterance
from erc_llm.corpus.history import History
from erc_llm.predictions import history_lengths
from tests.prompting.random_corpora import corpora


@settings(max_examples=100, deadline=None)
@given(corpus=corpora())
def test_a_history_is_as_long_as_the_past_that_profiles_see(corpus: Corpus) -> None:
    history = History(corpus)
    scenes = [dialogue for _, dialogue in corpus.in_time]
    lengths = history_lengths(scenes, corpus.generic)
    for dialogue in scenes:
        speakers = {speaker for u in dialogue.utterances for speaker in u.speakers}
        assert lengths[dialogue].keys() == speakers
        for speaker in speakers:
            past = history.before(dialogue, history.person(speaker, dialogue))
            assert lengths[dialogue][speaker] == sum(len(scene.positions) for scene in past)


def test_a_line_of_everybody_counts_for_each_speaker_of_its_scene_and_for_nobody_else() -> None:
    said = (("Ann",), "Hello."), ((EVERYONE,), "Surprise!"), (("Bob",), " "), (("Bob", EVERYONE), "Cheers!")
    party = Dialogue("party", tuple(Utterance(str(k), who, text) for k, (who, text) in enumerate(said)), 1, 1, 1)
    names = ("Ann", "Bob", "Cy", EVERYONE)
    later = Dialogue("later", tuple(Utterance(name, (name,), "Hi.") for name in names), 1, 1, 2)
    assert history_lengths([party, later])[later] == {"Ann": 3, "Bob": 2, "Cy": 0, EVERYONE: 0}
