from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erc_llm.profiles.lines import lexical_similarity

_WORDS = ("toast", "burning", "the", "don't", "été", "train")
phrases = st.one_of(st.lists(st.sampled_from(_WORDS), max_size=6).map(" ".join), st.text(max_size=12))


@settings(max_examples=100, deadline=None)
@given(phrases, st.lists(phrases, max_size=6))
def test_a_similarity_lies_between_0_and_1_and_there_is_one_of_each_text(query: str, texts: Sequence[str]) -> None:
    similarities = lexical_similarity(query, texts)
    assert len(similarities) == len(texts)
    assert all(0 <= s <= 1 + 1e-9 for s in similarities)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(_WORDS), min_size=1, max_size=6), st.lists(phrases, max_size=5))
def test_the_same_words_are_1_whatever_else_is_compared(words: Sequence[str], others: Sequence[str]) -> None:
    query = " ".join(words)
    reordered = ", ".join(reversed(words)).upper() + "!"
    assert lexical_similarity(query, [*others, query, reordered])[-2:] == pytest.approx([1, 1])


@settings(max_examples=50, deadline=None)
@given(phrases, st.lists(phrases, max_size=6))
def test_the_order_of_the_texts_does_not_matter(query: str, texts: Sequence[str]) -> None:
    found = dict(zip(texts, lexical_similarity(query, texts), strict=True))
    again = dict(zip(texts[::-1], lexical_similarity(query, texts[::-1]), strict=True))
    assert found == pytest.approx(again)


def test_no_shared_word_is_0() -> None:
    assert lexical_similarity("my toast burns", ["a train is late", "toaster", "to a st"]) == [0, 0, 0]


@pytest.mark.parametrize("query", ["", "   ", "?!", "42 ...", "\U0001f35e"])
def test_a_query_without_words_is_like_nothing(query: str) -> None:
    assert lexical_similarity(query, ["a train is late", "", query]) == [0, 0, 0]


def test_no_texts_no_similarities() -> None:
    assert lexical_similarity("a train is late", []) == []


def test_a_rare_word_counts_more_than_one_that_every_text_has() -> None:
    texts = ["the dinosaur", "the train", "the tree", "the house"]
    rare, *common = lexical_similarity("the dinosaur", texts)
    assert rare > 2 * max(common) > 0


def test_more_shared_words_are_more_similar() -> None:
    similarities = lexical_similarity(
        "burning toast again", ["burning toast here", "burning trains here", "no such here"]
    )
    assert similarities == sorted(similarities, reverse=True)
    assert similarities[0] > similarities[1] > similarities[2] == 0


def test_an_apostrophe_belongs_to_its_word_in_either_spelling() -> None:
    assert lexical_similarity("don't", ["don\u2019t", "don", "t", "'don't'"]) == pytest.approx([1, 0, 0, 1])


def test_case_and_letters_with_accents_are_compared_as_people_read_them() -> None:
    assert lexical_similarity("STRASSE Été", ["straße été"]) == pytest.approx([1])


def test_asking_twice_gives_the_same() -> None:
    texts = ["burning toast", "toast toast", "a late train"]
    assert lexical_similarity("toast is late", texts) == lexical_similarity("toast is late", list(texts))
