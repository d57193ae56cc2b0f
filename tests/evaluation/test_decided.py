"""Most probable and decided answers side by side, in a comparison and in an evaluation."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from erc_llm.calibration.choose import decide_by_itself
from erc_llm.cli.calibration_view import print_calibration
from erc_llm.cli.page import Page
from erc_llm.evaluation.comparison import compare
from erc_llm.evaluation.comparison_report import sections
from erc_llm.evaluation.matching import NamedTable
from erc_llm.evaluation.report import evaluate
from erc_llm.predictions import Correction, Predictions, PriorShift, correct, write_predictions
from erc_llm.predictions.correction import CORRECTED, MOST_PROBABLE
from tests.command_line import Command
from tests.predictions.scored_tables import draw, scored


@pytest.fixture(scope="module")
def plain() -> Predictions:
    return scored(*draw(600), split="dev", run_id="a-1", seed=1)


def other_of(table: Predictions) -> Predictions:
    evidence, gold = draw(600, seed=0)
    return replace(scored(evidence * 0.5, gold, split="dev", run_id="b-1", system="other"), gold=table.gold)


def test_a_comparison_shows_both_answers_of_each_system(plain: Predictions) -> None:
    decided, other = decide_by_itself(plain, "macro_f1"), other_of(plain)
    found = compare([NamedTable("a", decided), NamedTable("b", other)], draws=20)
    rows = [(row.system, row.answers) for row in found.decided]
    rule = Correction.of(decided.info).decision
    assert rule is not None
    assert rows == [("tuned", MOST_PROBABLE), ("tuned", rule.words), ("other", MOST_PROBABLE)]
    for row, table in zip(found.decided, (plain, decided, other), strict=True):
        headline = evaluate(table, draws=20).headline
        assert row.weighted_f1 == pytest.approx(headline.weighted_f1.value)
        assert row.macro_f1 == pytest.approx(headline.macro_f1.value)
        assert row.accuracy == pytest.approx(headline.accuracy.value)
    assert "Most probable and decided answers" in [section.title for section in sections(found)]
    assert "decision for macro_f1 (transductive)" in next(r for r in found.manifest if r.name == "corrected by").values


def test_the_most_probable_label_is_shown_before_and_after_a_correction(plain: Predictions) -> None:
    """What a paper reports of a system trained with balanced classes, and the fair start for its rule."""
    shift = PriorShift("corpus", (0.25,) * 4, (0.1, 0.1, 0.7, 0.1))
    shifted = correct(plain, Correction(shift))
    assert shifted.predicted != plain.predicted
    decided = decide_by_itself(shifted, "weighted_f1")
    found = compare([NamedTable("a", decided), NamedTable("b", other_of(plain))], draws=20).decided
    assert [row.answers for row in found[:2]] == [MOST_PROBABLE, f"{MOST_PROBABLE}, {CORRECTED}"]
    for row, table in zip(found, (plain, shifted, decided), strict=False):
        assert row.weighted_f1 == pytest.approx(evaluate(table, draws=20).headline.weighted_f1.value)
    without = replace(decided, log_likelihoods=None)
    found = compare([NamedTable("a", without), NamedTable("b", other_of(plain))], draws=20).decided
    assert found[0].answers == f"{MOST_PROBABLE}, {CORRECTED}", "the raw scores are not known"


def test_the_command_shows_the_answers_before_a_correction_too(
    plain: Predictions, tmp_path: Path, erc: Command
) -> None:
    shift = PriorShift("corpus", (0.25,) * 4, (0.1, 0.1, 0.7, 0.1))
    decided = decide_by_itself(correct(plain, Correction(shift)), "weighted_f1")
    write_predictions(decided, tmp_path / "a.parquet")
    write_predictions(other_of(plain), tmp_path / "b.parquet")
    assert erc("compare", tmp_path / "a.parquet", tmp_path / "b.parquet", "--draws", 100, "--out", tmp_path).code == 0
    report = (tmp_path / "comparison.md").read_text("utf-8")
    raw = evaluate(plain, draws=20).headline.weighted_f1.value
    assert f"| {MOST_PROBABLE} | {100 * raw:.2f} |" in " ".join(report.split())
    assert f"| {MOST_PROBABLE}, {CORRECTED} |" in " ".join(report.split())


def test_without_a_rule_there_is_nothing_to_show(plain: Predictions) -> None:
    found = compare([NamedTable("a", plain), NamedTable("b", other_of(plain))], draws=20)
    assert found.decided == ()
    assert "Most probable and decided answers" not in [section.title for section in sections(found)]


def test_an_evaluation_shows_what_a_rule_costs_label_by_label(plain: Predictions) -> None:
    decided = decide_by_itself(plain, "macro_f1")
    report = evaluate(decided, draws=20).calibration
    assert report is not None
    assert [step.step for step in report.steps] == ["raw", "macro_f1, on itself"]
    scores = evaluate(decided, draws=20).headline
    assert report.steps[1].macro_f1 == pytest.approx(scores.macro_f1.value)
    assert report.steps[1].accuracy == pytest.approx(scores.accuracy.value)
    assert [row.targets for row in report.recalls] == sorted((row.targets for row in report.recalls), reverse=True)
    of_label = {row.label: row for row in evaluate(decided, draws=20).classes}
    assert all(row.decided == pytest.approx(of_label[row.label].recall) for row in report.recalls)
    assert evaluate(correct(decided, Correction()), draws=20).calibration.recalls == ()  # type: ignore[union-attr]
    text = io.StringIO()
    print_calibration(report, Page(Console(file=text, width=80)))
    assert "Recall %" in text.getvalue()
    assert "…" not in text.getvalue()
    assert "..." not in text.getvalue()
    assert max(map(len, text.getvalue().splitlines())) <= 80


def test_a_decided_table_without_log_likelihoods_still_has_its_steps(plain: Predictions) -> None:
    decided = decide_by_itself(replace(plain, log_likelihoods=None), "weighted_f1")
    report = evaluate(decided, draws=20).calibration
    assert report is not None
    assert [step.step for step in report.steps] == ["raw", "weighted_f1, on itself"]
    assert report.warnings == ()
