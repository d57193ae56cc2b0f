"""Everything that can go wrong, as one tree.

    ErcError                     base of all; carries the message a user reads
    ├── UserError                the input is wrong; the command exits with code 2
    │   ├── CorpusError          a data file: what was found, in which file and line, what was expected
    │   ├── ConfigError          a run's configuration: every mistake of the file at once
    │   ├── PromptError          a prompt or chat template that cannot be used, and why
    │   ├── ModelError           a base model or adapter that is missing or does not fit
    │   ├── RunError             a run directory that is missing, incomplete or of another format version
    │   └── PredictionsError     a predictions table that cannot be read or does not answer the question
    └── InternalError            we are wrong; the command exits with code 1

A message says what was found, where, what was expected, and what to do. It never needs its traceback.
"""

from __future__ import annotations

from pathlib import Path


class ErcError(Exception):
    """Base of all errors that this package raises on purpose."""

    exit_code = 1


class UserError(ErcError):
    """The input or the call is wrong; changing it mends the problem."""

    exit_code = 2


class CorpusError(UserError):
    """A data file cannot be used.

    Args:
        message: What was found and what was expected.
        path: The file it stands in.
        line: Its line, counted from 1; None where the file has no meaningful lines.
    """

    def __init__(self, message: str, path: Path | str | None = None, line: int | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.line = line
        place = "" if path is None else f"{path}:{line}: " if line is not None else f"{path}: "
        super().__init__(place + message)


class ConfigError(UserError):
    """A configuration file or an override has one or more mistakes; all of them are listed."""


class PromptError(UserError):
    """A prompt or chat template cannot be used; the reason is in the message."""


class ModelError(UserError):
    """A base model, tokenizer or adapter is missing or does not fit."""


class RunError(UserError):
    """A run directory is missing, incomplete, or of a format this version does not read."""


class PredictionsError(UserError):
    """A predictions table cannot be read or lacks what a command needs."""


class InternalError(ErcError):
    """Our own mistake: an invariant does not hold."""
