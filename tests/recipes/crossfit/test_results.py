"""What a cross-fitting writes: the out-of-fold table, the average of the folds, calibration and rules."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import erc_llm
from erc_llm.calibration.select import table_hash
from erc_llm.calibration.store import read_calibration
from erc_llm.config import FoldConfig
from erc_llm.corpus import read_corpus
from erc_llm.corpus.dialogues import LEFT_OUT
from erc_llm.corpus.splits import episode_of, fold_episodes
from erc_llm.predictions import Correction, read_predictions
from erc_llm.predictor import load
from erc_llm.recipes.average import average_adapters
from erc_llm.recipes.data import open_corpus
from erc_llm.runs.directory import read_run
from tests.command_line import Command
from tests.recipes.crossfit.crossfitted import (
    FOLDS,
    SCENES,
    WEIGHTS,
    Crossfitted,
    scenes_of,
)


def test_the_table_has_every_target_of_train_once_in_its_order(done: Crossfitted) -> None:
    train, table = read_corpus(done.corpus).split("train"), done.table
    assert table.keys == tuple((d.id, u.id) for d in train for u in d.utterances)
    assert table.gold == tuple(u.label for d in train for u in d.utterances)
    assert table.text == tuple(u.text for d in train for u in d.utterances)
    assert table.episode == tuple(d.episode_id for d in train for _ in d.utterances)
    info, run = table.info, done.run
    assert (info.split, info.folds, info.run_id, info.system) == ("train", FOLDS, run.manifest.run_id, "tiny")
    assert info.corpus_sha256 == read_corpus(done.corpus).sha256 == run.manifest.corpus_sha256
    assert info.config_sha256 == run.config.sha256 == run.manifest.config_sha256
    assert (info.prior, info.calibration, info.decision) == (None, None, None), "the table is raw"
    labels = np.array(info.labels)
    assert table.probabilities is not None
    assert tuple(labels[table.probabilities.argmax(axis=1)]) == table.predicted


@pytest.mark.parametrize("number", range(1, FOLDS + 1))
def test_each_row_is_what_the_run_that_left_the_episode_out_predicts(done: Crossfitted, number: int) -> None:
    run = read_run(done.fold(number))
    assert run.config.corpus.fold == FoldConfig(number=number, folds=FOLDS, seed=13)
    predictor = load(done.fold(number))
    table, left_out = done.table, done.left_out(number)
    rows = {key: row for row, key in enumerate(table.keys)}
    assert table.log_likelihoods is not None
    assert left_out.log_likelihoods is not None
    found = []
    for scene in scenes_of(done.corpus, number):
        for utterance in predictor.predict(scene):
            key = (scene.id, utterance.utterance.id)
            found.append(key)
            expected = [utterance.log_likelihoods[name] for name in table.info.labels]
            np.testing.assert_allclose(table.log_likelihoods[rows[key]], expected, rtol=0, atol=1e-3)
    assert left_out.keys == tuple(found)
    assert left_out.info.split == LEFT_OUT
    np.testing.assert_array_equal(left_out.log_likelihoods, table.log_likelihoods[[rows[key] for key in found]])


def test_the_adapter_is_the_average_of_those_of_the_folds(done: Crossfitted, tmp_path: Path) -> None:
    folds = [read_run(done.fold(number)) for number in range(1, FOLDS + 1)]
    rank = average_adapters([fold.adapter for fold in folds], tmp_path / "mean")
    assert (done.folder / WEIGHTS).read_bytes() == (tmp_path / "mean" / "adapter_model.safetensors").read_bytes()
    weights = {(fold.folder / WEIGHTS).read_bytes() for fold in folds}
    assert len(weights) == FOLDS, "the folds differ"
    manifest, config = done.run.manifest, done.run.config
    assert manifest.finished
    assert (manifest.folds, manifest.averaged) == (FOLDS, tuple(fold.manifest.run_id for fold in folds))
    assert (config.lora.rank, config.corpus.fold, config.holds_out_selection) == (rank, None, False)
    shares = np.mean([fold.manifest.train_shares for fold in folds], axis=0)
    assert manifest.train_shares == pytest.approx(shares)


def test_calibration_and_rules_are_found_on_the_table(done: Crossfitted) -> None:
    stored = read_calibration(done.run)
    assert (stored.split, stored.decide, stored.fit_for) == ("train", "weighted_f1", "nll")
    assert stored.table_sha256 == table_hash(done.table)
    assert stored.targets == len(done.table)
    assert stored.dialogues == SCENES // 2, "episodes are the units of its cross-validation"
    rules = {each.decision.rule: each.decision for each in stored.decisions}
    assert rules.keys() == {"weighted_f1", "macro_f1"}
    for decision in rules.values():
        assert (decision.way, decision.table_sha256) == ("inductive", table_hash(replace(done.table, gold=None)))


def test_it_predicts_like_any_run_with_the_stored_rule(done: Crossfitted, erc: Command, tmp_path: Path) -> None:
    out = tmp_path / "dev.parquet"
    said = erc("predict", done.folder, "--split", "dev", "--out", out)
    assert said.code == 0, said.err
    assert "decided: " in said.out
    table, stored = read_predictions(out), read_calibration(done.run)
    info = table.info
    assert (info.decision, info.decision_way, info.decision_table) == (
        "weighted_f1",
        "inductive",
        table_hash(replace(done.table, gold=None)),
    )
    assert (info.run_id, info.system, info.selection) == (done.run.manifest.run_id, "tiny", "train")
    rule = stored.correction("weighted_f1")
    assert table.log_likelihoods is not None
    probabilities = rule.probabilities(table.log_likelihoods)
    assert table.predicted == tuple(info.labels[k] for k in rule.decide(probabilities))
    assert table.predicted != tuple(info.labels[k] for k in probabilities.argmax(axis=1)), "the rule matters here"
    by_key = dict(zip(table.keys, table.predicted, strict=True))
    predictor = erc_llm.load(done.folder)
    for scene in read_corpus(done.corpus).split("dev"):
        expected = [by_key[scene.id, u.id] for u in scene.utterances]
        assert [line.label for line in predictor.predict(scene)] == expected
        session = predictor.live(scene.id)
        assert [session.say(u.speakers, u.text).label for u in scene.utterances] == expected


@pytest.mark.parametrize("decide", ["macro_f1", "probable"])
def test_another_rule_can_be_asked_for(decide: Any, done: Crossfitted, erc: Command, tmp_path: Path) -> None:
    out = tmp_path / "dev.parquet"
    assert erc("predict", done.folder, "--decide", decide, "--out", out).code == 0
    info = read_predictions(out).info
    assert info.decision == (None if decide == "probable" else decide)
    assert erc_llm.load(done.folder, decide=decide).correction == Correction.of(info)


@pytest.mark.slow
def test_the_table_is_measured_like_any_other(done: Crossfitted, erc: Command, tmp_path: Path) -> None:
    said = erc("evaluate", done.folder / "crossfit.parquet", "--draws", 100)
    assert said.code == 0, said.err
    again = Path(shutil.copytree(done.folder, tmp_path / "tiny"))
    said = erc("calibrate", again, "--decide", "weighted_f1")
    assert said.code == 0, said.err
    assert read_calibration(read_run(again)) == read_calibration(done.run)


def test_the_runs_of_the_folds_hold_out_what_is_not_theirs(done: Crossfitted) -> None:
    """The split that a fold chooses its epoch by is part of what it keeps."""
    for number in range(1, FOLDS + 1):
        run = read_run(done.fold(number))
        assert (done.fold(number) / "selection.jsonl").is_file()
        data = open_corpus(run.config.corpus, run.config.label_set())
        parts = [{episode_of(d) for d in data.split(name)} for name in ("train", "selection", LEFT_OUT)]
        assert parts[2] == fold_episodes(read_corpus(done.corpus), FOLDS)[number - 1]
        assert all(parts)
        assert len(set.union(*parts)) == sum(map(len, parts)) == SCENES // 2


def test_the_average_is_compressed_with_its_calibration(done: Crossfitted, erc: Command, tmp_path: Path) -> None:
    small = tmp_path / "small"
    result = erc("average", done.folder, "--rank", 3, "--out", small)
    assert result.code == 0, result.err
    run = read_run(small)
    assert run.config.lora.rank == 3
    assert run.manifest.folds == FOLDS
    assert read_calibration(run) == read_calibration(done.run)
    dialogue = read_corpus(done.corpus).split("dev")[0]
    whole, compressed = (load(folder) for folder in (done.folder, small))
    assert whole.correction == compressed.correction
    found, expected = (
        np.array([list(line.probabilities.values()) for line in predictor.predict(dialogue)])
        for predictor in (compressed, whole)
    )
    assert 0 < np.abs(found - expected).max() < 0.2
