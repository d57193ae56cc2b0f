"""Messages between the page and its server, checked on arrival.

Input: JSON. Output: checked records.
Does not depend on: HTTP, models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from erc_llm.ui.conversations import Lines

LINES, CHARACTERS = 500, 200_000  # of a conversation, and of one of its lines; 9,000 words are about 50,000 characters
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1_000)]


class Message(BaseModel):
    """Base of all messages: unknown fields are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Line(Message):
    """A line of a conversation; one without text is context."""

    speakers: list[Name] = Field(min_length=1, max_length=100)
    text: str = Field(max_length=CHARACTERS)


class Place(Message):
    """The scene of a corpus that a conversation began as."""

    corpus: int = Field(ge=0)
    dialogue: str


class Conversation(Message):
    """A conversation, and the system to ask about it."""

    system: int = Field(ge=0)
    lines: list[Line] = Field(min_length=1, max_length=LINES)
    place: Place | None = None

    @property
    def spoken(self) -> Lines:
        """The speakers and the text of each line."""
        return tuple((tuple(line.speakers), line.text) for line in self.lines)


class PromptQuestion(Conversation):
    """A question about the prompt for one of the lines, counted from 0."""

    position: int = Field(ge=0)


def problems(errors: Sequence[dict[str, object]]) -> str:
    """One sentence for all mistakes of a request, from pydantic's list."""
    found = []
    for error in errors:
        place = error["loc"]
        assert isinstance(place, tuple)
        found.append(f"{'.'.join(str(part) for part in place if part not in ('body', 'query'))}: {error['msg']}")
    return "; ".join(found)
