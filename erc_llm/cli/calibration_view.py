"""Prints a calibration report: correction steps, reliability diagram, risk by coverage.

Input: a `CalibrationReport`. Output: tables on a `Page`, in percent.
Does not depend on: predictions tables, files.
"""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from erc_llm.cli.page import Page
from erc_llm.evaluation.calibration_report import COVERAGES, CalibrationReport
from erc_llm.evaluation.evaluation_report import abstention

FEW_TARGETS = 50  # with fewer, each bin contains a handful of targets, and the diagram shows only noise
_BAR = 40


def print_calibration(report: CalibrationReport, page: Page) -> None:
    """Print a report; diagram and curve are left out if there are few targets."""
    print_steps(report, page)
    if report.targets >= FEW_TARGETS:
        page.table(_reliability_table(report, page))
        page.table(_coverage_table(report))
    if report.abstention is not None:
        page.console.print()
        page.print(abstention(report.abstention, report.targets))
    for sentence in report.warnings:
        page.print(f"Note: {sentence}", style="yellow")


def print_steps(report: CalibrationReport, page: Page) -> None:
    """Print the metrics after each step of the correction, and what a decision rule costs and brings."""
    if report.steps:
        page.table(_step_table(report, page))
    if report.recalls:
        page.table(_recall_table(report, page))


def _step_table(report: CalibrationReport, page: Page) -> Table:
    table = _plain_table(("After step", "Weighted F1 %", "Macro F1 %", "Accuracy %", "NLL", "ECE %"))
    for step in report.steps:
        percents = [f"{100 * value:.2f}" for value in (step.weighted_f1, step.macro_f1, step.accuracy)]
        table.add_row(page.text(step.step), *percents, f"{step.nll:.4f}", f"{100 * step.calibration_error:.2f}")
    return table


def _recall_table(report: CalibrationReport, page: Page) -> Table:
    """What the decision rule costs the frequent labels, and what it brings the rare ones."""
    table = _plain_table(("Recall %", "Targets", "Undecided", "Decided", "Change"))
    for row in report.recalls:
        probable, decided = 100 * row.probable, 100 * row.decided
        changed = f"{decided - probable:+.1f}"
        table.add_row(page.text(row.label), f"{row.targets:,}", f"{probable:.1f}", f"{decided:.1f}", changed)
    return table


def _reliability_table(report: CalibrationReport, page: Page) -> Table:
    """One row per bin: a bar for its accuracy, and a mark at its mean confidence."""
    table = _plain_table(("Bin %", "Targets", "Conf. %", "Acc. %"))
    width = max(10, min(_BAR, page.console.width - 40))
    bar, mark = ("━", "┃") if page.rich else ("=", "|")
    table.add_column(f"accuracy ({bar}), mean confidence ({mark})", no_wrap=True, width=width)
    for each in report.reliability:
        drawn = Text(bar * round(each.accuracy * width), "cyan")
        drawn.pad_right(width - len(drawn))
        at = min(width - 1, int(each.confidence * width))
        shown = drawn[:at] + Text(mark, "bold yellow") + drawn[at + 1 :]
        span = f"{100 * each.low:.0f} to {100 * each.high:.0f}"
        percents = (f"{100 * value:.1f}" for value in (each.confidence, each.accuracy))
        table.add_row(span, f"{each.targets:,}", *percents, shown)
    return table


def _coverage_table(report: CalibrationReport) -> Table:
    """The risk-coverage curve in steps of a tenth of the targets."""
    wanted = [percent / 100 for percent in COVERAGES[::2]]
    points = list(dict.fromkeys(min(report.risk_coverage, key=lambda p: abs(p.coverage - w)) for w in wanted))
    table = _plain_table(("Coverage %", *(f"{100 * p.coverage:.0f}" for p in points)))
    table.add_row("threshold %", *(f"{100 * p.threshold:.0f}" for p in points))
    table.add_row("risk %", *(f"{100 * p.risk:.0f}" for p in points))
    table.add_row("w. F1 %", *(f"{100 * p.weighted_f1:.0f}" for p in points))
    return table


def _plain_table(columns: tuple[str, ...]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    return table
