"""Free text becomes a label only where it spells one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erc_llm.corpus.labels import EMORYNLP, LabelSet
from erc_llm.decoding.spelling import EMORYNLP_SYNONYMS, normalised, spelled_label

ODD = LabelSet(("Sad", "Sadness", "très gêné", "😢", "in love"), spellings={"gêne": "très gêné", "<3": "in love"})


@pytest.mark.parametrize(
    "text",
    [
        "Sad",
        "sad",
        "SAD",
        "  Sad\n",
        "Sad.",
        '"Sad"',
        "“Sad.”",
        "'sad'",
        "**Sad**",
        "- Sad",
        "(sad)",
        "Sad!",
        "Answer: Sad",
        "answer : sad.",
        "Emotion: Sad",
        "Label:Sad",
        "**Answer:** Sad",
        "Answer: Emotion: Sad",
        "Ｓａｄ",  # noqa: RUF001
        "sadness",
        "Answer: unhappy.",
    ],
)
def test_spellings_of_one_label(text: str) -> None:
    assert spelled_label(text, EMORYNLP) == "Sad"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n",
        ".",
        "Answer:",
        "Answer: :",
        "😢",
        "Sad 😢",
        "<b>Sad</b>",
        "<html><body>502 Bad Gateway</body></html>",
        "Sad or Mad",
        "Sad, Mad",
        "Sad/Mad",
        "Sad Mad",
        "Sad and angry",
        "Sad, sad",
        "not sad",
        "The speaker is sad",
        "Sad because the toast is burnt",
        "Sda",
        "Sadd",
        "Joy ful",
        "Neutra",
        "none",
        "worried",
        "surprised",
        "null",
        "0",
        '{"emotion": "Sad"}',
        "Answer Sad",
        "\x00Sad",
        "Sad" * 100_000,
        "Answer: " * 100_000,
        "." * 1_000_000 + "x" + "." * 1_000_000 + "y",
    ],
)
def test_everything_else_is_invalid(text: str) -> None:
    assert spelled_label(text, EMORYNLP) is None


@pytest.mark.parametrize(
    ("word", "label"),
    [
        ("angry", "Mad"),
        ("Happy", "Joyful"),
        ("afraid", "Scared"),
        ("calm", "Peaceful"),
        ("confident", "Powerful"),
        ("Proud.", "Powerful"),
        ("sadness", "Sad"),
        ("No  emotion", "Neutral"),
    ],
)
def test_synonyms(word: str, label: str) -> None:
    assert spelled_label(word, EMORYNLP) == label


def test_the_table_of_synonyms_is_consistent() -> None:
    assert set(EMORYNLP_SYNONYMS.values()) == set(EMORYNLP.names)
    assert all(word == normalised(word) for word in EMORYNLP_SYNONYMS)
    assert not {name.casefold() for name in EMORYNLP.names} & set(EMORYNLP_SYNONYMS)


def test_no_word_stands_for_two_labels() -> None:
    from erc_llm.decoding import spelling

    words = [word for of_label in spelling._SYNONYMS_OF.values() for word in of_label]
    assert len(words) == len(set(words))


@pytest.mark.parametrize("label", ODD.names)
@pytest.mark.parametrize("form", ["{}", " {}.", "Answer: {}", '"{}"'])
def test_a_label_that_begins_another_and_odd_characters(label: str, form: str) -> None:
    assert spelled_label(form.format(label), ODD) == label


def test_own_spellings_count_and_emorynlp_synonyms_do_not() -> None:
    assert spelled_label("Answer: GÊNE.", ODD) == "très gêné"
    assert spelled_label("gêne", ODD) == "très gêné", "decomposed accents are the same word"
    assert spelled_label("<3", ODD) == "in love"
    assert spelled_label("unhappy", ODD) is None
    mended = LabelSet(EMORYNLP.names, spellings={"fear": "Sad"})
    assert spelled_label("fear", mended) == "Sad", "a user's spelling goes before the table"


def test_what_two_labels_share_without_punctuation_is_neither() -> None:
    labels = LabelSet(("Sad", "Sad!", "!"))
    assert [spelled_label(name, labels) for name in labels.names] == list(labels.names)
    assert spelled_label('"Sad"', labels) is None
    assert spelled_label('"!"', labels) is None


@given(st.sampled_from(EMORYNLP.names), st.text(alphabet="abcdefghij klm,./", min_size=1, max_size=8))
def test_words_around_a_label_make_it_invalid(label: str, more: str) -> None:
    expected = label if not normalised(more) else None
    found = spelled_label(f"{label} {more}", EMORYNLP)
    assert found == expected


@given(st.text(max_size=20))
def test_any_text_is_a_label_only_if_it_normalises_to_one(text: str) -> None:
    known = {name.casefold() for name in EMORYNLP.names} | set(EMORYNLP_SYNONYMS)
    assert (spelled_label(text, EMORYNLP) is not None) == (normalised(text) in known)


@pytest.mark.parametrize("text", ["negative sad", "Negative Sad.", "Answer: negative sadness", "neutral neutral"])
def test_a_label_behind_its_coarser_one(text: str) -> None:
    assert spelled_label(text, EMORYNLP) == ("Neutral" if "neutral" in text else "Sad")


@pytest.mark.parametrize("text", ["positive sad", "negative", "negative or sad", "negatively sad"])
def test_a_label_behind_anything_else_is_invalid(text: str) -> None:
    assert spelled_label(text, EMORYNLP) is None
