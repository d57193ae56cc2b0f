"""What refused exports would do, on a stand-in model whose updates show."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.refused_exports import as_markdown, measure
from erc_llm.recipes.train import train
from tests.export.adapters_for_tests import adapted
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus


@pytest.mark.slow
def test_a_merge_into_4_bits_and_a_misread_scale_change_the_answers(tiny_llama: TinyModel, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    config = tiny_config(tiny_llama, write_corpus(tmp_path / "corpus"), tmp_path / "runs")
    run = train(config, console=Console(quiet=True))
    adapted(tiny_llama, run.adapter)
    found = measure(run.folder)
    right = [found["merged in fp32"].largest, found["rsLoRA, written with its own scale"].largest]
    wrong = [found["merged, then NF4"].largest, found["rsLoRA, read as alpha / rank"].largest]
    assert max(right) < 1e-4
    assert min(wrong) > 0.01
    assert as_markdown(found).count("\n") == 5
