"""Commands in processes of their own: run to the end or killed at a moment, and watched from outside.

Input: a command. Output: its seconds and peak memory.
Does not depend on: what the command does.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.measure import JobError, Result
from erc_llm.errors import UserError

_INTERVAL = 0.02  # seconds between two looks at a process


def command_line(*words: object) -> list[str]:
    """The command `erc-llm WORDS`, of the package that runs this."""
    return [sys.executable, "-m", "erc_llm", *map(str, words)]


def watch(command: Sequence[str], until: Callable[[], bool] | None = None) -> Result:
    """Run a command to its end, or kill it once `until` is true; returns its output, seconds and peak memory in GB.

    `peak_gb` is what the process and its children hold of their own (anonymous pages), `resident_gb` counts mapped
    pages of files too, which the system can drop. Both are 0 where there is no `/proc`.

    Raises:
        JobError: The command failed, or ended before it was killed.
    """
    began = time.perf_counter()
    own = resident = 0.0
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            while process.poll() is None and not (until is not None and until()):
                now = [memory_gb(pid) for pid in _family(process.pid)]
                own, resident = max(own, sum(a for a, _ in now)), max(resident, sum(b for _, b in now))
                time.sleep(_INTERVAL)
        finally:
            process.kill()
            process.wait()
        output.seek(0)
        text = output.read().decode(errors="replace")
    if process.returncode != (0 if until is None else -signal.SIGKILL):
        tail = "\n".join(text.strip().splitlines()[-8:])
        raise JobError(
            f"{' '.join(command[:5])}: ended with exit code {process.returncode}:\n{tail}", process.returncode
        )
    return {"seconds": time.perf_counter() - began, "peak_gb": own, "resident_gb": resident, "output": text}


def _family(pid: int) -> list[int]:
    """A process and its children."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it has ended
            found += [each for child in task.read_text().split() for each in _family(int(child))]
    return found


def memory_gb(pid: int | str) -> tuple[float, float]:
    """Anonymous and resident memory of a process; its number, or `self`."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    kb = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "VmRSS"))}
    return kb.get("RssAnon", 0) * 1024 / 1e9, kb.get("VmRSS", 0) * 1024 / 1e9


def has_checkpoint(run: Path) -> bool:
    """Whether a training run has written a checkpoint."""
    return any((run / "checkpoints").glob("checkpoint-*/trainer_state.json"))


def wait_for_server(name: str, url: str, process: subprocess.Popen[bytes], log: Path, patience: float) -> None:
    """Wait until a server answers.

    Raises:
        UserError: It ended, or did not answer within `patience` seconds; the message has the end of its log.
    """
    until = time.monotonic() + patience
    while process.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise UserError(f"{name} did not start: {log.read_text(encoding='utf-8', errors='replace')[-500:]}")
