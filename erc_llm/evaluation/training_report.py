"""The part of a run's report that its training logs give: the loss curve, and the scores on the selection split.

Input: the records of `training.jsonl` and `selection.jsonl`. Output: sections of sentences, tables and drawings.
Does not depend on: files, models, how the report is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from erc_llm.evaluation.contrasts import TITLES
from erc_llm.evaluation.sections import Block, Cell, Curve, Curves, ReportTable, Section, capitalised
from erc_llm.metrics import HEADLINE

_MOST_POINTS = 500  # of a curve; more are not told apart on a page, and make it large


def training_sections(steps: Sequence[Mapping[str, Any]], scores: Sequence[Mapping[str, Any]]) -> tuple[Section, ...]:
    """The section on training; none if neither log has a record.

    Args:
        steps: Records of `training.jsonl`, with `step` and `loss`.
        scores: Records of `selection.jsonl`, with `step`, `best`, and metrics in fractions (NLL in nats).
    """
    blocks = (*_losses(steps), *_scores(scores))
    return (Section("Training", blocks),) if blocks else ()


def _losses(steps: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    known = [(float(record["step"]), float(record["loss"])) for record in steps if record.get("loss") is not None]
    if not known:
        return
    (_, first), (step, last) = known[0], known[-1]
    yield f"{int(step):,} optimizer steps; the mean loss was {first:.3f} at first, {last:.3f} at last."
    yield Curves("Training loss", "optimizer step", "loss, nats", (Curve("loss", thinned(known)),))


def thinned(points: Sequence[tuple[float, float]], most: int = _MOST_POINTS) -> tuple[tuple[float, float], ...]:
    """At most `most` points: the means of as many consecutive ones as need be."""
    size = -(-len(points) // most)
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return tuple((part[-1][0], sum(loss for _, loss in part) / len(part)) for part in parts)


def _scores(scores: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    known = [record for record in scores if all(record.get(metric) is not None for metric in HEADLINE)]
    if not known:
        return
    if len(known) > 1:
        curves = (
            Curve(TITLES[metric], tuple((float(r["step"]), 100 * float(r[metric])) for r in known))
            for metric in HEADLINE
        )
        yield Curves("Scores on the selection split", "optimizer step", "%", tuple(curves))
    kept = max((i for i, record in enumerate(known) if record.get("best")), default=None)
    rows = []
    for i, record in enumerate(known):
        percents = (Cell(f"{100 * float(record[metric]):.2f}", "strong" if i == kept else "") for metric in HEADLINE)
        nll = record.get("nll")
        words = Cell("yes", "good") if i == kept else Cell("")
        rows.append((Cell(f"{record['step']:,}"), *percents, Cell("" if nll is None else f"{nll:.4f}"), words))
    columns = ("Step", *(f"{capitalised(TITLES[metric])} %" for metric in HEADLINE), "NLL, nats", "Kept")
    yield "Held-out scenes of train, by which the step is chosen: expect less on new scenes."
    yield ReportTable(columns, tuple(rows), left=0, sortable=True)
