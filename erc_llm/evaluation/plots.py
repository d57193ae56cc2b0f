"""The reliability diagram and the risk-coverage curve as PNG files.

In: a `CalibrationReport`. Out: two files. matplotlib is imported here only, and draws without a screen.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from erc_llm.errors import PredictionsError
from erc_llm.evaluation.calibration_report import BINS, CalibrationReport
from erc_llm.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RELIABILITY, RISK_COVERAGE = "reliability.png", "risk-coverage.png"


def write_plots(report: CalibrationReport, folder: Path, title: str) -> tuple[Path, Path]:
    """Write both; the folder is made.

    Args:
        report: What to draw.
        folder: Where to.
        title: What it is about, such as system and split.

    Raises:
        PredictionsError: A file cannot be written.
    """
    drawn = ((RELIABILITY, reliability_figure(report, title)), (RISK_COVERAGE, risk_figure(report, title)))
    for name, figure in drawn:
        _save(figure, folder / name)
    return folder / RELIABILITY, folder / RISK_COVERAGE


def reliability_figure(report: CalibrationReport, title: str) -> Figure:
    """How often the likeliest label is right, by how sure it is; below, how many targets each bar stands on."""
    figure, (above, below) = _figure(title, 2, [3, 1])
    places = [(b.low + b.high) / 2 for b in report.reliability]
    above.plot([0, 1], [0, 1], color="0.6", linewidth=1, label="perfectly calibrated")
    accuracy = [b.accuracy for b in report.reliability]
    above.bar(places, accuracy, width=0.9 / BINS, color="#2471d6", label="right")
    confidence = [b.confidence for b in report.reliability]
    above.plot(confidence, accuracy, "o", color="#c45c10", markersize=4, label="mean of the bin")
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="share right")
    above.legend(loc="upper left", frameon=False, fontsize=8)
    below.bar(places, [b.targets for b in report.reliability], width=0.9 / BINS, color="0.6")
    below.set(xlim=(0, 1), xlabel="largest probability", ylabel="targets")
    return figure


def risk_figure(report: CalibrationReport, title: str) -> Figure:
    """Share wrong among the targets answered, by how many are answered."""
    figure, (axes,) = _figure(title, 1, [1])
    coverage = [p.coverage for p in report.risk_coverage]
    axes.plot(coverage, [p.risk for p in report.risk_coverage], marker=".", color="#2471d6")
    point = report.abstention
    if point is not None and point.targets:
        axes.plot([point.coverage], [point.risk], "o", color="#c45c10", label=f"below {point.threshold:g} abstains")
        axes.legend(loc="upper left", frameon=False, fontsize=8)
    axes.set(xlim=(0, 1.02), ylim=(0, None), xlabel="share of targets answered", ylabel="share of these wrong")
    return figure


def _figure(title: str, rows: int, heights: list[int]) -> tuple[Figure, tuple[Any, ...]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), dpi=150, layout="constrained")
    axes = figure.subplots(rows, 1, height_ratios=heights, squeeze=False)[:, 0]
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    # A `$` in a name would begin a formula.
    figure.suptitle("".join(c if c.isprintable() else " " for c in title).replace("$", r"\$"), fontsize=10)
    return figure, tuple(axes)


def _save(figure: Figure, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    write_whole(path, lambda file: canvas.print_png(file, metadata={"Software": None}), PredictionsError)
