"""The script for the first GPU runs from start to end on a tiny model, and skips with a reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import as_words, main

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_dry_run_measures_every_part(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    out = tmp_path / "gpu.json"
    command = [str(ROOT / "benchmarks" / "gpu.sh"), "--dry", "--folder", str(tmp_path), "--out", str(out)]
    environment = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    parts = json.loads(out.read_text("utf-8"))["parts"]
    skipped = {name for name, found in parts.items() if "skipped" in found}
    assert skipped == {"out of memory"}, parts
    assert len(parts) == 12
    for quantisation in ("none", "nf4"):
        assert parts[f"path equality, {quantisation}"]["forest_against_plain"] < 0.1
    assert parts["kill, resume, selection equals predict"]["equal"]
    assert parts["training, 2048 tokens"]["tokens"] < parts["training with TRL, 2048 tokens"]["tokens"]
    assert "| out of memory | skipped: a CPU has no memory of a GPU |" in out.with_suffix(".md").read_text("utf-8")


def test_without_a_gpu_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    out = tmp_path / "gpu.json"
    assert main(["--folder", str(tmp_path), "--out", str(out)]) == 0
    parts = json.loads(out.read_text("utf-8"))["parts"]
    assert "torch sees no GPU" in parts["device"]["skipped"]
    assert as_words(parts["device"]).startswith("skipped: ")
