"""`erc-llm ARGUMENTS` in this process; tests get it as the fixture `erc`."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from erc_llm import cli


class Done(NamedTuple):
    """What a command left on the terminal."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


def command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The entry point that the shell calls, on a terminal wide enough for a path in one line."""
    monkeypatch.setenv("COLUMNS", "300")

    def command(*arguments: object, typed: str = "") -> Done:
        monkeypatch.setattr(sys, "argv", ["erc-llm", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        capsys.readouterr()
        code: Any = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        return Done(code, *capsys.readouterr())

    return command


def refused(done: Done, *parts: str, lines: int = 1) -> None:
    """Exit code 2, one message of `lines` lines on stderr that says `parts`, and no traceback."""
    assert done.code == 2, done
    assert "Traceback" not in done.out + done.err
    assert done.err.startswith("erc-llm: ")
    assert done.err.count("\n") == lines, done.err
    for part in parts:
        assert part in done.err, done.err
