"""Decision rules where they are chosen, stored and applied: which one a prediction gets, and what it never reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from erc_llm.calibration.choose import choose_correction, decide_by_itself, decide_by_others, rule_on
from erc_llm.calibration.f1_rules import Metric
from erc_llm.calibration.record import Calibration, Kind
from erc_llm.calibration.select import calibrate, decide_held_out, table_hash
from erc_llm.calibration.store import read_calibration, write_calibration
from erc_llm.errors import ConfigError, PredictionsError, RunError
from erc_llm.predictions import Correction, Predictions, PriorShift, correct, read_predictions, write_predictions
from erc_llm.predictions.correction import answers_in_words
from erc_llm.runs.directory import Run, read_run
from tests.calibration.test_store import SHIFT, run_in
from tests.predictions.scored_tables import CORPUS, LABELS, TRAINED, draw, scored


@pytest.fixture(scope="module")
def table() -> Predictions:
    evidence, gold = draw(900, lead=0.9)
    return scored(evidence * 2, gold)


@pytest.fixture(scope="module")
def calibration(table: Predictions) -> Calibration:
    return calibrate(table, SHIFT)


@pytest.fixture
def run(tmp_path: Path, calibration: Calibration) -> Run:
    run = run_in(tmp_path)
    write_calibration(run, calibration)
    return run


def table_of_rules(calibration: Calibration) -> str | None:
    decision = calibration.correction("weighted_f1").decision
    assert decision is not None
    return decision.table_sha256


def test_a_rule_is_used_only_when_asked_for_or_named_by_the_run(run: Run, calibration: Calibration) -> None:
    plain = Correction(SHIFT)
    assert choose_correction(run) == choose_correction(run, decide="probable") == plain
    for rule in ("weighted_f1", "macro_f1"):
        assert choose_correction(run, decide=rule) == calibration.correction(rule)
    write_calibration(run, replace(calibration, decide="macro_f1"))
    assert choose_correction(run) == calibration.correction("macro_f1")
    assert choose_correction(run, decide="probable") == calibration.correction()
    assert choose_correction(run, calibration="run", decide="probable") == calibration.correction()
    assert choose_correction(run, calibration="none") == plain


def test_a_rule_that_is_not_there_is_refused_with_what_finds_it(tmp_path: Path, run: Run) -> None:
    (tmp_path / "other").mkdir()
    other = run_in(tmp_path / "other")
    with pytest.raises(RunError, match=r"has no decision rule 'weighted_f1' yet; `erc-llm calibrate .*--transductive"):
        choose_correction(other, decide="weighted_f1")
    with pytest.raises(RunError, match=r"no decision rule 'weights'; .*--fit-for weighted_f1"):
        choose_correction(run, decide="weights")
    with pytest.raises(ConfigError, match=r"calibrated probabilities; leave --calibration none out.*--transductive"):
        choose_correction(run, calibration="none", decide="macro_f1")
    with pytest.raises(ConfigError, match="a base model alone has none"):
        choose_correction(None, decide="weighted_f1")
    with pytest.raises(ConfigError, match=r"decide: expected auto, probable, .*found 'best'"):
        choose_correction(run, decide="best")  # type: ignore[arg-type]


def test_a_calibration_of_the_first_format_is_read_with_its_weights() -> None:
    run = read_run(Path("docs/results/runs/aligned-mean"))
    assert json.loads((run.folder / "calibration.json").read_text("utf-8"))["format_version"] == 1
    found, dev = read_calibration(run), read_predictions(run.folder / "dev.parquet")
    assert [stored.decision.rule for stored in found.decisions] == ["weights"]
    assert choose_correction(run, calibration="run") == found.correction("weights")
    assert choose_correction(run) == Correction()
    assert correct(dev, found.correction("weights")).predicted == correct(dev, Correction.of(dev.info)).predicted


def test_a_transductive_rule_reads_no_label(table: Predictions) -> None:
    decided = decide_by_itself(table, "weighted_f1")
    shuffled = tuple(np.random.default_rng(1).permutation(np.array(table.gold, dtype=object)).tolist())
    for gold in (shuffled, None):
        other = decide_by_itself(replace(table, gold=gold), "weighted_f1")
        assert Correction.of(other.info) == Correction.of(decided.info)
        assert other.predicted == decided.predicted
    assert decided.predicted != table.predicted
    np.testing.assert_array_equal(decided.probabilities, table.probabilities)


def test_an_inductive_rule_reads_no_label_of_what_it_decides(run: Run, calibration: Calibration) -> None:
    evidence, gold = draw(300, seed=5)
    dev, other = scored(evidence * 2, gold, split="dev"), scored(evidence * 2, 3 - gold, split="dev")
    rule = choose_correction(run, decide="weighted_f1")
    assert correct(dev, rule).predicted == correct(other, rule).predicted
    assert correct(dev, rule).info.decision_table == table_of_rules(calibration)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_table_names_rule_way_and_the_table_of_the_rule(
    run: Run, calibration: Calibration, table: Predictions, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"decided{suffix}"
    write_predictions(correct(table, choose_correction(run, decide="macro_f1")), path)
    info = read_predictions(path).info
    assert (info.decision, info.decision_way) == ("macro_f1", "inductive")
    assert info.decision_table == table_of_rules(calibration) == table_hash(replace(table, gold=None))
    assert Correction.of(info) == calibration.correction("macro_f1")
    write_predictions(decide_by_itself(table, "macro_f1"), path)
    info = read_predictions(path).info
    assert (info.decision, info.decision_way) == ("macro_f1", "transductive")
    assert info.decision_table == table_hash(replace(table, gold=None))


def test_probabilities_without_log_likelihoods_can_be_decided(table: Predictions) -> None:
    bare = replace(table, log_likelihoods=None)
    decided = decide_by_itself(bare, "weighted_f1")
    assert decided.predicted == decide_by_itself(table, "weighted_f1").predicted
    assert correct(decided, Correction()).predicted == table.predicted
    with pytest.raises(PredictionsError, match="no probabilities"):
        rule_on(replace(bare, probabilities=None), "weighted_f1", "inductive")
    with pytest.raises(PredictionsError, match="no log-likelihoods"):
        correct(decided, Correction(SHIFT))


def test_held_out_decisions_are_scored_as_the_calibration_says(table: Predictions, calibration: Calibration) -> None:
    from erc_llm.evaluation.report import evaluate

    for rule in ("probable", "weighted_f1", "macro_f1"):
        decided = decide_held_out(table, SHIFT, rule)
        stated = calibration.held_out(rule)
        assert stated is not None
        headline = evaluate(decided, draws=20).headline
        assert headline.weighted_f1.value == pytest.approx(stated.weighted_f1)
        assert headline.macro_f1.value == pytest.approx(stated.macro_f1)
        assert headline.accuracy.value == pytest.approx(stated.accuracy)
        assert Correction.of(decided.info) == Correction()


@pytest.fixture(scope="module")
def out_of_fold() -> Predictions:
    """Twelve episodes of five dialogues of ten targets, predicted by three folds."""
    evidence, gold = draw(600)
    table = scored(evidence, gold, split="train", folds=3, training_prior=TRAINED, train_shares=CORPUS)
    columns: dict[str, Any] = table.columns()
    columns["episode"] = [f"e{i // 50}" for i in range(600)]
    return Predictions.from_columns(table.info, columns)


@pytest.mark.parametrize("metric", ["weighted_f1", "macro_f1"])
def test_a_cross_fitted_table_is_decided_by_other_episodes(out_of_fold: Predictions, metric: Metric) -> None:
    shift = PriorShift("corpus", TRAINED, CORPUS)
    decided = decide_by_others(out_of_fold, metric)
    assert decided.predicted == decide_held_out(out_of_fold, shift, metric).predicted
    assert decided.predicted != decide_held_out(out_of_fold, shift, "probable").predicted
    info = decided.info
    assert (info.decision, info.decision_way, info.decision_weights) == (metric, "cross_fitted", None)
    assert info.prior == shift.words
    assert info.calibration in (None, *(f"{k}, fitted on other episodes (cross-fitted)" for k in get_args(Kind)))
    assert "rules found on the rest of train (cross-fitted)" in answers_in_words(info)
    assert answers_in_words(out_of_fold.info) == "the most probable label"


def test_only_a_cross_fitted_table_is_decided_by_other_episodes(table: Predictions, out_of_fold: Predictions) -> None:
    of_average = replace(out_of_fold, info=replace(out_of_fold.info, split="dev"))
    for other in (table, of_average):
        with pytest.raises(PredictionsError, match=r"is not cross-fitted \(split .*again with --decide macro_f1: "):
            decide_by_others(other, "macro_f1")


def test_a_cross_fitted_table_is_divided_by_episodes(out_of_fold: Predictions) -> None:
    found = calibrate(out_of_fold, SHIFT)
    assert (found.dialogues, found.folds, found.split) == (12, 10, "train")
    assert "cross-fitted train" in found.words
    assert "folds over episodes" in found.words
    assert len(LABELS) == len(found.offsets)
