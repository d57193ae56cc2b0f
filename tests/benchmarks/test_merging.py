"""The measurement of merging, at a small shape."""

from __future__ import annotations

import pytest

from benchmarks.merging import main


@pytest.mark.slow
def test_a_merge_is_measured(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--shape", "tiny", "--folder", str(tmp_path)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith("tiny: 0.0 GB in ")
    assert "bound 2.0 GB" in printed
