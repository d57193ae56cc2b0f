"""Figures with names that matplotlib would not draw, or that would leave no room to draw in."""

from __future__ import annotations

from erc_llm.evaluation.calibration_report import ReliabilityBin
from erc_llm.evaluation.plots import as_svg, differences_figure, reliabilities_figure
from erc_llm.metrics import Estimate

BINS = (ReliabilityBin(0.4, 0.6, 10, 0.5, 0.6),)


def test_letters_that_the_font_lacks_are_no_warning() -> None:
    """Warnings are errors here; a page shows them in the reader's font."""
    assert "喜悦" in as_svg(differences_figure("喜悦", [("喜悦", Estimate(0.1, 0.0, 0.2))], "points"))
    assert "喜悦" in as_svg(reliabilities_figure([("喜悦", BINS)]))


def test_long_names_leave_room_to_draw_in() -> None:
    long = "weighted F1, against " + "x" * 200 + " zero-shot"
    figure = differences_figure("worse or better", [(long, Estimate(0.1, 0.0, 0.2))], "points")
    svg = as_svg(figure)
    assert figure.axes[0].get_position().width > 0.3
    assert "weighted F1, against xx" in svg
    assert "zero-shot" in svg
