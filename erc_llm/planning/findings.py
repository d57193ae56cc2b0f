"""Findings: the records that checks before a training run return.

Input: what a check found. Output: a `Finding`, and a `Report` of all of them.
Does not depend on: what is checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from erc_llm.errors import UserError

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check found.

    Attributes:
        severity: `error`: training, prediction or export would fail; `warning`: it would run, but probably not as
            intended; `note`: a fact to know, or a check that could not be made.
        where: The field, file or part of the machine.
        found: What was found.
        remedy: What to do about it; empty only for a note.
    """

    severity: Severity
    where: str
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class TrainedPrompt:
    """The trained tokens of one target, as the loss sees them.

    Attributes:
        dialogue: Id of the dialogue.
        line: Number of the utterance, from 1.
        before: The last text before the answer.
        tokens: Text of each trained token.
        ends: Whether the tokens that end an answer are among them.
    """

    dialogue: str
    line: int
    before: str
    tokens: tuple[str, ...]
    ends: bool


@dataclass(frozen=True, slots=True)
class Report:
    """All findings about a configuration, errors first.

    Attributes:
        findings: The findings.
        prompts: Trained tokens of a few targets; empty if prompts could not be built.
    """

    findings: tuple[Finding, ...]
    prompts: tuple[TrainedPrompt, ...] = ()

    @property
    def exit_code(self) -> int:
        """2 if there is an error, else 0."""
        return 2 if self.of("error") else 0

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """The findings of one severity."""
        return tuple(finding for finding in self.findings if finding.severity == severity)


@contextmanager
def collected(findings: list[Finding], where: str, remedy: str) -> Iterator[None]:
    """Add a mistake of the user that the block raises to the findings, instead of raising it."""
    try:
        yield
    except UserError as error:
        findings.append(Finding("error", where, str(error).removeprefix(f"{where}: "), remedy))
