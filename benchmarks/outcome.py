"""The outcome of a benchmark's command: its exit code, and the message of a user's mistake.

Input: the work of a command. Output: an exit code; a message on standard error.
Does not depend on: what is measured.
"""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console

from erc_llm.errors import ErcError, UserError

INTERRUPTED = 130  # as shells have it: 128 and the number of SIGINT


class CannotDo(UserError):
    """What a benchmark needs is not there, such as a card with enough memory; the part is left out."""

    exit_code = 3


def exit_code(work: Callable[[], object]) -> int:
    """Do the work; 0, or the exit code of the error that it raised, whose message is printed."""
    try:
        work()
    except ErcError as error:
        Console(stderr=True).print(str(error), style="red", markup=False, highlight=False)
        return error.exit_code
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted")
        return INTERRUPTED
    return 0
