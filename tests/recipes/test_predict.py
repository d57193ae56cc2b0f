"""Predictions of a run: where they come from, and runs or models that cannot make them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from erc_llm.corpus import read_corpus
from erc_llm.errors import ModelError, RunError
from erc_llm.models.adapters import attach_lora, save_adapter
from erc_llm.predictions import Predictions, read_predictions, write_predictions
from erc_llm.predictor import load
from erc_llm.recipes.data import label_distribution, open_corpus
from erc_llm.recipes.predict import predict
from erc_llm.recipes.train import train
from erc_llm.runs.directory import Run, read_run
from erc_llm.runs.manifest import write_manifest
from tests.recipes.changed import changed
from tests.tiny_models import TinyModel, random_llama, save_tiny
from tests.tiny_runs import as_json, dialogue, tiny_config, write_corpus

QUIET = Console(quiet=True)


def _rows(table: Predictions) -> list[dict[str, Any]]:
    columns = table.columns()
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def test_predictions_are_written_with_where_they_come_from(finished: Run, tmp_path: Path) -> None:
    predictor = load(finished.adapter)
    data = open_corpus(finished.config.corpus, finished.config.label_set(), cut_selection=False)
    seen: list[int] = []
    table = predict(predictor, data, "dev", on_progress=seen.append)
    targets = [(d.id, u.id, u.label) for d in data.split("dev") for u in d.utterances]
    rows = _rows(table)
    assert [(r["dialogue_id"], r["utterance_id"], r["gold"]) for r in rows] == targets
    assert seen[-1] == len(data.split("dev"))
    for row in rows:
        assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-6)
        assert row["predicted"] == table.info.labels[max(range(7), key=row["probabilities"].__getitem__)]
        assert 0 <= row["label_mass"] <= 1
    info, manifest = table.info, finished.manifest
    assert (info.run_id, info.split, info.context, info.seed) == (manifest.run_id, "dev", "past", 13)
    assert info.corpus_sha256 == data.sha256
    assert info.config_sha256 == manifest.config_sha256
    assert info.recipe_sha256 == finished.config.recipe_sha256
    assert info.selection == "selection", "training scores the selection split and keeps the best"
    assert info.template_sha256 == manifest.template_sha256
    assert info.base_model_sha256 == manifest.base_model_sha256
    assert info.train_shares == pytest.approx(manifest.train_shares)
    assert info.training_prior == manifest.training_prior == manifest.train_shares
    write_predictions(table, tmp_path / "dev.parquet")
    assert read_predictions(tmp_path / "dev.parquet").info == info


def test_the_predictions_of_unlabelled_lines_have_no_gold(finished: Run, tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus", labels=False)
    table = predict(load(finished.folder), read_corpus(folder), "dev")
    assert len(table) > 0
    assert table.gold is None


def test_scores_do_not_depend_on_the_token_budget(finished: Run) -> None:
    """A scene that alone exceeds the budget is read on its trunk's cache; 1e-3 nats, as sums go in another order."""
    data = read_corpus(finished.config.corpus.path)
    wide = load(finished.folder)
    narrow = load(finished.folder)
    narrow.config = changed(finished, Path("unused"), scoring={"tokens_per_forest": 64})
    for one, other in zip(wide.scores(data.split("dev")), narrow.scores(data.split("dev")), strict=True):
        assert [s.target for s in one] == [s.target for s in other]
        for a, b in zip(one, other, strict=True):
            assert a.log_likelihoods == pytest.approx(b.log_likelihoods, abs=1e-3)


def test_a_configuration_alone_predicts_zero_shot(tiny_llama: TinyModel, corpus: Path, tmp_path: Path) -> None:
    predictor = load(tiny_config(tiny_llama, corpus, tmp_path))
    assert predictor.run is None
    data = open_corpus(predictor.config.corpus, predictor.labels)
    table = predict(predictor, data, "dev")
    assert table.info.run_id is None
    assert table.info.training_prior is None
    assert "zero-shot" in table.info.system
    assert table.info.train_shares == pytest.approx(label_distribution(data.split("train"), predictor.labels))
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_of_another_shape_does_not_fit(run: Path, tiny_llama: TinyModel) -> None:
    shutil.rmtree(run / "adapter")
    wider = random_llama(tiny_llama.tokenizer, hidden=128)
    save_adapter(attach_lora(wider, rank=4, alpha=8, dropout=0.0, seed=1), run / "adapter")
    with pytest.raises(ModelError, match=r"lora_A.*256.*128"):
        load(run)


def test_another_base_model_under_the_same_name_is_refused(tiny_llama: TinyModel, corpus: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_llama.folder, tmp_path / "model"))
    run = train(tiny_config(model, corpus, tmp_path, training={"evaluations": 0}), console=QUIET)
    assert run.manifest.base_model_sha256[:12]
    save_tiny(model, tiny_llama.tokenizer, random_llama(tiny_llama.tokenizer, seed=9))
    with pytest.raises(ModelError, match="base model") as caught:
        load(run.folder)
    assert run.manifest.base_model_sha256[:12] in str(caught.value)
    shutil.rmtree(model)
    with pytest.raises(ModelError, match="no such folder"):
        load(run.folder)


def test_an_unfinished_run_is_not_loaded_unawares(run: Path) -> None:
    write_manifest(run, replace(read_run(run).manifest, status="training"))
    with pytest.raises(RunError, match="--resume"):
        load(run)


def test_a_run_without_its_adapter_says_so(run: Path) -> None:
    shutil.rmtree(run / "adapter")
    with pytest.raises(ModelError, match="adapter_config"):
        load(run)


def test_own_labels_reach_the_predictions(tiny_llama: TinyModel, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for season, split in ((1, "train"), (2, "dev")):
        rows = [as_json(dialogue(i, 3, season)) for i in range(6)]
        for row in rows:
            for k, line in enumerate(row["utterances"]):
                line["label"] = ("calm", "CROSS", "angry")[k]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    labels = {"names": ["calm", "cross"], "neutral": "calm", "spellings": {"angry": "cross"}}
    run = train(tiny_config(tiny_llama, folder, tmp_path, corpus={"labels": labels}), console=QUIET)
    assert run.manifest.labels == ("calm", "cross")
    assert run.manifest.train_shares == pytest.approx((1 / 3, 2 / 3))
    predictor = load(run.folder)
    data = read_corpus(folder, labels=predictor.labels)
    table = predict(predictor, data, "dev")
    assert set(table.predicted) <= {"calm", "cross"}
    assert table.info.labels == ("calm", "cross")
