"""The road of LLaMA-2-7B on a twin of four layers: every part runs, and a killed training run is resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.llama2_7b import bytes_of, main


@pytest.mark.slow
def test_a_twin_of_four_layers_goes_the_whole_road(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("bitsandbytes")
    out = tmp_path / "report.json"
    options = ["--shape", "four-layers", "--folder", str(tmp_path), "--scenes", "6", "--tokens", "256"]
    assert main([*options, "--out", str(out)]) == 0, capsys.readouterr().err
    report = json.loads(out.read_text("utf-8"))
    assert [step["step"] for step in report["steps"]] == list(range(1, len(report["steps"]) + 1))
    assert len(report["parts"]) == 4
    assert all(part["peak_gb"] > 0.1 for part in report["parts"].values())
    sizes = report["loaded"]["bytes"]
    linear = 4 * (4 * 256 * 256 + 3 * 256 * 688)
    assert sizes["packed weights"] == linear // 2
    assert sizes["scales"] < 0.1 * sizes["packed weights"]
    assert "export as peft" in capsys.readouterr().out
    assert not any(tmp_path.glob("tmp*"))


def test_bytes_are_counted_by_component() -> None:
    import torch

    assert bytes_of(torch.nn.Linear(3, 2).bfloat16()) == {
        "packed weights": 0,
        "scales": 0,
        "other weights": 16,
        "adapter": 0,
    }
