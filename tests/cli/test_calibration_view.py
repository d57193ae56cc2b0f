"""How the calibration part of an evaluation reads in a terminal and in a file."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from erc_llm.cli.evaluation_view import print_evaluation
from erc_llm.evaluation.report import Evaluation, evaluate
from erc_llm.predictions import Predictions
from tests.evaluation.corrected_tables import corrected_table
from tests.predictions.scored_tables import draw, scored


@pytest.fixture(scope="module")
def table() -> Predictions:
    return corrected_table()


def printed(evaluation: Evaluation, **options: object) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    print_evaluation(evaluation, Console(file=stream, width=80, **options))  # type: ignore[arg-type]
    stream.seek(0)
    return stream.read()


def test_the_page_shows_steps_diagram_and_curve_in_80_columns(table: Predictions) -> None:
    evaluation = evaluate(table, draws=20)
    assert evaluation.calibration is not None
    plain = printed(evaluation)
    assert plain.isascii()
    for text in (plain, printed(evaluation, force_terminal=True, color_system=None, no_color=True)):
        assert max(map(len, text.splitlines())) <= 80
        for part in ("After step", "prior: corpus", "decision weights", "Conf. %", "Coverage %", "risk %"):
            assert part in text
    lines = plain.split("Conf. %")[1].splitlines()[1:]
    drawn = [line for line in lines if " to " in line]
    assert len(drawn) == len(evaluation.calibration.reliability)
    assert all(line.count("|") == 1 for line in drawn)


def test_a_tiny_table_gets_no_diagram() -> None:
    text = printed(evaluate(scored(*draw(40)), draws=20))
    assert "Conf. %" not in text
    assert "NLL" in text


def test_probabilities_that_contradict_the_metadata_are_noted(table: Predictions) -> None:
    lying = replace(table, info=replace(table.info, temperature=1.0))
    assert "Note: Probabilities or answers of the table are not those" in " ".join(
        printed(evaluate(lying, draws=20)).split()
    )


@pytest.mark.parametrize("noted", [False, True])
def test_abstention_states_how_many_targets_are_answered(table: Predictions, noted: bool) -> None:
    given = replace(table, info=replace(table.info, abstain_below=0.6)) if noted else table
    kept = int((~table.abstained(0.6)).sum())
    text = " ".join(printed(evaluate(given, draws=20, abstain_below=None if noted else 0.6)).split())
    assert 0 < kept < 800
    assert f"Abstaining below 60 %: {kept} of 800 targets answered" in text


def test_a_threshold_that_leaves_nothing_is_stated(table: Predictions) -> None:
    assert "nothing to evaluate" in " ".join(printed(evaluate(table, draws=20, abstain_below=1.0)).split())
