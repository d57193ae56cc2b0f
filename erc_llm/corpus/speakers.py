"""Speaker names: applies aliases, and finds the person that a name stands for.

An `Utterance` keeps the plain name, because prompts show it. Most names stand for the same person throughout a corpus,
but generic ones such as `Guy` or `Director` stand for a different person in each episode. `identity` distinguishes
them; collect anything about a speaker's past by identity, not by name.

Input: speaker names as spelled in the data, aliases, a list of generic names. Output: the names that an `Utterance`
keeps, and identities.
Does not depend on: files, prompts, the text of utterances.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from erc_llm.corpus.dialogues import Dialogue

# Roles that a series fills with a new person every few episodes. Names are compared without a leading article and a
# trailing "No. 2", so that the list covers "The Waiter" and "Fireman No. 3".
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
    """Names as an `Utterance` keeps them: stripped, with aliases applied, without duplicates, in the same order.

    An alias matches the whole name, case-sensitively, and is applied once: its result is not looked up again.
    """
    stripped = (name.strip() for name in names)
    return tuple(dict.fromkeys(aliases.get(name, name) for name in stripped))


def is_generic(name: str, generic: Collection[str] = GENERIC_NAMES) -> bool:
    """Whether a name is a role of many different people; ignores case, a leading article and a trailing number."""
    return _is_generic(name, generic if isinstance(generic, (tuple, frozenset)) else frozenset(generic))


def identity(speaker: str, dialogue: Dialogue, generic: Collection[str] = GENERIC_NAMES) -> str:
    """Identity of a speaker: equal strings stand for the same person.

    For most names this is the name itself. A generic name (`corpus.generic` is the list that a corpus was read with) is
    scoped to its episode, such as `Guy [s01_e15]`, or to its dialogue if the data has no episodes. Use the result as a
    key of histories and counts; prompts show the plain name.
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
