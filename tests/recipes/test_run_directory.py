"""A run directory: what it says of itself, what it does not, and the adapter in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from erc_llm.evaluation.report import evaluate
from erc_llm.predictions import Correction, correct
from erc_llm.predictor import load
from erc_llm.recipes.data import open_corpus
from erc_llm.recipes.predict import predict
from erc_llm.recipes.train import train
from erc_llm.runs.directory import Run, read_run
from erc_llm.runs.logs import read_lines
from erc_llm.tuning.selection import evaluation_steps, score_metrics
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus

QUIET = Console(quiet=True)


def test_a_run_directory_explains_itself(finished: Run, tiny_llama: TinyModel, corpus: Path) -> None:
    folder, manifest = finished.folder, finished.manifest
    assert {p.name for p in folder.iterdir()} == {
        "adapter",
        "config.yaml",
        "manifest.json",
        "selection.jsonl",
        "prompt.jinja",
        "report.html",
        "training.jsonl",
    }
    assert {p.name for p in finished.adapter.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert read_run(folder).config == finished.config
    data = open_corpus(finished.config.corpus, finished.config.label_set())
    assert manifest.status == "finished"
    assert manifest.config_sha256 == finished.config.sha256
    assert manifest.run_id == f"tiny-{finished.config.sha256[:8]}"
    assert manifest.corpus_sha256 == data.sha256
    assert (manifest.corpus_name, manifest.corpus_version, manifest.healed) == ("corpus", "own", False)
    assert (manifest.seed, manifest.context) == (13, "past")
    assert len(manifest.template_sha256) == len(manifest.base_model_sha256) == 64
    assert manifest.versions["torch"] == torch.__version__
    labels = [u.label for d in data.split("train") for u in d.utterances]
    assert manifest.train_shares == pytest.approx([labels.count(name) / len(labels) for name in manifest.labels])


def test_the_logs_tell_the_training(finished: Run) -> None:
    steps = [record["step"] for record in read_lines(finished.folder / "training.jsonl")]
    assert steps == list(range(1, steps[-1] + 1))
    assert steps[-1] > 3
    last = read_lines(finished.folder / "training.jsonl")[-1]
    assert last["epoch"] == pytest.approx(1)
    assert {"loss", "learning_rate", "grad_norm", "tokens_per_second"} <= last.keys()
    scores = read_lines(finished.folder / "selection.jsonl")
    assert [record["step"] for record in scores] == sorted(evaluation_steps(steps[-1], 2))
    assert all({"weighted_f1", "macro_f1", "accuracy", "nll", "best", "seconds"} <= r.keys() for r in scores)


def test_a_run_names_no_folder_of_this_machine_but_those_it_was_given(finished: Run) -> None:
    manifest = (finished.folder / "manifest.json").read_text(encoding="utf-8")
    assert str(Path.cwd()) not in manifest
    assert str(Path.home()) not in manifest or str(Path.home()) == "/"


def test_plain_peft_loads_the_adapter_with_the_same_logits(finished: Run, tiny_llama: TinyModel) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(tiny_llama.folder, dtype=torch.float32)
    base_before = plain(torch.tensor([[5, 6, 7]])).logits
    adapted = PeftModel.from_pretrained(plain, str(finished.adapter)).eval()
    ours = load(finished.folder)
    ids = tiny_llama.tokenizer("Mara Voss: The kettle has gone again.", return_tensors="pt").input_ids
    with torch.no_grad():
        expected = adapted(ids).logits
        assert torch.allclose(ours.loaded.model(ids).logits, expected, atol=1e-5)
        assert not torch.allclose(adapted(torch.tensor([[5, 6, 7]])).logits, base_before, atol=1e-3)
    content = json.loads((finished.adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert content["base_model_name_or_path"] == str(tiny_llama.folder)
    assert (content["r"], content["lora_alpha"]) == (4, 8)


def test_the_kept_adapter_is_the_one_that_scored_best(finished: Run) -> None:
    """Scoring the kept adapter on the selection split again gives the best score of the log."""
    predictor = load(finished.folder)
    data = open_corpus(finished.config.corpus, finished.config.label_set())
    figures = score_metrics(predictor.loaded.model, predictor.prompter, data.split("selection"), 4096)
    best = max(read_lines(finished.folder / "selection.jsonl"), key=lambda record: float(record["weighted_f1"]))
    assert figures["weighted_f1"] == pytest.approx(best["weighted_f1"])
    assert figures["nll"] == pytest.approx(best["nll"], abs=1e-3)


def test_the_adapter_is_kept_by_scores_as_predict_corrects_them(tiny_llama: TinyModel, tmp_path: Path) -> None:
    """Under balanced classes the log of selection scores equals the table that `predict` makes by default."""
    corpus = write_corpus(tmp_path / "corpus", train=12)
    sections: dict[str, Any] = {"sampling": {"scheme": "inverse_frequency"}, "training": {"evaluations": 1}}
    run = train(tiny_config(tiny_llama, corpus, tmp_path, **sections), console=QUIET)
    data = open_corpus(run.config.corpus, run.config.label_set())
    table = predict(load(run.folder), data, "selection")
    assert table.info.prior is not None
    (record,) = read_lines(run.folder / "selection.jsonl")
    figures = evaluate(table, draws=10)
    assert record["nll"] == pytest.approx(figures.negative_log_likelihood, abs=1e-3)
    raw = correct(table, Correction())
    assert record["nll"] != pytest.approx(evaluate(raw, draws=10).negative_log_likelihood, abs=1e-2)


def test_tensorboard_events_outlive_the_training(tiny_llama: TinyModel, corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    training = {"report_to": ["tensorboard"], "evaluations": 0}
    run = train(tiny_config(tiny_llama, corpus, tmp_path, training=training), console=QUIET)
    assert list(run.folder.rglob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("total", "evaluations", "expected"),
    [(9, 3, {3, 6, 9}), (10, 1, {10}), (10, 0, set()), (2, 5, {1, 2}), (1, 3, {1}), (7, 2, {4, 7})],
)
def test_evaluations_are_evenly_spaced_and_end_with_the_last_step(
    total: int, evaluations: int, expected: set[int]
) -> None:
    assert evaluation_steps(total, evaluations) == expected


@pytest.mark.parametrize("total", range(1, 30))
def test_the_last_step_is_always_scored(total: int) -> None:
    for evaluations in range(1, 8):
        steps = evaluation_steps(total, evaluations)
        assert max(steps) == total
        assert min(steps) >= 1
        assert len(steps) == min(total, evaluations) or total < 2 * evaluations
