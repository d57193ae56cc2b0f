"""Messages of the service: requests and answers, as the OpenAPI schema shows them.

Input: JSON. Output: checked records, and `Dialogue` records made of them.
Does not depend on: HTTP, models, limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from erc_llm.corpus.dialogues import Dialogue, Utterance
from erc_llm.predictor import LabelledUtterance

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Message(BaseModel):
    """Base of all messages: unknown fields are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Line(Message):
    """A line of a conversation."""

    speaker: Name | Annotated[list[Name], Field(min_length=1, max_length=20)] = Field(
        description="Name of the speaker, or names of all who say the line together."
    )
    text: Text = Field(description="What is said; plain text.")

    @property
    def speakers(self) -> tuple[str, ...]:
        """Names of the speakers."""
        return (self.speaker,) if isinstance(self.speaker, str) else tuple(self.speaker)


class Conversation(Message):
    """A dialogue to label."""

    id: Name = Field(
        "dialogue", description="Id of the dialogue; matters only if scores are averaged over orders of the labels."
    )
    lines: list[Line] = Field(min_length=1, description="Its lines, in spoken order.")

    def dialogue(self) -> Dialogue:
        """The dialogue."""
        spoken = enumerate(self.lines, start=1)
        return Dialogue(self.id, tuple(Utterance(f"u{k:03d}", line.speakers, line.text) for k, line in spoken))


class Start(Message):
    """The beginning of a live session."""

    id: Name = Field("live", description="Id of the dialogue; see the id of a conversation.")


class Labelled(Message):
    """The label of a line, with the whole distribution."""

    label: str = Field(description="The answer: the label that the run's decision rule gives.")
    probabilities: dict[str, float] = Field(description="Probability of each label after calibration; they sum to 1.")
    coarse: dict[str, float] = Field(description="Probability of each coarser label; empty if the labels have none.")
    log_likelihoods: dict[str, float] = Field(description="Log-probability of each label as an answer, in nats.")
    label_mass: float = Field(description="Probability that the model would have generated one of the labels.")


class LabelledConversation(Message):
    """The labels of a dialogue's lines, in their order."""

    run: str | None = Field(description="Id of the run; null for a base model alone.")
    lines: list[Labelled]


class LabelledLine(Labelled):
    """The label of the latest line of a live session."""

    number: int = Field(description="Number of the line in its session, from 1.")


class Session(Message):
    """A live session."""

    session: str = Field(description="Its id, which is also the key to it: keep it as a secret.")
    lines: int = Field(description="Lines so far.")
    ends_in: float = Field(description="Seconds until it ends if no line follows.")


class Health(Message):
    """State of the service."""

    status: str
    run: str | None
    base_model: str
    labels: list[str]
    sessions: int
    waiting: int


class Problem(Message):
    """Why a request was not answered."""

    error: str = Field(description="What was found, where, and what was expected.")


def labelled(line: LabelledUtterance) -> Labelled:
    """The message of a labelled line."""
    return Labelled(
        label=line.label,
        probabilities=dict(line.probabilities),
        coarse=dict(line.coarse),
        log_likelihoods=dict(line.log_likelihoods),
        label_mass=line.label_mass,
    )


def problems(errors: Sequence[dict[str, object]]) -> str:
    """One sentence for all mistakes of a request, from pydantic's list."""
    found: dict[str, object] = {}  # of each place the first, since a name or a list of names would be said twice
    for error in errors:
        place = error["loc"]
        assert isinstance(place, tuple)
        parts = (str(part) for part in place if part != "body")
        where = ".".join(part for part in parts if not part.startswith(("constrained", "list[")))
        found.setdefault(where, error["msg"])
    return "; ".join(f"{where}: {what}" if where else str(what) for where, what in found.items())
