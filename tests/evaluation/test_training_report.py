"""Loss curve and selection scores, from the records of a run's logs."""

from __future__ import annotations

from typing import Any

from erc_llm.evaluation.sections import Curves, ReportTable
from erc_llm.evaluation.training_report import training_sections


def score(step: int, weighted_f1: float, best: bool) -> dict[str, Any]:
    return {"step": step, "weighted_f1": weighted_f1, "macro_f1": 0.1, "accuracy": 0.5, "nll": 1.5, "best": best}


STEPS = [{"step": step, "loss": 10 / step} for step in range(1, 1301)]
SCORES = [score(400, 0.3, True), score(800, 0.4, True), score(1200, 0.35, False)]


def test_the_curves_and_the_kept_step() -> None:
    (section,) = training_sections(STEPS, SCORES)
    assert section.blocks[0] == "1,300 optimizer steps; the mean loss was 10.000 at first, 0.008 at last."
    losses, scores = (block for block in section.blocks if isinstance(block, Curves))
    (loss,) = losses.curves
    assert len(loss.points) <= 500
    assert loss.points[0] == (3, (10 + 5 + 10 / 3) / 3), "the mean of three steps"
    assert loss.points[-1][0] == 1300
    assert [curve.name for curve in scores.curves] == ["weighted F1", "macro F1", "accuracy"]
    assert scores.curves[0].points == ((400, 30), (800, 40), (1200, 35))
    (sheet,) = (block for block in section.blocks if isinstance(block, ReportTable))
    assert [row[-1].text for row in sheet.rows] == ["", "yes", ""], "the last new best is what was kept"
    assert [cell.text for cell in sheet.rows[1]] == ["800", "40.00", "10.00", "50.00", "1.5000", "yes"]


def test_a_run_that_was_scored_once_or_not_at_all() -> None:
    (section,) = training_sections(STEPS[:3], SCORES[:1])
    assert len([block for block in section.blocks if isinstance(block, Curves)]) == 1
    (section,) = training_sections(STEPS[:1], [])
    assert not [block for block in section.blocks if isinstance(block, ReportTable)]


def test_records_of_damaged_or_foreign_logs_are_left_out() -> None:
    assert training_sections([], []) == ()
    assert training_sections([{"step": 1, "loss": None}, {"step": 2}], [{"step": 3, "weighted_f1": 0.1}]) == ()
