"""Servers of this package in processes of their own, for the time of a measurement.

Input: arguments of `erc-llm` for a command that prints its address. Output: its process and address.
Does not depend on: what the server answers.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from benchmarks.outcome import CannotDo


class Started(NamedTuple):
    """A server that accepts requests."""

    process: subprocess.Popen[str]
    address: str

    @property
    def port(self) -> int:
        """Its port on loopback."""
        return int(self.address.rpartition(":")[2])


@contextmanager
def started(arguments: Sequence[str]) -> Iterator[Started]:
    """A server while the block runs.

    Raises:
        CannotDo: It did not start.
    """
    command = [sys.executable, "-m", "erc_llm", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = next((f for line in process.stdout if (f := re.search(r"http://[\d.]+:\d+", line))), None)
            if found is None:
                raise CannotDo(f"`erc-llm {' '.join(arguments)}` did not start")
            yield Started(process, found[0])
        finally:
            process.terminate()
            process.wait(60)
