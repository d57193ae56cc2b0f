"""The tables of decided answers: every way to answer is there, and its figures are those of the evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import crossfitted, decisions
from benchmarks.crossfitted import ANSWERS, COMPARED, MOST_PROBABLE, TRANSDUCTIVE
from erc_llm.calibration.choose import decide_by_others
from erc_llm.evaluation.report import evaluate
from erc_llm.predictions import Correction, Predictions, correct, write_predictions
from erc_llm.predictions.correction import corpus_shift
from tests.predictions.scored_tables import CORPUS, TRAINED, draw, scored


def cross_fitted(seed: int, prior: tuple[float, ...]) -> Predictions:
    """Twelve episodes of five dialogues of ten targets, predicted by three folds."""
    evidence, gold = draw(600, seed=seed)
    table = scored(evidence, gold, split="train", folds=3, training_prior=prior, train_shares=CORPUS)
    columns: dict[str, Any] = table.columns()
    columns["episode"] = [f"e{i // 50}" for i in range(600)]
    return Predictions.from_columns(table.info, columns)


def rows_of(text: str) -> list[list[str]]:
    """The cells of a Markdown table, without its head."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.strip().splitlines()[2:]]


def percent(value: float) -> str:
    return f"{100 * value:.2f}"


def test_arms_are_compared_and_each_answer_is_measured_against_the_raw_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = tmp_path / "arms.yaml"
    arms.write_text("config: smollm2-135m\nbudget: []\nbase: kept\narms: {kept: [], balanced: [], missing: []}\n")
    tables = {"kept": cross_fitted(0, CORPUS), "balanced": cross_fitted(0, TRAINED)}
    for arm, table in tables.items():
        write_predictions(table, tmp_path / arm / "crossfit.parquet")
    assert crossfitted.main([str(arms), "--out", str(tmp_path)]) == 0
    first, second = (rows_of(part) for part in capsys.readouterr().out.strip().split("\n\n"))
    variants = ["kept", "balanced", "balanced, prior taken back"]
    assert [row[:2] for row in first] == [[arm, answers] for arm in variants for answers in COMPARED]
    ways = [*ANSWERS, TRANSDUCTIVE]
    assert [row[:2] for row in second] == [[arm, way] for arm in variants for way in ways if way != MOST_PROBABLE]
    by_arm = {(row[0], row[1]): row for row in first}
    decided = decide_by_others(tables["balanced"], "weighted_f1")
    shown = by_arm["balanced, prior taken back", "for weighted F1"]
    assert shown[2].startswith(percent(evaluate(decided, draws=20).headline.weighted_f1.value) + " (")
    assert by_arm["kept", MOST_PROBABLE][3] == "", "the base arm is compared with nothing"
    gains = {(row[0], row[1]): float(row[2].split()[0]) for row in second}
    raw = float(by_arm["balanced", MOST_PROBABLE][2].split()[0])
    assert gains["balanced", "for weighted F1"] == pytest.approx(
        float(by_arm["balanced", "for weighted F1"][2].split()[0]) - raw, abs=0.011
    )


def test_a_missing_base_arm_is_the_users_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arms = tmp_path / "arms.yaml"
    arms.write_text("config: smollm2-135m\nbudget: []\nbase: kept\narms: {kept: []}\n")
    assert crossfitted.main([str(arms), "--out", str(tmp_path)]) == 2
    assert "missing; the other arms are compared with kept" in capsys.readouterr().err


def test_a_balanced_run_is_answered_after_its_prior_is_taken_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"training_prior": TRAINED, "train_shares": CORPUS}
    held_out, split = (
        scored(*draw(600, seed=seed), **own, split=name) for seed, name in ((1, "selection"), (2, "dev"))
    )
    for folder in ("with", "without"):
        write_predictions(split, tmp_path / folder / "dev.parquet")
    write_predictions(held_out, tmp_path / "with" / "selection.parquet")
    runs = [f"{folder}={tmp_path / folder}" for folder in ("with", "without")]
    assert decisions.main(runs) == 0
    rows = {(row[0], row[1]): row for row in rows_of(capsys.readouterr().out)}
    shift = corpus_shift(TRAINED, CORPUS)
    taken_back = evaluate(correct(split, Correction(shift)), draws=20).headline.weighted_f1.value
    raw = evaluate(split, draws=20).headline.weighted_f1.value
    for folder in ("with", "without"):
        assert rows[folder, "most probable"][2].startswith(percent(raw))
        shown = rows[folder, "most probable, prior taken back"]
        assert shown[2].startswith(percent(taken_back))
        assert shown[4].startswith(f"{100 * (taken_back - raw):+.2f}")
    assert ("with", "weighted F1, inductive") in rows
    assert ("without", "weighted F1, inductive") not in rows
