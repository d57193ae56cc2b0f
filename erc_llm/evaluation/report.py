"""What one predictions table shows: figures with intervals, and the page a person reads.

Goes in: a `Predictions` table with gold labels. Comes out: an `Evaluation` (plain values, `as_dict` for JSON) and its
print in a terminal of 80 columns; piped into a file it is plain ASCII without colour. Knows no model and opens no file.
Figures are fractions between 0 and 1; the print shows them in percent, as papers do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from erc_llm import metrics
from erc_llm.errors import PredictionsError
from erc_llm.evaluation.calibration_report import CalibrationReport, print_calibration, report_calibration
from erc_llm.evaluation.page import Page
from erc_llm.metrics import Estimate, Headline, Integers
from erc_llm.predictions import Predictions, PredictionsInfo

FEW_DIALOGUES = 20  # below it a percentile interval over clusters is known to be too narrow

_TITLES = {"weighted_f1": "Weighted F1", "macro_f1": "Macro F1", "accuracy": "Accuracy"}
_MISSING = {
    "invalid": "No column 'invalid': only rows without a label count as invalid answers.",
    "label_mass": "No column 'label_mass': the probability mass of the labels is not known.",
    "probabilities": "No column 'probabilities': no log-likelihood and no calibration error.",
}


@dataclass(frozen=True)
class ClassScores:
    """One label's row: scores between 0 and 1, `support` gold targets, `predicted` how often it was answered."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int
    predicted: int


@dataclass(frozen=True)
class Evaluation:
    """Everything `erc-llm evaluate` says about one table.

    Attributes:
        info: Where the table comes from.
        targets: Rows with a gold label; all figures are about these.
        without_gold: Rows left out because they have none.
        dialogues: Dialogues of the targets.
        headline: Weighted F1 (over all labels, Neutral included), macro F1 and accuracy with 95 % intervals.
        classes: One row per label, in the order of `info.labels`.
        confusion: Gold label by predicted label, one more column for invalid answers.
        invalid_rate: Share of answers that were no label.
        label_mass: Mean total probability of the labels before normalisation; None where unknown.
        negative_log_likelihood: Mean of -ln p(gold), in nats; None without probabilities.
        calibration_error: Expected calibration error over 15 bins, with its interval; None without probabilities.
        with_probabilities: Targets the two figures above are about.
        calibration: Steps of correction, reliability, risk by coverage, abstention; None without probabilities.
        draws: Resamples behind the intervals.
        seed: Of the resampling.
        missing: Sentences about what the table lacks and what that switches off.
        warnings: Sentences about what to keep in mind when reading the figures.
    """

    info: PredictionsInfo
    targets: int
    without_gold: int
    dialogues: int
    headline: Headline
    classes: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    invalid_rate: float
    label_mass: float | None
    negative_log_likelihood: float | None
    calibration_error: Estimate | None
    with_probabilities: int
    calibration: CalibrationReport | None
    draws: int
    seed: int
    missing: tuple[str, ...]
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values that JSON can hold."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return values | {
            "info": self.info.as_dict(),
            "headline": asdict(self.headline),
            "classes": [asdict(row) for row in self.classes],
            "calibration_error": None if self.calibration_error is None else asdict(self.calibration_error),
            "calibration": None if self.calibration is None else asdict(self.calibration),
        }


