"""Evaluations and comparisons in a notebook: the headline numbers as small tables; reports have everything.

Input: an `Evaluation` or a `Comparison`. Output: HTML that loads nothing.
Does not depend on: predictions tables, how the numbers are computed.
"""

from __future__ import annotations

from erc_llm.evaluation.comparison_report import title
from erc_llm.evaluation.contrasts import TITLES
from erc_llm.evaluation.evidence import Comparison
from erc_llm.evaluation.report import Evaluation
from erc_llm.evaluation.sections import estimate_cells
from erc_llm.metrics import Estimate, Headline
from erc_llm.notebook import html_table


def evaluation_html(evaluation: Evaluation) -> str:
    """The headline metrics with their intervals, and the metrics of each label."""
    info = evaluation.info
    heading = f"{info.system} on {info.corpus_name}, split {info.split}: {evaluation.targets:,} targets"
    classes = [
        (row.label, *(f"{100 * value:.1f}" for value in (row.precision, row.recall, row.f1)), f"{row.support:,}")
        for row in evaluation.classes
    ]
    return html_table(
        heading, ("", "%", "95 % interval"), _headline_rows(evaluation.headline), " ".join(evaluation.warnings)
    ) + html_table("By label, in percent", ("", "Precision", "Recall", "F1", "Support"), classes)


def comparison_html(comparison: Comparison) -> str:
    """The metrics of each system, and the differences of the first one to the others."""
    measured = [(system.name, *row) for system in comparison.systems for row in _headline_rows(system.headline)]
    differences = [
        (f"against {pair.b}", c.name, *_estimate(c.estimate, "+"), _p(c.p_corrected), c.verdict)
        for pair in comparison.pairs
        for c in pair.headline
    ]
    about = f"{comparison.targets:,} utterances in {comparison.dialogues:,} dialogues: {comparison.corpus}"
    return html_table(title(comparison), ("System", "", "%", "95 % interval"), measured, about) + html_table(
        f"{comparison.systems[0].name} minus the other, in points",
        ("", "", "Difference", "95 % interval", "p (Holm)", "Verdict"),
        differences,
        " ".join(comparison.notes),
    )


def _headline_rows(headline: Headline) -> list[tuple[str, ...]]:
    return [(name, *_estimate(getattr(headline, metric))) for metric, name in TITLES.items()]


def _estimate(estimate: Estimate, sign: str = "") -> tuple[str, str]:
    """Value and interval, in percent."""
    _, _, interval = estimate_cells("", estimate)
    return f"{100 * estimate.value:{sign}.2f}", interval.text


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
