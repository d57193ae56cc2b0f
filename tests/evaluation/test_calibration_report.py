"""What `evaluate` finds in probabilities: each step recomputed, reliability, abstention, and the two drawings."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from erc_llm import metrics
from erc_llm.errors import PredictionsError
from erc_llm.evaluation.calibration_report import CalibrationReport
from erc_llm.evaluation.plots import write_plots
from erc_llm.evaluation.report import evaluate
from erc_llm.predictions import Correction, Predictions, correct
from tests.evaluation.corrected_tables import WHOLE, corrected_table


@pytest.fixture(scope="module")
def table() -> Predictions:
    return corrected_table()


def report_of(table: Predictions, abstain_below: float | None = None) -> CalibrationReport:
    found = evaluate(table, draws=20, abstain_below=abstain_below).calibration
    assert found is not None
    return found


def test_every_step_is_recomputed_from_the_raw_scores(table: Predictions) -> None:
    report = report_of(table)
    assert [s.step for s in report.steps] == ["raw", "prior: corpus", "calibration", "decision weights"]
    assert report.warnings == ()
    parts = (Correction(), Correction(WHOLE.prior), replace(WHOLE, decision=None), WHOLE)
    for step, correction in zip(report.steps, parts, strict=True):
        alone = evaluate(correct(table, correction), draws=20)
        assert alone.calibration_error is not None
        assert step.weighted_f1 == pytest.approx(alone.headline.weighted_f1.value)
        assert step.macro_f1 == pytest.approx(alone.headline.macro_f1.value)
        assert step.nll == pytest.approx(alone.negative_log_likelihood)
        assert step.calibration_error == pytest.approx(alone.calibration_error.value)
    nll = [s.nll for s in report.steps]
    assert nll[0] > nll[1] > nll[2] == nll[3]


def test_a_table_without_steps_has_none(table: Predictions) -> None:
    assert report_of(correct(table, Correction())).steps == ()


def test_probabilities_that_do_not_fit_the_metadata_are_told(table: Predictions) -> None:
    lying = replace(table, info=replace(table.info, temperature=1.0))
    assert "are not those that its log-likelihoods" in report_of(lying).warnings[0]
    lacking = replace(table, log_likelihoods=None)
    assert report_of(lacking).steps == ()
    assert "no log-likelihoods" in report_of(lacking).warnings[0]


def test_invalid_answers_stay_wrong_in_every_step(table: Predictions) -> None:
    spoiled = replace(table, invalid=np.ones(len(table), dtype=np.bool_))
    assert {s.weighted_f1 for s in report_of(spoiled).steps} == {0.0}


def test_the_bins_are_those_of_the_calibration_error(table: Predictions) -> None:
    report = report_of(table)
    assert sum(b.targets for b in report.reliability) == len(table)
    gaps = sum(b.targets * abs(b.accuracy - b.confidence) for b in report.reliability) / len(table)
    error = evaluate(table, draws=20).calibration_error
    assert error is not None
    assert gaps == pytest.approx(error.value)
    assert all(b.low < b.confidence <= b.high for b in report.reliability)


def test_reliability_counts_what_falls_into_each_bin() -> None:
    probabilities = np.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.1, 0.9, 0.0], [0.0, 0.0, 1.0]])
    found = metrics.reliability(probabilities, np.array([0, 1, 1, 2]), bins=2)
    assert found.count.tolist() == [1, 3]
    assert found.confidence.tolist() == pytest.approx([0.5, 2.5])
    assert found.right.tolist() == [1, 2]


def test_the_curve_starts_at_all_targets_and_keeps_the_surest(table: Predictions) -> None:
    evaluation = evaluate(table, draws=20)
    report = report_of(table)
    first, last = report.risk_coverage[0], report.risk_coverage[-1]
    assert first.coverage == 1
    assert first.risk == pytest.approx(1 - evaluation.headline.accuracy.value)
    assert first.weighted_f1 == pytest.approx(evaluation.headline.weighted_f1.value)
    assert last.coverage == pytest.approx(0.05, abs=0.01)
    assert last.risk < first.risk
    coverages = [p.coverage for p in report.risk_coverage]
    assert coverages == sorted(coverages, reverse=True)
    assert len(coverages) == 20


def test_equally_sure_targets_are_kept_or_left_together(table: Predictions) -> None:
    flat = replace(table, probabilities=np.full((len(table), 4), 0.25))
    assert [p.coverage for p in report_of(flat).risk_coverage] == [1.0]


@pytest.mark.parametrize("noted", [False, True])
def test_a_threshold_asked_for_or_noted_scores_what_is_kept(table: Predictions, noted: bool) -> None:
    given = replace(table, info=replace(table.info, abstain_below=0.6)) if noted else table
    found = report_of(given, None if noted else 0.6).abstention
    assert found is not None
    kept = ~table.abstained(0.6)
    columns = {name: [v for v, k in zip(values, kept, strict=True) if k] for name, values in table.columns().items()}
    alone = evaluate(Predictions.from_columns(table.info, columns), draws=20)
    assert found.targets == alone.targets == kept.sum()
    assert found.coverage == pytest.approx(kept.mean())
    assert found.weighted_f1 == pytest.approx(alone.headline.weighted_f1.value)
    assert found.macro_f1 == pytest.approx(alone.headline.macro_f1.value)
    assert found.risk == pytest.approx(1 - alone.headline.accuracy.value)


def test_a_threshold_may_leave_nothing(table: Predictions) -> None:
    found = report_of(table, 1.0).abstention
    assert found is not None
    assert (found.targets, found.coverage, found.weighted_f1) == (0, 0, 0)


def test_no_probabilities_no_report(table: Predictions) -> None:
    bare = replace(table, probabilities=None)
    assert evaluate(bare, draws=20).calibration is None
    with pytest.raises(PredictionsError, match="no probabilities to hold against a threshold"):
        evaluate(bare, draws=20, abstain_below=0.5)


def test_json_holds_all_of_it(table: Predictions) -> None:
    values = json.loads(json.dumps(evaluate(table, draws=20, abstain_below=0.5).as_dict(), allow_nan=False))
    report = values["calibration"]
    assert [s["step"] for s in report["steps"]][-1] == "decision weights"
    assert report["reliability"][0].keys() == {"low", "high", "targets", "confidence", "accuracy"}
    assert report["risk_coverage"][0]["coverage"] == 1
    assert report["abstention"]["threshold"] == 0.5
    assert values["info"]["decision_weights"] == [1.0, 1.5, 0.8, 1.2]


def test_both_are_drawn_as_png(table: Predictions, tmp_path: Path) -> None:
    report = report_of(table, 0.5)
    paths = write_plots(report, tmp_path / "new", "series $x_y, split dev")
    assert [p.name for p in paths] == ["reliability.png", "risk-coverage.png"]
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(p.name for p in paths)
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG\r\n")
    again = write_plots(report, tmp_path / "again", "series $x_y, split dev")
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in paths]
    (tmp_path / "file").write_text("")
    with pytest.raises(PredictionsError, match="cannot be written"):
        write_plots(report, tmp_path / "file", "x")


def test_matplotlib_is_imported_only_to_draw() -> None:
    code = "import sys, erc_llm.evaluation.report, erc_llm.evaluation.plots; print('matplotlib' in sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "False"
