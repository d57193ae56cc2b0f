from __future__ import annotations

from erc_llm.corpus import GENERIC_NAMES, Dialogue, Utterance, identity
from erc_llm.corpus.speakers import is_generic, resolve

LINES = (Utterance("u1", ("Guy",), "Taxi!"),)
FIRST = Dialogue("s01_e01_c01", LINES, 1, 1, 1)
LATER = Dialogue("s01_e01_c02", LINES, 1, 1, 2)
OTHER = Dialogue("s01_e02_c01", LINES, 1, 2, 1)


def test_a_name_is_the_same_person_everywhere() -> None:
    assert identity("Ada Quill", FIRST) == identity("Ada Quill", OTHER) == "Ada Quill"
    assert identity("#ALL#", FIRST) == "#ALL#"


def test_a_generic_name_is_one_person_within_an_episode_only() -> None:
    assert identity("Guy", FIRST) == identity("Guy", LATER)
    assert identity("Guy", FIRST) != identity("Guy", OTHER)
    assert identity("Guy", FIRST) != identity("Woman", FIRST)


def test_without_episodes_a_generic_name_is_one_person_within_a_dialogue() -> None:
    one, two = Dialogue("train_0001", LINES), Dialogue("train_0002", LINES)
    assert identity("Guy", one) != identity("Guy", two)


def test_articles_case_and_numbers_do_not_hide_a_generic_name() -> None:
    assert all(
        is_generic(name) for name in ("The Waiter", "a waiter", "Fireman No. 3", "Guy 2", "Casting Director No. 1")
    )
    assert not any(is_generic(name) for name in ("Gunther", "Guy Fawkes", "Dr. Nurse", "Waiterson", "Theo"))


def test_the_list_is_the_users() -> None:
    assert identity("Troll", FIRST, ["Troll"]) != "Troll"
    assert identity("Guy", FIRST, ["Troll"]) == "Guy"
    assert identity("Guy", FIRST, ()) == "Guy"


def test_the_default_list_has_no_doubles_and_none_of_the_leads() -> None:
    assert len(GENERIC_NAMES) == len(set(GENERIC_NAMES))
    assert not any(is_generic(name) for name in ("Monica Geller", "Mr. Heckles", "Carol Willick", "#ALL#"))


def test_aliases_apply_to_whole_names_once() -> None:
    aliases = {"Ada": "Ada Quill", "Bo": "Ada"}
    assert resolve([" Ada ", "Bo"], aliases) == ("Ada Quill", "Ada")
    assert resolve(["Adalbert"], aliases) == ("Adalbert",)


def test_nobody_speaks_one_line_twice() -> None:
    assert resolve(["Ada", "Ada Quill", "Bo"], {"Ada": "Ada Quill"}) == ("Ada Quill", "Bo")
