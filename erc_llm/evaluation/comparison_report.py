"""The report of a comparison, section by section.

Input: a `Comparison`. Output: sections of sentences, tables and drawings; fractions in percent, losses in their units.
Does not depend on: how the report is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from erc_llm.evaluation.contrasts import TITLES
from erc_llm.evaluation.evidence import Comparison, Contrast, Pair, SystemMetrics
from erc_llm.evaluation.example_scenes import Example, Line
from erc_llm.evaluation.leakage import ManifestRow
from erc_llm.evaluation.sections import (
    Block,
    Cell,
    Differences,
    Reliabilities,
    ReportTable,
    Section,
    Style,
    estimate_cells,
    grouped,
    shortened,
)
from erc_llm.evaluation.significance import DETECTABLE
from erc_llm.metrics import HEADLINE, INVALID_POLICY
from erc_llm.published import HEADING, Reported

CALIBRATION, MANIFEST = "Calibration", "Leakage manifest"
VERDICTS: dict[str, Style] = {"better": "good", "worse": "bad", "not shown": "unsure"}
_CONTRAST_COLUMNS = ("", "Difference", "95 % interval", "p", "p (Holm)", "Verdict")
_SIDES = "worse (left) or better (right) by"
_SHOWN_LINES = 12  # of an example scene
_SHOWN_TEXT = 400  # characters of a line


def title(comparison: Comparison) -> str:
    """The names of the systems, in one line."""
    return f"{comparison.systems[0].name} against {', '.join(s.name for s in comparison.systems[1:])}"


def sections(comparison: Comparison) -> tuple[Section, ...]:
    """All sections, in the order of reading."""
    found = [_measured(comparison), *_decided(comparison), _differences(comparison)]
    if any(pair.by_episode for pair in comparison.pairs):
        what = (
            "The same with whole episodes resampled and swapped, which share plots and guests: a check of sensitivity."
        )
        episodes = [(f"against {pair.b}", pair.by_episode) for pair in comparison.pairs]
        found.append(Section("Difference by episode", (what, _contrast_sheet(episodes))))
    for pair in comparison.pairs:
        names = f"{pair.a} against {pair.b}"
        found.append(Section(f"Where: {names}", tuple(_where(pair))))
        found.append(Section(f"Answers side by side: {names}", tuple(_side_by_side(comparison, pair))))
    if all(system.calibration for system in comparison.systems):
        found.append(Section(CALIBRATION, tuple(_calibration(comparison))))
    found.append(_manifest(comparison))
    if comparison.published:
        found.append(Section(HEADING.capitalize(), tuple(_published(comparison.published))))
    found.append(Section("Notes", (*comparison.notes, *comparison.missing, *_method(comparison))))
    return tuple(found)


def _measured(comparison: Comparison) -> Section:
    about = f"{comparison.targets:,} utterances in {_plural(comparison.dialogues, 'dialogue')}"
    episodes = "" if comparison.episodes is None else f" of {_plural(comparison.episodes, 'episode')}"
    groups = []
    for system in comparison.systems:
        estimates = [(TITLES[metric], getattr(system.headline, metric)) for metric in HEADLINE]
        groups.append((system.name, [estimate_cells(name, estimate) for name, estimate in estimates]))
    sheet = grouped(("", "%", "95 % interval"), groups)
    return Section("Measured", (f"{about}{episodes}: {comparison.corpus}.", sheet, *_runs(comparison.systems)))


def _decided(comparison: Comparison) -> Iterator[Section]:
    """What each system answers by the most probable label and by its decision rule; the comparison is of the latter."""
    if not comparison.decided:
        return
    groups: dict[str, list[tuple[Cell, ...]]] = {}
    for row in comparison.decided:
        percents = (Cell(f"{100 * value:.2f}") for value in (row.weighted_f1, row.macro_f1, row.accuracy))
        groups.setdefault(row.system, []).append((Cell(row.answers), *percents))
    sheet = grouped(("", "Weighted F1 %", "Macro F1 %", "Accuracy %"), groups.items())
    what = "All other sections are about the last answers of each system."
    yield Section("Most probable and decided answers", (what, sheet))


def _runs(systems: Sequence[SystemMetrics]) -> Iterator[str]:
    for system in systems:
        if len(system.runs) > 1:
            runs = ", ".join(f"{100 * run.weighted_f1:.2f} (seed {run.seed})" for run in system.runs)
            yield f"{system.name}: mean of {len(system.runs)} runs, with weighted F1 {runs}."
        for run in system.runs:
            if run.invalid:
                yield f"{run.name}: {_plural(run.invalid, 'invalid answer')}; {INVALID_POLICY}."


def _differences(comparison: Comparison) -> Section:
    first = comparison.systems[0].name
    rows = [(f"{c.name}, against {pair.b}", c.estimate) for pair in comparison.pairs for c in pair.headline]
    drawing = Differences(_SIDES, tuple(rows), "points")
    sheet = _contrast_sheet([(f"against {pair.b}", pair.headline) for pair in comparison.pairs])
    what = f"{first} minus the other, in points; whole dialogues are resampled and swapped."
    return Section("Difference", (what, sheet, drawing, *_detectable(comparison)))


def _detectable(comparison: Comparison) -> Iterator[str]:
    several = {system.name for system in comparison.systems if len(system.runs) > 1}
    for pair in comparison.pairs:
        allowing = ", of resamples that allow for few runs," if several & {pair.a, pair.b} else ""
        if pair.detectable:
            yield (
                f"Against {pair.b}: the standard error{allowing} is {100 * (pair.standard_error or 0):.2f} points; the "
                "smallest true difference in weighted F1 that this test set would show (80 % power, 5 % level, "
                f"two-sided) is {100 * pair.detectable:.2f} points."
            )
        elif pair.detectable is not None:
            yield f"Against {pair.b}: weighted F1 is the same in every resample."


def _contrast_sheet(groups: Sequence[tuple[str, Sequence[Contrast]]]) -> ReportTable:
    return grouped(
        _CONTRAST_COLUMNS, [(name, [(Cell(c.name), *_contrast_cells(c)) for c in group]) for name, group in groups]
    )


def _contrast_cells(c: Contrast) -> tuple[Cell, ...]:
    factor, form = (1.0, "+.3f") if c.lower_is_better else (100.0, "+.2f")
    low, high = c.estimate.low, c.estimate.high
    interval = "none" if low is None or high is None else f"{factor * low:{form}} to {factor * high:{form}}"
    value = Cell(f"{factor * c.estimate.value:{form}}", "strong")
    return value, Cell(interval), Cell(_p(c.p_value)), Cell(_p(c.p_corrected)), Cell(c.verdict, VERDICTS[c.verdict])


def _where(pair: Pair) -> Iterator[Block]:
    yield "Weighted F1 (of a label: its F1) in percent; p-values corrected over all rows of this section together."
    yield _part_sheet("Label", pair.classes)
    rows = [(c.name, c.estimate) for c in pair.classes]
    for division in pair.divisions:
        yield _part_sheet(division.name.capitalize(), division.rows)
        yield f"By {division.name}: {division.definition}."
        rows += [(f"{division.name}: {c.name}", c.estimate) for c in division.rows]
    yield Differences(_SIDES, tuple(rows), "points of F1")


def _part_sheet(name: str, rows: Sequence[Contrast]) -> ReportTable:
    cells = []
    for c in rows:
        difference, interval, _, corrected, verdict = _contrast_cells(c)
        numbers = Cell(f"{c.targets:,}"), Cell(f"{100 * c.a:.1f}"), Cell(f"{100 * c.b:.1f}")
        shown = (difference, interval, corrected, verdict) if c.targets else (Cell("none"),) * 4
        cells.append((Cell(c.name), *numbers, *shown))
    columns = (name, "Targets", "First", "Other", "Diff.", "95 % interval", "p (Holm)", "Verdict")
    return ReportTable(columns, tuple(cells), sortable=True)


def _side_by_side(comparison: Comparison, pair: Pair) -> Iterator[Block]:
    found, total, scenes = pair.agreement, comparison.targets, pair.scenes
    kappa = "" if found.kappa is None else f" (Cohen's kappa {found.kappa:.3f})"
    yield (
        f"The two answer alike on {total - found.flips:,} of {total:,} targets{kappa}. Both right {found.both:,}, only "
        f"{pair.a} {found.only_a:,}, only {pair.b} {found.only_b:,}, neither {found.neither:,}."
    )
    yield (
        "An oracle that always picks the right one of the two: weighted F1 "
        f"{100 * found.oracle_weighted_f1:.2f}, accuracy {100 * found.oracle_accuracy:.2f}."
    )
    yield (
        f"McNemar's exact test on utterances: p {_p(found.mcnemar)}; descriptive, since it ignores that those of a "
        "dialogue belong together."
    )
    yield (
        f"Scenes in which one has more lines right: {pair.a} {scenes.ahead_a:,}, {pair.b} {scenes.ahead_b:,}, "
        f"even {scenes.even:,}."
    )
    for example in scenes.examples:
        yield (
            f"Scene {example.dialogue_id}, {example.ahead} ahead: {example.right_a} against {example.right_b} of "
            f"{len(example.lines)} lines right."
        )
        yield _scene_sheet(example)


def _scene_sheet(example: Example) -> ReportTable:
    rows = [
        (
            Cell(shortened(line.speaker, _SHOWN_TEXT)),
            Cell(shortened(line.text, _SHOWN_TEXT)),
            Cell(line.gold),
            _answer(line, line.a),
            _answer(line, line.b),
        )
        for line in example.lines[:_SHOWN_LINES]
    ]
    if len(example.lines) > _SHOWN_LINES:
        more = Cell(f"and {len(example.lines) - _SHOWN_LINES} more lines")
        rows.append((Cell(""), more, Cell(""), Cell(""), Cell("")))
    return ReportTable(("Speaker", "Line", "Gold", "First", "Other"), tuple(rows), left=5)


def _answer(line: Line, answer: str | None) -> Cell:
    return Cell(f"{answer} (right)", "good") if answer == line.gold else Cell(answer or "invalid")


def _calibration(comparison: Comparison) -> Iterator[Block]:
    yield (
        "What probabilities are worth; lower is better. The calibration error is over 15 bins, Brier's score (0 to 2) "
        "over all labels."
    )
    groups = []
    for system in comparison.systems:
        if system.calibration is not None:
            c = system.calibration
            error = estimate_cells("calibration error, %", c.calibration_error)
            losses = (estimate_cells("NLL, nats", c.nll, 1, 3), estimate_cells("Brier score", c.brier, 1, 3))
            groups.append((system.name, [error, *losses]))
    yield grouped(("", "", "95 % interval"), groups)
    yield _contrast_sheet([(f"{pair.a} minus {pair.b}", pair.losses) for pair in comparison.pairs])
    bins = tuple((s.name, s.calibration.reliability) for s in comparison.systems if s.calibration)
    yield Reliabilities("How often the likeliest label is right", bins)


def _manifest(comparison: Comparison) -> Section:
    words = "Marked is what makes a table unlike the first one, what it does not state, and choices made on this split."
    marked = [facet.name for facet in comparison.manifest if not facet.alike]
    summary = f"Marked: {', '.join(marked)}." if marked else "Nothing makes these tables unlike."
    return Section(MANIFEST, (words, manifest_sheet(comparison.manifest, comparison.tables), summary))


def manifest_sheet(manifest: Sequence[ManifestRow], tables: Sequence[str]) -> ReportTable:
    """The leakage manifest of tables, one column each; marks are in red."""
    rows = tuple((Cell(facet.name), *_facet_cells(facet)) for facet in manifest)
    return ReportTable(("", *tables), rows, left=1 + len(tables))


def _facet_cells(facet: ManifestRow) -> Iterator[Cell]:
    for value, mark in zip(facet.values, facet.marks, strict=True):
        if mark == "NOT STATED":
            yield Cell(mark, "bad")
        else:
            yield Cell(f"{value} [{mark}]", "bad") if mark else Cell(value)


def _published(reported: Sequence[Reported]) -> Iterator[Block]:
    yield "Metrics that others report on EmoryNLP's test set; they are not comparable with those above."
    rows = []
    for number, r in enumerate(reported, start=1):
        size = "" if r.test_utterances is None else f" ({r.test_utterances:,})"
        accuracy = "not stated" if r.accuracy is None else f"{r.accuracy:.2f}"
        words = r.base_model or "not stated", (r.test_version or "not stated") + size, r.context or "not stated"
        rows.append(tuple(map(Cell, (f"{number}. {r.system}", f"{r.weighted_f1:.2f}", accuracy, *words))))
    columns = ("System", "W. F1 %", "Acc. %", "Base model", "Test version", "Context")
    yield ReportTable(columns, tuple(rows), left=len(columns), sortable=True)
    for number, r in enumerate(reported, start=1):
        yield f"{number}. {r.source}. To keep in mind: {r.caveats}."


def _method(comparison: Comparison) -> Iterator[str]:
    yield (
        f"Intervals: 95 %, percentiles of {comparison.draws:,} resamples of whole dialogues (and of runs, where a "
        f"system has several). p-values: {comparison.draws:,} random swaps of whole dialogues, two-sided. "
        f"Seed {comparison.seed}."
    )
    yield (
        "Multiple comparisons: Holm's correction, of each headline metric and each loss over the pairs, and over all "
        "labels and subgroups of a pair together."
    )
    yield "'better' and 'worse': the interval leaves zero out, and the corrected p-value is below 0.05."
    yield f"Smallest difference shown: {DETECTABLE} of the paired difference, taken from the resamples."
    yield "Weighted F1 is over all labels, Neutral included."


def _p(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:.4f}" if value >= 0.0001 else "<0.0001"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
