"""Who a name stands for.

In: the names of an utterance as the data spells them, a table of aliases, a list of generic names. Out: the names an
`Utterance` keeps, and the identity behind a name.

An `Utterance` keeps the plain name, because that is what a prompt shows. Most names mean the same person throughout a
corpus; `Guy` or `Director` mean somebody else in every episode. `identity` tells them apart, and whoever gathers what
a speaker said before keys it by that. Deliberately unknown here: files, prompts, and what anybody said.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from erc_llm.corpus.dialogues import Dialogue

# Roles of which a series meets a new one every few episodes. A leading article and a trailing "No. 2" are ignored when
# names are compared with it, so that "The Waiter" and "Fireman No. 3" are covered.
GENERIC_NAMES: tuple[str, ...] = (
    "Actor", "Actress", "Agent", "Air Hostess", "All", "Announcement", "Announcer", "Assistant", "Attendant",
    "Bartender", "Boss", "Both", "Boy", "Caller", "Casting Director", "Casting Guy", "Clerk", "Cop", "Crowd",
    "Customer", "Delivery Guy", "Director", "Doctor", "Driver", "Employee", "Everybody", "Everyone", "Fireman",
    "Flight Attendant", "Friend", "Friends", "Gentleman", "Girl", "Girls", "Guard", "Guest", "Guy", "Guys", "Host",
    "Hostess", "Housekeeper", "Intercom", "Interviewer", "Janitor", "Judge", "Kid", "Kids", "Lady", "Leader",
    "Machine", "Man", "Manager", "Men", "Minister", "Neighbor", "Neighbour", "Nurse", "Officer", "Old Man", "Old Woman",
    "Operator", "Paramedic", "Passenger", "Passerby", "Patient", "Photographer", "Policeman", "Priest", "Producer",
    "Professor", "Radio", "Receptionist", "Referee", "Reporter", "Salesman", "Saleswoman", "Secretary",
    "Security Guard", "Singer", "Somebody", "Someone", "Stage Manager", "Store Guy", "Stranger", "Stripper", "Student",
    "Teacher", "Ticket Agent", "Tour Guide", "Vendor", "Voice", "Waiter", "Waitress", "Woman", "Women",
)  # fmt: skip

_DECORATION = re.compile(r"^(?:the|an?|another)\s+|\s+(?:no\.?|#)\s*\d+$|\s+\d+$")


def resolve(names: Sequence[str], aliases: Mapping[str, str]) -> tuple[str, ...]:
    """Names as an `Utterance` keeps them: outer spaces gone, aliases applied, nobody twice, order kept.

    An alias matches a whole name, letter by letter, and is applied once: what it leads to is not looked up again.
    """
    stripped = (name.strip() for name in names)
    return tuple(dict.fromkeys(aliases.get(name, name) for name in stripped))


def is_generic(name: str, generic: Collection[str] = GENERIC_NAMES) -> bool:
    """Whether a name is a role that many different people fill. Ignores case, articles and a trailing number."""
    return _is_generic(name, generic if isinstance(generic, (tuple, frozenset)) else frozenset(generic))


def identity(speaker: str, dialogue: Dialogue, generic: Collection[str] = GENERIC_NAMES) -> str:
    """The person behind a speaker's name, the same string wherever it is the same person.

    For most names that is the name itself. A generic name (`corpus.generic` holds the list a corpus was read with) is
    scoped to its episode, such as `Guy [s01_e15]`, or to its dialogue where the data has no episodes. The result is a
    key for histories and counts; what a prompt shows is the plain name.
    """
    if not is_generic(speaker, generic):
        return speaker
    return f"{speaker} [{dialogue.episode_id or dialogue.id}]"


@lru_cache(maxsize=8192)
def _is_generic(name: str, generic: tuple[str, ...] | frozenset[str]) -> bool:
    return _plain(name) in _folded(generic)


@lru_cache(maxsize=8)
def _folded(generic: tuple[str, ...] | frozenset[str]) -> frozenset[str]:
    return frozenset(_plain(name) for name in generic)


def _plain(name: str) -> str:
    return _DECORATION.sub("", name.strip().casefold())
