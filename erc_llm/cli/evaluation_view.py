"""Prints an evaluation, and how one system compares with others on the same targets.

Input: an `Evaluation`, or `Difference` records. Output: text on a rich console, in percent; plain ASCII without colour
in a file or a pipe.
Does not depend on: models, files.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from erc_llm import metrics
from erc_llm.cli.calibration_view import print_calibration
from erc_llm.cli.page import Page, printable
from erc_llm.evaluation.evaluation_report import about, diagnostics
from erc_llm.evaluation.references import Difference
from erc_llm.evaluation.report import Evaluation
from erc_llm.metrics import Estimate

_TITLES = {"weighted_f1": "Weighted F1", "macro_f1": "Macro F1", "accuracy": "Accuracy"}


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print an evaluation: headline metrics, scores by label, confusions, calibration and warnings."""
    page = Page(console)
    page.print(about(evaluation), style="bold")
    page.table(_headline_table(evaluation, page))
    page.table(_class_table(evaluation, page))
    page.table(_confusion_table(evaluation, page))
    console.print()
    page.print(diagnostics(evaluation))
    if evaluation.calibration is not None:
        print_calibration(evaluation.calibration, page)
    for sentence in evaluation.missing:
        page.print(sentence, style="dim")
    for sentence in evaluation.warnings:
        page.print(f"Note: {sentence}", style="yellow")


def print_differences(differences: Sequence[Difference], console: Console) -> None:
    """Print one row per other system: weighted F1, difference, interval, verdict."""
    if not differences:
        return
    first = differences[0]
    targets = f"{first.targets:,} targets in {first.dialogues:,} dialogues"
    title = f"Weighted F1 in %, {printable(first.a, console)} against others on the same {targets}"
    console.print()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("Against", overflow="fold")
    for column in ("Its F1", "Our F1", "Difference", "95 % interval"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("Verdict", no_wrap=True)
    colours = {"better": "bold green", "worse": "bold red", "not shown": "yellow"}
    for d in differences:
        low, high = d.estimate.low, d.estimate.high
        interval = "none" if low is None or high is None else f"{100 * low:+.2f} to {100 * high:+.2f}"
        scores = f"{100 * d.weighted_f1_b:.2f}", f"{100 * d.weighted_f1_a:.2f}", f"{100 * d.estimate.value:+.2f}"
        table.add_row(Text(printable(d.b, console)), *scores, interval, Text(d.verdict, colours[d.verdict]))
    console.print(Text(title, "bold"))
    console.print(table)
    for d in differences:
        kappa = "" if d.kappa is None else f", Cohen's kappa {d.kappa:.3f}"
        same = f"{d.flips:,} of {d.targets:,} answers differ ({100 * d.agreement:.2f} % agree{kappa})"
        console.print(Text(f"Against {printable(d.b, console)}: {same}"))
    console.print(Text("better, worse: the whole interval of the paired difference is above, below zero.", "dim"))
    for note in dict.fromkeys(note for d in differences for note in d.notes):
        console.print(Text(f"Note: {printable(note, console)}", "yellow"))


def _headline_table(evaluation: Evaluation, page: Page) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)
    table.add_column("%", justify="right")
    table.add_column("95 % interval", no_wrap=True)
    width = max(10, min(44, page.console.width - 36))
    table.add_column("0" + "100".rjust(width - 1), no_wrap=True)
    for metric in metrics.HEADLINE:
        estimate: Estimate = getattr(evaluation.headline, metric)
        interval = "none" if estimate.low is None else f"{100 * estimate.low:5.2f} to {100 * (estimate.high or 0):5.2f}"
        table.add_row(
            _TITLES[metric], Text(f"{100 * estimate.value:.2f}", "bold"), interval, page.range(estimate, width)
        )
    return table


def _class_table(evaluation: Evaluation, page: Page) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("Label", max_width=16, no_wrap=True)
    for title in ("Precision", "Recall", "F1"):
        table.add_column(title, justify="right")
    table.add_column("", width=16, no_wrap=True)
    table.add_column("Support", justify="right")
    table.add_column("Predicted", justify="right")
    for row in evaluation.classes:
        scores = (f"{100 * value:.1f}" for value in (row.precision, row.recall, row.f1))
        style = "dim" if not row.support else ""
        bar = page.bar(row.f1, 16, "cyan")
        table.add_row(page.text(row.label), *scores, bar, f"{row.support:,}", f"{row.predicted:,}", style=style)
    return table


def _confusion_table(evaluation: Evaluation, page: Page) -> Table:
    """Gold label by predicted label; a list of the most frequent errors if that is too wide."""
    names = list(evaluation.info.labels) + (["invalid"] if evaluation.invalid_rate else [])
    row_name = min(12, max(len(name) for name in evaluation.info.labels))
    width = min(9, (page.console.width - row_name) // len(names) - 1)
    if width < 4:
        return _commonest_errors(evaluation, page)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim", title="gold (row), predicted")
    table.title_style, table.title_justify = "dim", "left"
    table.add_column("", width=row_name, no_wrap=True)
    for name in names:
        table.add_column(page.text(name[:width]), width=width, justify="right", no_wrap=True)
    for i, label in enumerate(evaluation.info.labels):
        counts = evaluation.confusion[i][: len(names)]
        total = max(1, sum(evaluation.confusion[i]))
        cells = (page.cell(count, count / total, width, right=i == j) for j, count in enumerate(counts))
        table.add_row(page.text(label), *cells)
    return table


def _commonest_errors(evaluation: Evaluation, page: Page, most: int = 12) -> Table:
    names = [*evaluation.info.labels, "invalid"]
    errors = [
        (count, names[i], names[j])
        for i, row in enumerate(evaluation.confusion)
        for j, count in enumerate(row)
        if count and i != j
    ]
    errors.sort(key=lambda error: -error[0])
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("Most frequent errors", "gold", "predicted"):
        table.add_column(title, justify="right" if title[0] == "M" else "left", no_wrap=True)
    for count, gold, predicted in errors[:most]:
        table.add_row(f"{count:,}", page.text(gold), page.text(predicted))
    return table
