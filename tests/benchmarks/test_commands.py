"""Commands that are watched from outside: memory is measured, a kill comes when it is asked for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.commands import watch
from benchmarks.measure import JobError


def test_a_command_and_its_children_are_measured() -> None:
    child = f"import subprocess, sys; held = bytearray(50_000_000); subprocess.run([{sys.executable!r}, '-c', CODE])"
    code = "import time; held = bytearray(80_000_000); print('held'); time.sleep(0.3)"
    found = watch([sys.executable, "-c", child.replace("CODE", repr(code))])
    assert "held" in found["output"]
    if Path("/proc").is_dir():
        assert 0.13 < found["peak_gb"] < 0.4
    assert found["resident_gb"] >= found["peak_gb"]
    assert found["seconds"] > 0.3


def test_a_command_is_killed_when_it_is_asked_for(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"import pathlib, time; pathlib.Path({str(mark)!r}).touch(); time.sleep(60)"
    assert watch([sys.executable, "-c", code], mark.exists)["seconds"] < 30
    with pytest.raises(JobError, match="exit code 0"):  # it ended first
        watch([sys.executable, "-c", "pass"], lambda: False)
    with pytest.raises(JobError, match="exit code 3"):
        watch([sys.executable, "-c", "raise SystemExit(3)"])
