"""Names of cards and amounts of memory as users write them."""

from __future__ import annotations

import pytest

from erc_llm.errors import ConfigError
from erc_llm.planning.cards import CARDS, GIB, MIB, find_card, parse_memory


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("RTX 4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("rtx-3060", "RTX 3060 12GB"),
        ("tesla t4", "T4"),
        ("A100 80GB", "A100 80GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("h100", "H100 80GB"),
        ("4060", "RTX 4060"),
        ("RTX 4060 Ti", "RTX 4060 Ti 16GB"),
        ("L4", "L4"),
        ("A10", "A10"),
    ],
)
def test_a_card_is_found_under_its_names(text: str, name: str) -> None:
    assert find_card(text).name == name


def test_every_card_is_found_under_its_own_name() -> None:
    assert [find_card(card.name) for card in CARDS] == list(CARDS)


def test_unknown_and_ambiguous_names_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no card 'GTX 970' in the list .*--memory 24GB"):
        find_card("GTX 970")
    with pytest.raises(ConfigError, match="may be A100 40GB or A100 80GB"):
        find_card("A100")
    with pytest.raises(ConfigError, match="no card ''"):
        find_card("")


@pytest.mark.parametrize(
    ("text", "size"), [("24GB", 24 * GIB), ("24", 24 * GIB), (" 7.5 gib", 7.5 * GIB), ("24564MiB", 24564 * MIB)]
)
def test_memory_is_read(text: str, size: float) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["lots", "24TB", "", "-4GB", "0GB", "500MB", "1e9", "24GB of it"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--memory"):
        parse_memory(text)
