"""The report of one table, section by section.

Input: a predictions table, its `Evaluation`, and differences to other tables if any. Output: a title and sections of
sentences, tables and drawings; fractions in percent, losses in their units.
Does not depend on: files, how the report is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from erc_llm.evaluation.breakdown import Breakdown, break_down
from erc_llm.evaluation.calibration_report import CalibrationReport, CoveragePoint
from erc_llm.evaluation.comparison_report import CALIBRATION, MANIFEST, VERDICTS, manifest_sheet
from erc_llm.evaluation.confident_errors import ConfidentError, SceneLine, confident_errors
from erc_llm.evaluation.contrasts import TITLES
from erc_llm.evaluation.leakage import leakage_manifest
from erc_llm.evaluation.references import Difference
from erc_llm.evaluation.report import Evaluation
from erc_llm.evaluation.sections import (
    Block,
    CalibrationPlot,
    Cell,
    Differences,
    ReportTable,
    Section,
    capitalised,
    estimate_cells,
    shortened,
)
from erc_llm.metrics import HEADLINE, Estimate
from erc_llm.predictions import Predictions
from erc_llm.predictions.correction import answers_in_words

_SHOWN_NAME, _SHOWN_TEXT = 80, 400  # characters of a name and of a line
_NO_ERRORS = "No column 'probabilities': wrong answers cannot be ordered by confidence."


def title(evaluation: Evaluation) -> str:
    """System, corpus and split, in one line."""
    info = evaluation.info
    return shortened(f"{info.system} on {info.corpus_name}, split {info.split}", 2 * _SHOWN_NAME)


def sections(table: Predictions, evaluation: Evaluation, differences: Sequence[Difference] = ()) -> tuple[Section, ...]:
    """All sections, in the order of reading; without the text of utterances if the table has none."""
    broken = break_down(table, evaluation.draws, evaluation.seed)
    errors, calibration = confident_errors(table), evaluation.calibration
    found = [Section("Result", tuple(_result(evaluation)))]
    if differences:
        found.append(Section("Difference to others", tuple(_differences(differences))))
    found.append(Section("By label", tuple(_by_label(evaluation, broken))))
    found.append(Section("Confusions", tuple(_confusions(evaluation))))
    if broken.divisions:
        found.append(Section("By speaker and place", tuple(_divisions(broken))))
    if calibration is not None:
        found.append(Section(CALIBRATION, tuple(_calibration(evaluation, calibration))))
    if errors:
        found.append(Section("Most confident errors", tuple(_errors(errors))))
    found.append(_manifest(evaluation))
    missing = (*evaluation.missing, *broken.missing, *([_NO_ERRORS] if errors is None else []))
    found.append(Section("Notes", (*evaluation.warnings, *missing, *_method(evaluation))))
    return tuple(found)


def about(evaluation: Evaluation) -> str:
    """What was evaluated on what, in a sentence."""
    info = evaluation.info
    healed = ", gap-healed" if info.healed else ""
    context = f"context {info.context}" if info.context else "no dialogue context"
    targets = f"{evaluation.targets:,} target{'s' if evaluation.targets != 1 else ''}"
    dialogues = f"{evaluation.dialogues:,} dialogue{'s' if evaluation.dialogues != 1 else ''}"
    run = f" (run {info.run_id})" if info.run_id else ""
    return (
        f"{info.system}{run} on {targets} in {dialogues} of {info.corpus_name}, "
        f"corpus version {info.corpus_version}{healed}, split {info.split}, {context}; "
        f"answers: {answers_in_words(info)}"
    )


def diagnostics(evaluation: Evaluation) -> str:
    """Invalid answers, label mass, losses and the origin of the intervals, in a sentence."""
    parts = [f"invalid answers {100 * evaluation.invalid_rate:.2f} %"]
    if evaluation.label_mass is not None:
        parts.append(f"mean label mass {evaluation.label_mass:.4f}")
    if evaluation.neighbours_accuracy is not None:
        parts.append(f"the neighbours alone are right in {100 * evaluation.neighbours_accuracy:.2f} %")
    if evaluation.negative_log_likelihood is not None and evaluation.calibration_error is not None:
        parts.append(f"NLL {evaluation.negative_log_likelihood:.4f} nats")
        error = evaluation.calibration_error
        parts.append(f"calibration error {100 * error.value:.2f} %")
        if error.low is not None and error.high is not None:
            parts[-1] += f" ({100 * error.low:.2f} to {100 * error.high:.2f})"
    if 0 < evaluation.with_probabilities < evaluation.targets:
        parts[-1] += f" (of {evaluation.with_probabilities:,} targets with probabilities)"
    return ", ".join(parts) + f". Intervals: {evaluation.draws:,} resamples of whole dialogues, seed {evaluation.seed}."


def abstention(point: CoveragePoint, targets: int) -> str:
    """What abstaining below a threshold brings, in a sentence."""
    where = f"Abstaining below {100 * point.threshold:g} %: {point.targets:,} of {targets:,} targets answered"
    if not point.targets:
        return f"{where}, so there is nothing to evaluate."
    return (
        f"{where} (coverage {100 * point.coverage:.2f} %); on these, weighted F1 {100 * point.weighted_f1:.2f}, "
        f"macro F1 {100 * point.macro_f1:.2f}, accuracy {100 * (1 - point.risk):.2f}. "
        "The metrics above are for all targets."
    )


def _result(evaluation: Evaluation) -> Iterator[Block]:
    yield f"{about(evaluation)}."
    estimates = [(capitalised(TITLES[metric]), getattr(evaluation.headline, metric)) for metric in HEADLINE]
    yield ReportTable(("", "%", "95 % interval"), tuple(_with_bar(name, value) for name, value in estimates))
    yield capitalised(diagnostics(evaluation))


def _with_bar(name: str, estimate: Estimate) -> tuple[Cell, Cell, Cell]:
    name_cell, value, interval = estimate_cells(name, estimate)
    return name_cell, Cell(value.text, "strong", bar=estimate.value), interval


def _differences(differences: Sequence[Difference]) -> Iterator[Block]:
    first = differences[0]
    yield (
        f"Weighted F1 of {first.a} minus that of others on the same {first.targets:,} targets, in points; 'better' and "
        "'worse': the interval leaves zero out."
    )
    rows = []
    for d in differences:
        low, high = d.estimate.low, d.estimate.high
        interval = "none" if low is None or high is None else f"{100 * low:+.2f} to {100 * high:+.2f}"
        numbers = Cell(f"{100 * d.weighted_f1_b:.2f}"), Cell(f"{100 * d.weighted_f1_a:.2f}")
        difference = Cell(f"{100 * d.estimate.value:+.2f}", "strong"), Cell(interval)
        alike = Cell(f"{100 * d.agreement:.1f}")
        name = shortened(d.b, _SHOWN_NAME)
        rows.append((Cell(name), *numbers, *difference, alike, Cell(d.verdict, VERDICTS[d.verdict])))
    columns = ("Against", "Its F1 %", "Our F1 %", "Difference", "95 % interval", "Same answer %", "Verdict")
    yield ReportTable(columns, tuple(rows), sortable=True)
    estimates = tuple((f"against {d.b}", d.estimate) for d in differences)
    yield Differences("weighted F1: worse (left) or better (right) by", estimates, "points")
    yield from dict.fromkeys(note for d in differences for note in d.notes)


def _by_label(evaluation: Evaluation, broken: Breakdown) -> Iterator[Block]:
    rows = []
    for scores, group in zip(evaluation.classes, broken.labels, strict=True):
        _, f1, interval = estimate_cells("", group.f1, digits=1)
        others = (f"{100 * scores.precision:.1f}", f"{100 * scores.recall:.1f}")
        counts = (f"{scores.support:,}", f"{scores.predicted:,}")
        label, value = Cell(shortened(scores.label, _SHOWN_NAME)), Cell(f1.text, "strong", bar=scores.f1)
        rows.append((label, value, interval, *map(Cell, (*others, *counts))))
    columns = ("Label", "F1 %", "95 % interval", "Precision %", "Recall %", "Targets", "Predicted")
    yield ReportTable(columns, tuple(rows), sortable=True)


def _confusions(evaluation: Evaluation) -> Iterator[Block]:
    yield "Gold label (row) by predicted label (column), in targets; colour is the fraction of the row, blue if right."
    labels = [shortened(label, _SHOWN_NAME) for label in evaluation.info.labels]
    names = [*labels, "invalid"] if evaluation.invalid_rate else labels
    rows = []
    for i, label in enumerate(labels):
        counts = evaluation.confusion[i][: len(names)]
        total = max(1, sum(evaluation.confusion[i]))
        cells = (Cell(f"{n:,}", "strong" if i == j else "", heat=n / total) for j, n in enumerate(counts))
        rows.append((Cell(label), *cells))
    yield ReportTable(("Gold", *names), tuple(rows))


def _divisions(broken: Breakdown) -> Iterator[Block]:
    yield "Weighted F1, over all labels, of the targets of each part."
    for division in broken.divisions:
        rows = []
        for group in division.groups:
            _, f1, interval = estimate_cells("", group.f1, digits=1)
            value = Cell(f1.text, "strong", bar=group.f1.value)
            rows.append((Cell(shortened(group.name, _SHOWN_NAME)), Cell(f"{group.targets:,}"), value, interval))
        columns = (capitalised(division.name), "Targets", "Weighted F1 %", "95 % interval")
        yield ReportTable(columns, tuple(rows), sortable=True)
        yield f"By {division.name}: {division.definition}."


def _calibration(evaluation: Evaluation, report: CalibrationReport) -> Iterator[Block]:
    yield f"What probabilities are worth, on {report.targets:,} targets that have them."
    if report.steps:
        rows = []
        for step in report.steps:
            percents = (f"{100 * v:.2f}" for v in (step.weighted_f1, step.macro_f1, step.accuracy))
            losses = f"{step.nll:.4f}", f"{100 * step.calibration_error:.2f}"
            rows.append((Cell(step.step), *map(Cell, (*percents, *losses))))
        columns = ("After step", "Weighted F1 %", "Macro F1 %", "Accuracy %", "NLL, nats", "Calibration error %")
        yield ReportTable(columns, tuple(rows))
    if report.recalls:
        yield "What the decision rule costs the frequent labels, and what it brings the rare ones:"
        rows = []
        for r in report.recalls:
            change = f"{100 * (r.decided - r.probable):+.1f}"
            numbers = f"{r.targets:,}", f"{100 * r.probable:.1f}", f"{100 * r.decided:.1f}", change
            rows.append((Cell(shortened(r.label, _SHOWN_NAME)), *map(Cell, numbers)))
        recalls = ("Label", "Targets", "Recall undecided %", "Recall decided %", "Change")
        yield ReportTable(recalls, tuple(rows), sortable=True)
    yield CalibrationPlot("How often the most probable label is right", report, "reliability")
    yield CalibrationPlot("Errors among the most confident answers", report, "risk")
    rows = []
    for point in report.risk_coverage:
        percents = (f"{100 * v:.1f}" for v in (point.threshold, point.risk, point.weighted_f1, point.macro_f1))
        rows.append((Cell(f"{100 * point.coverage:.1f}"), *map(Cell, (f"{point.targets:,}", *percents))))
    columns = ("Answered %", "Targets", "Probability from %", "Wrong %", "Weighted F1 %", "Macro F1 %")
    yield ReportTable(columns, tuple(rows), left=0, sortable=True)
    if report.abstention is not None:
        yield abstention(report.abstention, report.targets)
    yield from report.warnings


def _errors(errors: Sequence[ConfidentError]) -> Iterator[Block]:
    yield (
        f"The {len(errors)} wrong answers with the largest probability; a line that many people would read otherwise "
        "may be a question of its gold label."
    )
    with_text = any(error.line.text is not None for error in errors)
    rows = []
    for error in errors:
        line = error.line
        place = f"{error.dialogue_id}, {_number(line, error.utterance_id)}"
        words = (place, line.speaker, *([line.text or ""] if with_text else []), line.gold or "", line.answer or "")
        cells = (Cell(shortened(text, _SHOWN_TEXT)) for text in words)
        rows.append((*cells, Cell(_percent(line.probability), "strong"), Cell(_percent(line.of_gold))))
    text = ["Text"] if with_text else []
    columns = ("Scene and line", "Speaker", *text, "Gold", "Answer", "Probability", "Of gold")
    yield ReportTable(columns, tuple(rows), left=len(columns) - 2, sortable=True)
    for error in errors:
        if error.scene:
            number = _number(error.line, error.utterance_id)
            yield f"Scene {shortened(error.dialogue_id, _SHOWN_NAME)}, around {number}, which is marked:"
            yield _scene_sheet(error, with_text)


def _scene_sheet(error: ConfidentError, with_text: bool) -> ReportTable:
    rows = []
    for line in error.scene:
        marked = line == error.line
        number = f"{'' if line.number is None else line.number}{' ▸' if marked else ''}"
        said = [Cell(shortened(line.speaker, _SHOWN_NAME))]
        if with_text:
            said.append(Cell(shortened(line.text or "", _SHOWN_TEXT), "strong" if marked else ""))
        answer = line.answer or "invalid"
        given = Cell(f"{answer} (right)", "good") if line.right else Cell(answer, "bad" if marked else "")
        rows.append((Cell(number), *said, Cell(line.gold or "none"), given, Cell(_percent(line.probability))))
    columns = ("Line", "Speaker", *(["Text"] if with_text else []), "Gold", "Answer", "Probability")
    return ReportTable(columns, tuple(rows), left=len(columns) - 1)


def _number(line: SceneLine, utterance_id: str) -> str:
    return f"utterance {shortened(utterance_id, _SHOWN_NAME)}" if line.number is None else f"line {line.number}"


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.1f} %"


def _manifest(evaluation: Evaluation) -> Section:
    rows = leakage_manifest([evaluation.info])
    words = "What the system was allowed to know. Marked is what the table does not state, and what may be a leak."
    return Section(MANIFEST, (words, manifest_sheet(rows, ("as the table states it",))))


def _method(evaluation: Evaluation) -> Iterator[str]:
    yield (
        f"Intervals: 95 %, percentiles of {evaluation.draws:,} resamples of whole dialogues, because the utterances of "
        f"a scene are not independent. Seed {evaluation.seed}."
    )
    yield "Weighted F1 is over all labels, Neutral included; an invalid answer counts as wrong."
