from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erc_llm.corpus import EMORYNLP, LabelSet
from erc_llm.errors import ConfigError

DAILY = LabelSet(("neutral", "anger", "happiness"), {"no emotion": "neutral", "joy": "happiness"}, neutral="neutral")


def test_emorynlp_has_the_seven_labels_in_alphabetical_order() -> None:
    assert EMORYNLP.names == ("Joyful", "Mad", "Neutral", "Peaceful", "Powerful", "Sad", "Scared")
    assert EMORYNLP.neutral == "Neutral"
    assert len(EMORYNLP) == 7
    assert [EMORYNLP.index(name) for name in EMORYNLP.names] == list(range(7))


@pytest.mark.parametrize("spelling", ["neutral", " NEUTRAL\n", "No Emotion", "no emotion"])
def test_matching_ignores_case_and_outer_spaces(spelling: str) -> None:
    assert DAILY.match(spelling) == "neutral"


@pytest.mark.parametrize("spelling", ["", "happy", "neutral anger", "neutr"])
def test_what_is_not_in_the_set_does_not_match(spelling: str) -> None:
    assert DAILY.match(spelling) is None


@given(st.text())
def test_a_match_is_always_a_name_of_the_set(spelling: str) -> None:
    assert DAILY.match(spelling) in {None, *DAILY.names}


@pytest.mark.parametrize("names", [(), ("one",), ("Sad", "sad "), ("Sad", " ")])
def test_fewer_than_two_different_names_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="at least two different"):
        LabelSet(names)


def test_a_spelling_must_lead_to_a_name() -> None:
    with pytest.raises(ConfigError, match=r"labels\.spellings: 'joy' maps to 'Happy'"):
        LabelSet(("Happiness", "Anger"), {"joy": "Happy"})


def test_neutral_must_be_a_name() -> None:
    with pytest.raises(ConfigError, match=r"labels\.neutral: found 'Calm'"):
        LabelSet(("Happiness", "Anger"), neutral="Calm")


def test_a_name_wins_over_a_spelling_of_another() -> None:
    assert LabelSet(("joy", "fun"), {"JOY": "fun"}).match("joy") == "joy"
