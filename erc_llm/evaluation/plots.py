"""Plots: the drawings of a report as SVG; the reliability diagram and the risk-coverage curve as PNG files.

Input: the drawings of `sections`, or a `CalibrationReport`. Output: SVG text, or files. matplotlib is imported only to
draw, and needs no display.
Does not depend on: predictions tables.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erc_llm.errors import PredictionsError
from erc_llm.evaluation.calibration_report import BINS, CalibrationReport, ReliabilityBin
from erc_llm.evaluation.sections import CalibrationPlot, Curves, Differences, Drawing, Reliabilities
from erc_llm.files import write_whole
from erc_llm.metrics import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = ("#2471d6", "#c45c10", "#7a8590")  # visible on white and on black
_FEW_POINTS = 40
_LONGEST = 48  # letters of a name; longer ones leave no room for the plot
_METADATA = ("Date", "Creator", "Format", "Type")  # of SVG files: all left out
RELIABILITY, RISK_COVERAGE = "reliability.png", "risk-coverage.png"


def figure_of(drawing: Drawing) -> Figure:
    """The figure of a drawing; a title that a page shows beside it is left out."""
    match drawing:
        case Differences(title, rows, unit):
            return differences_figure(title, rows, unit)
        case Reliabilities(_, systems):
            return reliabilities_figure(systems)
        case CalibrationPlot(_, report, "reliability"):
            return reliability_figure(report, "")
        case CalibrationPlot(_, report, _):
            return risk_figure(report, "")
        case Curves():
            return curves_figure(drawing)


def write_plots(report: CalibrationReport, folder: Path, title: str) -> tuple[Path, Path]:
    """Write the reliability diagram and the risk-coverage curve; the folder is created.

    Args:
        report: The report to draw.
        folder: Target folder.
        title: Title of both, such as system and split.

    Raises:
        PredictionsError: A file cannot be written.
    """
    drawn = ((RELIABILITY, reliability_figure(report, title)), (RISK_COVERAGE, risk_figure(report, title)))
    for name, figure in drawn:
        _save(figure, folder / name)
    return folder / RELIABILITY, folder / RISK_COVERAGE


def reliability_figure(report: CalibrationReport, title: str) -> Figure:
    """Accuracy of the most probable label by confidence; below it, the number of targets in each bin."""
    figure, (above, below) = _figure(title, 2, [3, 1])
    _draw_reliability(above, report.reliability)
    above.legend(loc="upper left", frameon=False, fontsize=8)
    places = [(b.low + b.high) / 2 for b in report.reliability]
    below.bar(places, [b.targets for b in report.reliability], width=0.9 / BINS, color="0.6")
    below.set(xlim=(0, 1), xlabel="largest probability", ylabel="targets")
    return figure


def risk_figure(report: CalibrationReport, title: str) -> Figure:
    """Error rate among the answered targets, by the fraction that is answered."""
    figure, (axes,) = _figure(title, 1, [1])
    coverage = [p.coverage for p in report.risk_coverage]
    axes.plot(coverage, [p.risk for p in report.risk_coverage], marker=".", color="#2471d6")
    point = report.abstention
    if point is not None and point.targets:
        axes.plot([point.coverage], [point.risk], "o", color="#c45c10", label=f"below {point.threshold:g} abstains")
        axes.legend(loc="upper left", frameon=False, fontsize=8)
    axes.set(xlim=(0, 1.02), ylim=(0, None), xlabel="share of targets answered", ylabel="share of these wrong")
    return figure


def reliabilities_figure(systems: Sequence[tuple[str, Sequence[ReliabilityBin]]]) -> Figure:
    """Accuracy of the most probable label by confidence, one panel per system."""
    figure, axes = _figure("", 1, [1], columns=len(systems))
    for each, (name, bins) in zip(axes, systems, strict=True):
        _draw_reliability(each, bins)
        each.set_title(_plain(name), fontsize=9)
        each.set(xlabel="largest probability")
    return figure


def differences_figure(title: str, rows: Sequence[tuple[str, Estimate]], unit: str) -> Figure:
    """Differences with their 95 % intervals, one below the other; zero is a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.9 + 0.24 * len(rows)), dpi=150, layout="constrained")
    axes = figure.subplots()
    for i, (_, estimate) in enumerate(rows):
        low, high = (estimate.value if v is None else v for v in (estimate.low, estimate.high))
        axes.plot([100 * low, 100 * high], [i, i], color="#2471d6", linewidth=2)
        axes.plot([100 * estimate.value], [i], "o", color="#c45c10", markersize=5)
    axes.axvline(0, color="0.4", linewidth=1)
    axes.set_yticks(range(len(rows)), [_plain(name) for name, _ in rows], fontsize=8)
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel=unit)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_title(_plain(title), fontsize=10, loc="left")
    return figure


def curves_figure(curves: Curves) -> Figure:
    """Curves with a legend; a curve of few points shows them."""
    figure, (axes,) = _figure("", 1, [1])
    for number, curve in enumerate(curves.curves):
        x, y = zip(*curve.points, strict=True)
        colour, marker = _COLOURS[number % len(_COLOURS)], "o" if len(x) <= _FEW_POINTS else ""
        axes.plot(x, y, color=colour, marker=marker, markersize=4, linewidth=1.5, label=_plain(curve.name))
    axes.set(xlabel=curves.x, ylabel=curves.y)
    if len(curves.curves) > 1:
        axes.legend(frameon=False, fontsize=8)
    return figure


def as_svg(figure: Figure) -> str:
    """The figure as an SVG element for use inside a page; the same bytes for the same figure."""
    import matplotlib

    stream = StringIO()
    with _any_letters(), matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "erc-llm"}):
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(_METADATA))
    drawn = stream.getvalue()
    # Names of parts, such as `axes_1`, are the same in every figure, and an id may occur only once in a page.
    return re.sub(r' id="[\w.]+_\d+"', "", drawn[drawn.index("<svg") :])


def _draw_reliability(axes: Any, bins: Sequence[ReliabilityBin]) -> None:
    places, accuracy = [(b.low + b.high) / 2 for b in bins], [b.accuracy for b in bins]
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, label="perfectly calibrated")
    axes.bar(places, accuracy, width=0.9 / BINS, color="#2471d6", label="right")
    axes.plot([b.confidence for b in bins], accuracy, "o", color="#c45c10", markersize=4, label="mean of the bin")
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="share right")


def _figure(title: str, rows: int, heights: list[int], columns: int = 1) -> tuple[Figure, tuple[Any, ...]]:
    from matplotlib.figure import Figure

    size = (5, 5) if columns == 1 else (3.2 * columns, 3.2)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    axes = tuple(figure.subplots(rows, columns, height_ratios=heights, squeeze=False).flat)
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(_plain(title), fontsize=10)
    return figure, axes


def _plain(words: str) -> str:
    """Text of a file for a figure: long text is shortened in the middle, and `$` escaped, which begins a formula."""
    shown = "".join(c if c.isprintable() else " " for c in words)
    if len(shown) > _LONGEST:
        shown = f"{shown[: _LONGEST // 2 - 1]}…{shown[-_LONGEST // 2 :]}"
    return shown.replace("$", r"\$")


@contextmanager
def _any_letters() -> Iterator[None]:
    """Silence the warning for each letter that matplotlib's own font lacks; a page uses the fonts of its reader."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font", category=UserWarning)
        yield


def _save(figure: Figure, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    with _any_letters():
        write_whole(path, lambda file: canvas.print_png(file, metadata={"Software": None}), PredictionsError)
