"""Prints how far the probabilities of a table can be trusted: correction steps, reliability, risk by coverage.

Input: a `CalibrationReport`. Output: tables on a `Page`, in percent.
Does not depend on: predictions tables, files.
"""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from erc_llm.cli.page import Page
from erc_llm.evaluation.calibration_report import COVERAGES, CalibrationReport, CoveragePoint

FEW_TARGETS = 50  # below it a bin holds a handful of targets, and a diagram shows only noise
_BAR = 40


def print_calibration(report: CalibrationReport, page: Page) -> None:
    """Print a report; without diagram and curve where there are few targets."""
    if report.steps:
        page.table(_step_table(report, page))
    if report.targets >= FEW_TARGETS:
        page.table(_reliability_table(report, page))
        page.table(_coverage_table(report))
    if report.abstention is not None:
        page.console.print()
        page.say(_abstained(report.abstention, report.targets))
    for sentence in report.warnings:
        page.say(f"Note: {sentence}", style="yellow")


def _step_table(report: CalibrationReport, page: Page) -> Table:
    table = _plain_table(("After step", "Weighted F1 %", "Macro F1 %", "NLL", "Calibration error %"))
    for step in report.steps:
        percents = [f"{100 * value:.2f}" for value in (step.weighted_f1, step.macro_f1)]
        table.add_row(page.text(step.step), *percents, f"{step.nll:.4f}", f"{100 * step.calibration_error:.2f}")
    return table


def _reliability_table(report: CalibrationReport, page: Page) -> Table:
    """One row per bin: a bar as long as its accuracy, and a mark at its confidence."""
    table = _plain_table(("Sure by %", "Targets", "Mean %", "Right %"))
    width = max(10, min(_BAR, page.console.width - 40))
    bar, mark = ("━", "┃") if page.rich else ("=", "|")
    table.add_column(f"right ({bar}), where it should end ({mark})", no_wrap=True, width=width)
    for each in report.reliability:
        drawn = Text(bar * round(each.accuracy * width), "cyan")
        drawn.pad_right(width - len(drawn))
        at = min(width - 1, int(each.confidence * width))
        shown = drawn[:at] + Text(mark, "bold yellow") + drawn[at + 1 :]
        span = f"{100 * each.low:.0f} to {100 * each.high:.0f}"
        shares = (f"{100 * value:.1f}" for value in (each.confidence, each.accuracy))
        table.add_row(span, f"{each.targets:,}", *shares, shown)
    return table


def _coverage_table(report: CalibrationReport) -> Table:
    """The risk-coverage curve in steps of a tenth of the targets."""
    wanted = [percent / 100 for percent in COVERAGES[::2]]
    points = list(dict.fromkeys(min(report.risk_coverage, key=lambda p: abs(p.coverage - w)) for w in wanted))
    table = _plain_table(("Kept %", *(f"{100 * p.coverage:.0f}" for p in points)))
    table.add_row("sure by %", *(f"{100 * p.threshold:.0f}" for p in points))
    table.add_row("wrong %", *(f"{100 * p.risk:.0f}" for p in points))
    table.add_row("w. F1 %", *(f"{100 * p.weighted_f1:.0f}" for p in points))
    return table


def _plain_table(columns: tuple[str, ...]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    return table


def _abstained(point: CoveragePoint, targets: int) -> str:
    where = f"Abstaining below {100 * point.threshold:g} %: {point.targets:,} of {targets:,} targets answered"
    if not point.targets:
        return f"{where}, so there is nothing to score."
    return (
        f"{where} (coverage {100 * point.coverage:.2f} %), of these weighted F1 {100 * point.weighted_f1:.2f}, "
        f"macro F1 {100 * point.macro_f1:.2f}, accuracy {100 * (1 - point.risk):.2f}. "
        "The metrics above are about all targets."
    )
