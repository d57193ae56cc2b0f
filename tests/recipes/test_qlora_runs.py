"""Runs in 16 bits, with and without NF4: predicted by the numbers that they were selected by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from erc_llm.predictor import load
from erc_llm.recipes.data import open_corpus
from erc_llm.recipes.train import train
from erc_llm.tuning.selection import score_metrics
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus

pytest.importorskip("bitsandbytes")


@pytest.mark.parametrize(("quantisation", "precision"), [("nf4", "bf16"), ("nf4", "fp16"), ("none", "fp16")])
def test_a_run_predicts_by_the_numbers_that_its_adapter_was_selected_by(
    quantisation: str, precision: str, tiny_llama: TinyModel, tmp_path: Path
) -> None:
    corpus, model = write_corpus(tmp_path / "corpus", train=6), {"quantisation": quantisation, "precision": precision}
    config = tiny_config(tiny_llama, corpus, tmp_path / "runs", model=model)
    run = train(config, console=Console(quiet=True))
    log = [json.loads(line) for line in (run.folder / "selection.jsonl").read_text("utf-8").splitlines()]
    selected = [line for line in log if line["best"]][-1]
    assert run.precision == {"bf16": "bfloat16", "fp16": "float16"}[precision]
    predictor = load(run.folder)
    held_out = open_corpus(config.corpus, config.label_set()).split("selection")
    found = score_metrics(
        predictor.loaded.model, predictor.prompter, held_out, config.scoring.tokens_per_forest, 1, predictor.correction
    )
    assert found == {name: pytest.approx(selected[name], abs=1e-9) for name in found}
