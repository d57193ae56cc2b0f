"""The exceptions of this package, one tree.

    ErcError                     base of all exceptions; its message is shown to the user
    ├── UserError                the input is wrong; the command exits with code 2
    │   ├── CorpusError          a data file cannot be used: file, line, what was found and expected
    │   ├── ConfigError          a configuration is wrong: all mistakes of the file at once
    │   ├── PromptError          a prompt or chat template cannot be used
    │   ├── ModelError           a base model or adapter is missing or does not fit
    │   ├── RunError             a run directory is missing, incomplete or of another format version
    │   │   └── DriftError       an export computes something else than its run
    │   └── PredictionsError     a predictions table cannot be read or lacks required data
    └── InternalError            a bug in this package; the command exits with code 1

A message states what was found, where, what was expected and what to do; it is clear without a traceback.

Input: a message, for data files also path and line. Output: an exception with its exit code.
Does not depend on: any other module.
"""

from __future__ import annotations

from pathlib import Path


class ErcError(Exception):
    """Base of all exceptions that this package raises deliberately."""

    exit_code = 1


class UserError(ErcError):
    """The input or the call is wrong; changing it solves the problem."""

    exit_code = 2


class CorpusError(UserError):
    """A data file cannot be used.

    Args:
        message: What was found and what was expected.
        path: The data file.
        line: The line, counted from 1; None if the file has no meaningful lines.
    """

    def __init__(self, message: str, path: Path | str | None = None, line: int | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.line = line
        place = "" if path is None else f"{path}:{line}: " if line is not None else f"{path}: "
        super().__init__(place + message)


class ConfigError(UserError):
    """A configuration file or an override has mistakes; the message lists all of them."""


class PromptError(UserError):
    """A prompt or chat template cannot be used; the message states the reason."""


class ModelError(UserError):
    """A base model, tokenizer or adapter is missing or does not fit."""


class RunError(UserError):
    """A run directory is missing, incomplete, or of a format that this version does not read."""


class DriftError(RunError):
    """An export computes something else than its run, by more than the tolerance; nothing is exported."""


class PredictionsError(UserError):
    """A predictions table cannot be read or lacks what a command needs."""


class InternalError(ErcError):
    """A bug in this package: an invariant does not hold."""
