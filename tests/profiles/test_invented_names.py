"""Invented names: the same everywhere, for people only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from erc_llm.corpus.dialogues import EVERYONE, Corpus
from erc_llm.profiles.invented_names import InventedNames, invented
from tests.prompting.random_corpora import corpus_of, scene_of


@pytest.fixture
def corpus() -> Corpus:
    return corpus_of(
        {
            "train": [
                scene_of(
                    1,
                    ("Rachel Green", "Monica! Where is Ross's coat? It will rain, and the green one is gone."),
                    ("Monica Geller", "Ask Rach. ROSS! Will said you will know. I will, too. Will you? We will."),
                    ("Ross Geller", "Pheebs has it. My dear Rachel, and dear Doctor."),
                    ("Phoebe Buffay", "I do not! C'mon."),
                    ("Will", "It will be there."),
                    ("Guy", "Excuse me."),
                    ("The Doctor", "Geller?"),
                )
            ]
        }
    )


@pytest.fixture
def names(corpus: Corpus) -> InventedNames:
    return InventedNames(corpus, {"Pheebs": "Phoebe Buffay"})


def test_a_name_is_the_same_word_wherever_it_stands(names: InventedNames) -> None:
    assert names.name("Rachel Green") == f"{invented('Rachel')} {invented('Green')}"
    assert names.name("Monica") == invented("Monica")
    assert names.text("Monica, look! MONICA!") == f"{invented('Monica')}, look! {invented('Monica').upper()}!"
    assert names.text("Ross's coat") == f"{invented('Ross')}'s coat"
    assert names.name("Monica Geller").split()[1] == names.name("Ross Geller").split()[1], "still one family"


def test_short_forms_and_nicknames_follow(names: InventedNames) -> None:
    assert names.text("Ask Rach.") == f"Ask {invented('Rachel')[:4]}."
    assert names.text("Pheebs has it.") == f"{invented('Phoebe')} has it."


def test_roles_and_plain_words_stay(names: InventedNames) -> None:
    assert names.name("Guy") == "Guy"
    assert names.name("The Doctor") == "The Doctor"
    assert names.text("the green one will do, dear Doctor") == "the green one will do, dear Doctor"
    assert names.text("Will you?") == "Will you?", "mostly no name in this corpus"


def test_different_people_keep_different_names(names: InventedNames) -> None:
    given = ["Rachel", "Monica", "Ross", "Phoebe", "Green", "Geller", "Buffay"]
    assert len({names.name(name) for name in given}) == len(given)
    assert not set(given) & {names.name(name) for name in given}


def test_a_name_needs_no_table() -> None:
    """It follows from the word alone, so that every corpus and every process agree."""
    assert invented("Rachel") == invented("RACHEL") == "Meritro"


def test_every_process_invents_the_same() -> None:
    """Short forms and tables, too: nothing follows from the order of a set."""
    code = (
        "from erc_llm.profiles.invented_names import InventedNames\n"
        "from tests.prompting.random_corpora import corpus_of, scene_of\n"
        "people = ['Rachel Green', 'Rachid Dale', 'Rachelle Dale', 'Rachael Ray', 'Monica Geller', 'Mona']\n"
        "names = InventedNames(corpus_of({'train': [scene_of(1, *((p, 'Hi') for p in people))]}), {'Mon': 'Mona'})\n"
        "print(names.text('Rach Mon Ra Ray RACHEL Moni Dal'), [names.name(p) for p in people])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(said) == 1
    assert said != {b""}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Rach's", "Meri's"),
        ("RACHEL's!", "MERITRO's!"),
        ("_Rachel_, Rachel-Monica", "_Meritro_, Meritro-Herero"),
        ("Dr. Burke, Mrs. Green", "Dr. Firari, Mrs. Lerofa"),
        ("O'Brien and Zoë", "O'Mivubri and Gihuni"),
    ],
)
def test_all_forms_of_a_mention(text: str, expected: str) -> None:
    people = ["Rachel Green", "Monica Geller", "Dr. Burke", "Mike O'Brien", "Zoë Ünal", EVERYONE]
    found = InventedNames(corpus_of({"train": [scene_of(1, *((name, "Hi") for name in people))]}))
    assert found.text(text) == expected
    assert found.name(EVERYONE) == EVERYONE


@pytest.mark.parametrize("text", ["The Gellers are here.", "Ms. Bing? Chandler Bing!", "Mr. Bing and Dr. Geller"])
def test_no_name_is_left_in_a_text(text: str) -> None:
    """A last name right behind its first name or a title is a name, however common the word is."""
    said = (("Monica Geller", f"{text} Bada bing, bing, bing."), ("Chandler Bing", "bing"))
    names = InventedNames(corpus_of({"train": [scene_of(1, *said)]}))
    assert not any(name in names.text(text) for name in ("Geller", "Chandler", "Bing"))
    assert names.text("Bada bing, Bing.") == "Bada bing, Bing.", "mostly no name in this corpus"
    assert names.text("The Gellers") == f"The {invented('Geller')}s"


def test_no_later_text_of_another_split_decides(names: InventedNames, corpus: Corpus) -> None:
    """Whoever speaks in dev for the first time is renamed as a speaker; texts do not know of it."""
    later = scene_of(2, ("Emily Waltham", "rachel, monica, green! Ross said so."), ("Marcel", "Hello, Emily."))
    grown = InventedNames(corpus_of({**corpus.splits, "dev": [later]}), {"Pheebs": "Phoebe Buffay"})
    texts = [u.text for d in (*corpus.dialogues(), later) for u in d.utterances]
    speakers = [s for d in (*corpus.dialogues(), later) for u in d.utterances for s in u.speakers]
    assert [grown.text(text) for text in texts] == [names.text(text) for text in texts]
    assert [grown.name(speaker) for speaker in speakers] == [names.name(speaker) for speaker in speakers]
    assert grown.name("Emily Waltham") == f"{invented('Emily')} {invented('Waltham')}"
    assert grown.name("Marcel") == invented("Marcel")
    assert grown.text("Hello, Emily.") == "Hello, Emily."


def test_without_train_all_of_a_corpus_decides() -> None:
    names = InventedNames(corpus_of({"all": [scene_of(1, ("Emily Waltham", "Hello, Ben."), ("Ben Ode", "Hi."))]}))
    assert names.text("Hello, Ben.") == f"Hello, {invented('Ben')}."