def evaluate(
    predictions: Predictions, *, draws: int = 10_000, seed: int = 0, abstain_below: float | None = None
) -> Evaluation:
    """Score a table against its gold labels; rows without one are left out and counted.

    Args:
        predictions: The table.
        draws: Resamples of whole dialogues behind the intervals; at least 1.
        seed: Of the resampling.
        abstain_below: Also score the rows whose largest probability is at least this; by default the table's own.

    Raises:
        PredictionsError: No row has a gold label, `draws` is below 1, or a threshold lacks probabilities.
    """
    if draws < 1:
        raise PredictionsError(f"draws: expected at least 1, found {draws}")
    rows = np.flatnonzero(predictions.gold_index >= 0)
    if not len(rows):
        raise PredictionsError("no row has a gold label, so there is nothing to score; predict a labelled split")
    gold, predicted = predictions.gold_index[rows], predictions.predicted_index[rows]
    dialogue, n = predictions.dialogue_index[rows], len(predictions.info.labels)
    counts = metrics.confusion(gold, predicted, n)
    dialogues = len(np.unique(dialogue))
    classes = _classes(predictions.info.labels, counts)
    without_gold = len(predictions) - len(rows)
    nll, calibration_error, with_probabilities = _probabilistic(predictions, rows, draws, seed)
    calibration = report_calibration(predictions, rows, abstain_below)
    if abstain_below is not None and calibration is None:
        raise PredictionsError("abstain below: the table has no probabilities to hold against a threshold")
    return Evaluation(
        info=predictions.info,
        targets=len(rows),
        without_gold=without_gold,
        dialogues=dialogues,
        headline=_headline(gold, predicted, dialogue, n, draws, seed),
        classes=classes,
        confusion=tuple(tuple(row) for row in counts.tolist()),
        invalid_rate=float(np.mean(predicted == metrics.INVALID)),
        label_mass=_mean_label_mass(predictions, rows),
        negative_log_likelihood=nll,
        calibration_error=calibration_error,
        with_probabilities=with_probabilities,
        calibration=calibration,
        draws=draws,
        seed=seed,
        missing=tuple(sentence for name, sentence in _MISSING.items() if name in predictions.missing),
        warnings=tuple(_warnings(predictions.info, classes, dialogues, without_gold)),
    )


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print an evaluation: what it is about, headline figures, labels, confusions, and what to keep in mind."""
    page = Page(console)
    page.say(_about(evaluation), style="bold")
    page.table(_headline_table(evaluation, page))
    page.table(_class_table(evaluation, page))
    page.table(_confusion_table(evaluation, page))
    console.print()
    page.say(_diagnostics(evaluation))
    if evaluation.calibration is not None:
        print_calibration(evaluation.calibration, page)
    for sentence in evaluation.missing:
        page.say(sentence, style="dim")
    for sentence in evaluation.warnings:
        page.say(f"Note: {sentence}", style="yellow")


def _headline(gold: Integers, predicted: Integers, dialogue: Integers, n: int, draws: int, seed: int) -> Headline:
    if len(np.unique(dialogue)) > 1:
        return metrics.bootstrap_over_dialogues(gold, predicted, dialogue, n, draws, seed)
    point = metrics.scores_from_confusion(metrics.confusion(gold, predicted, n))
    return Headline(**{figure: Estimate(float(getattr(point, figure))) for figure in metrics.HEADLINE})


def _classes(labels: Sequence[str], counts: Integers) -> tuple[ClassScores, ...]:
    scores = metrics.scores_from_confusion(counts)
    return tuple(
        ClassScores(
            label=label,
            precision=float(scores.precision[i]),
            recall=float(scores.recall[i]),
            f1=float(scores.f1[i]),
            support=int(scores.support[i]),
            predicted=int(counts[:, i].sum()),
        )
        for i, label in enumerate(labels)
    )


def _mean_label_mass(predictions: Predictions, rows: Integers) -> float | None:
    if predictions.label_mass is None:
        return None
    known = predictions.label_mass[rows]
    known = known[~np.isnan(known)]
    return float(known.mean()) if len(known) else None


def _probabilistic(
    predictions: Predictions, rows: Integers, draws: int, seed: int
) -> tuple[float | None, Estimate | None, int]:
    """Negative log-likelihood, calibration error, and how many of `rows` have probabilities."""
    if predictions.probabilities is None:
        return None, None, 0
    known = rows[~np.isnan(predictions.probabilities[rows]).any(axis=1)]
    if not len(known):
        return None, None, 0
    probabilities, gold = predictions.probabilities[known], predictions.gold_index[known]
    nll, dialogue = metrics.negative_log_likelihood(probabilities, gold), predictions.dialogue_index[known]
    if len(np.unique(dialogue)) > 1:
        error = metrics.calibration_error_over_dialogues(probabilities, gold, dialogue, draws, seed)
    else:
        error = Estimate(metrics.expected_calibration_error(probabilities, gold))
    return nll, error, len(known)


def _warnings(
    info: PredictionsInfo, classes: Sequence[ClassScores], dialogues: int, without_gold: int
) -> Iterator[str]:
    if without_gold:
        yield f"{without_gold:,} rows have no gold label and are left out."
    if dialogues == 1:
        yield "All targets are from one dialogue: no intervals, because whole dialogues are resampled."
    elif dialogues < FEW_DIALOGUES:
        yield f"Only {dialogues} dialogues: intervals from so few are usually too narrow."
    if info.split == "train":
        yield "Split 'train' is what a model is fitted on: this says nothing about new scenes."
    if info.split == "selection":
        yield "Split 'selection' is what choices are made on: expect less on new scenes."
    absent = [row.label for row in classes if not row.support]
    if absent:
        yield f"Never the gold label here, counted as F1 0 in macro F1: {', '.join(absent)}."
    unsaid = [row.label for row in classes if row.support and not row.predicted]
    if unsaid:
        yield f"Never predicted: {', '.join(unsaid)}."


def _about(evaluation: Evaluation) -> str:
    info = evaluation.info
    healed = ", gap-healed" if info.healed else ""
    context = f"context {info.context}" if info.context else "no dialogue context"
    targets = f"{evaluation.targets:,} target{'s' if evaluation.targets != 1 else ''}"
    dialogues = f"{evaluation.dialogues:,} dialogue{'s' if evaluation.dialogues != 1 else ''}"
    run = f" (run {info.run_id})" if info.run_id else ""
    return (
        f"{info.system}{run} on {targets} in {dialogues} of {info.corpus_name}, "
        f"corpus version {info.corpus_version}{healed}, split {info.split}, {context}"
    )


def _headline_table(evaluation: Evaluation, page: Page) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)
    table.add_column("%", justify="right")
    table.add_column("95 % interval", no_wrap=True)
    width = max(10, min(44, page.console.width - 36))
    table.add_column("0" + "100".rjust(width - 1), no_wrap=True)
    for figure in metrics.HEADLINE:
        estimate: Estimate = getattr(evaluation.headline, figure)
        interval = "none" if estimate.low is None else f"{100 * estimate.low:5.2f} to {100 * (estimate.high or 0):5.2f}"
        table.add_row(
            _TITLES[figure], Text(f"{100 * estimate.value:.2f}", "bold"), interval, page.range(estimate, width)
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
        shares = (f"{100 * value:.1f}" for value in (row.precision, row.recall, row.f1))
        style = "dim" if not row.support else ""
        bar = page.bar(row.f1, 16, "cyan")
        table.add_row(page.text(row.label), *shares, bar, f"{row.support:,}", f"{row.predicted:,}", style=style)
    return table


def _confusion_table(evaluation: Evaluation, page: Page) -> Table:
    """Gold label by predicted label; where that is too wide, the commonest mistakes as a list."""
    names = list(evaluation.info.labels) + (["invalid"] if evaluation.invalid_rate else [])
    row_name = min(12, max(len(name) for name in evaluation.info.labels))
    width = min(9, (page.console.width - row_name) // len(names) - 1)
    if width < 4:
        return _commonest_mistakes(evaluation, page)
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


def _commonest_mistakes(evaluation: Evaluation, page: Page, most: int = 12) -> Table:
    names = [*evaluation.info.labels, "invalid"]
    mistakes = [
        (count, names[i], names[j])
        for i, row in enumerate(evaluation.confusion)
        for j, count in enumerate(row)
        if count and i != j
    ]
    mistakes.sort(key=lambda mistake: -mistake[0])
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("Commonest mistakes", "gold", "predicted"):
        table.add_column(title, justify="right" if title[0] == "C" else "left", no_wrap=True)
    for count, gold, predicted in mistakes[:most]:
        table.add_row(f"{count:,}", page.text(gold), page.text(predicted))
    return table


def _diagnostics(evaluation: Evaluation) -> str:
    parts = [f"invalid answers {100 * evaluation.invalid_rate:.2f} %"]
    if evaluation.label_mass is not None:
        parts.append(f"mean label mass {evaluation.label_mass:.4f}")
    if evaluation.negative_log_likelihood is not None and evaluation.calibration_error is not None:
        parts.append(f"NLL {evaluation.negative_log_likelihood:.4f} nats")
        error = evaluation.calibration_error
        parts.append(f"calibration error {100 * error.value:.2f} %")
        if error.low is not None and error.high is not None:
            parts[-1] += f" ({100 * error.low:.2f} to {100 * error.high:.2f})"
    if 0 < evaluation.with_probabilities < evaluation.targets:
        parts[-1] += f" (of {evaluation.with_probabilities:,} targets with probabilities)"
    return ", ".join(parts) + f". Intervals: {evaluation.draws:,} resamples of whole dialogues, seed {evaluation.seed}."
