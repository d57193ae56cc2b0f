"""A measured process ends with the one that measures it, however that one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

_MEASURE = """
import sys
from benchmarks.measure import Job, run_job
run_job(Job("endless", "tests.benchmarks.test_measure:endless", {"folder": sys.argv[1]}))
"""
_PATIENCE = 60.0  # seconds, on a busy machine; it takes one
_ROOT = Path(__file__).parents[2]


def endless(folder: str) -> None:
    """A job that starts a process of its own, notes both process ids and does not return."""
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    for name, pid in (("helper", helper.pid), ("job", os.getpid())):
        (Path(folder) / f"{name}.draft").write_text(str(pid))
        (Path(folder) / f"{name}.draft").rename(Path(folder) / name)
    time.sleep(600)


def _within(seconds: float, reached: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not reached() and time.monotonic() < until:
        time.sleep(0.05)
    return reached()


def _gone(pid: int) -> bool:
    """Whether a process is there no more; one that only waits for its exit code to be read counts as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux shows in /proc which processes live")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda how: how.name)
def test_a_job_ends_when_the_process_that_measures_it_is_killed(tmp_path: Path, how: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _MEASURE, str(tmp_path)], cwd=_ROOT, stderr=subprocess.DEVNULL, start_new_session=True
    )
    pids: list[int] = []
    try:
        assert _within(_PATIENCE, (tmp_path / "job").exists), "the job did not start"
        pids = [int((tmp_path / name).read_text()) for name in ("job", "helper")]
        assert not any(map(_gone, pids))
        parent.send_signal(how)
        assert _within(10.0, lambda: all(map(_gone, pids))), f"{pids} outlived the process that measures them"
    finally:
        for pid in (parent.pid, *pids):
            if not _gone(pid):
                os.kill(pid, signal.SIGKILL)
        parent.wait()
