"""The leakage manifest: what each table was allowed to know, side by side, and what makes two of them unlike.

Goes in: the metadata of tables. Comes out: one row per facet, with a value and a mark for each table. All of it is what
the tables state; what a table does not state is marked as that. Knows no figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from erc_llm.metrics import INVALID_POLICY
from erc_llm.predictions import PredictionsInfo

Mark = Literal["", "UNLIKE", "NOT STATED", "LEAK"]
UNKNOWN = "not stated"


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One line of the manifest.

    Attributes:
        name: What it is about.
        values: For each table what it states.
        marks: For each table: `UNLIKE` where it differs from the first table, `LEAK` where choices were made on the
            split that is evaluated, `NOT STATED` where nobody can tell, else empty.
    """

    name: str
    values: tuple[str, ...]
    marks: tuple[Mark, ...]

    @property
    def alike(self) -> bool:
        """Whether no table carries a mark."""
        return not any(self.marks)


def leakage_manifest(tables: Sequence[PredictionsInfo]) -> tuple[ManifestRow, ...]:
    """The facets of tables, in a fixed order."""
    return (
        _facet("context", [info.context or "none: reads no dialogue" for info in tables]),
        _facet("profile or memory", [info.profile for info in tables]),
        _facet("retrieval", [info.retrieval for info in tables]),
        _facet("trained on", [_trained_on(info) for info in tables]),
        _selection(tables),
        _facet("decoding", [info.decoding or "the most probable label" for info in tables]),
        _facet(
            "abstains below", ["never" if info.abstain_below is None else f"{info.abstain_below:g}" for info in tables]
        ),
        _facet("invalid answers", [_invalid(info) for info in tables]),
        _facet("Neutral in the metric", [_neutral(info) for info in tables]),
        _facet("corpus version", [info.corpus_version + (", gap-healed" if info.healed else "") for info in tables]),
        _facet("corpus hash", [info.corpus_sha256[:12] for info in tables]),
        _facet("split", [info.split for info in tables]),
        _facet("corrected by", [_corrections(info) for info in tables]),
    )


def selection_saw_split(info: PredictionsInfo) -> bool | None:
    """Whether the split of a table was used to fit or choose what answered; None where the table does not state it."""
    fitted_on = ("train", "selection") if info.selection == "none" else ("train",)  # none is held out of train
    if info.run_id is not None and info.split in fitted_on:
        return True
    return None if info.selection is None else info.selection == info.split


def _facet(name: str, values: Sequence[str]) -> ManifestRow:
    def mark(value: str) -> Mark:
        if value == UNKNOWN:
            return "NOT STATED"
        return "" if value == values[0] else "UNLIKE"

    return ManifestRow(name, tuple(values), tuple(mark(value) for value in values))


def _trained_on(info: PredictionsInfo) -> str:
    """Which version, and which train: adding a test split to a corpus leaves its train what it was."""
    if info.run_id is None:
        return "nothing: no run"
    if info.trained_on_version is None or info.trained_on_sha256 is None:
        return UNKNOWN
    return f"{info.trained_on_version}, train {info.trained_on_sha256[:12]}"


def _invalid(info: PredictionsInfo) -> str:
    """Where the most probable label answers, no answer is invalid, and older tables do not say what would be done."""
    return info.invalid_policy or (INVALID_POLICY if info.decoding is None else UNKNOWN)


def _selection(tables: Sequence[PredictionsInfo]) -> ManifestRow:
    """Alike are all that did not see the split, whatever they chose on."""
    words: dict[bool | None, Mark] = {True: "LEAK", None: "NOT STATED", False: ""}
    values = []
    for info in tables:
        saw = selection_saw_split(info)
        chosen = "nothing was chosen" if info.selection == "none" else f"chosen on '{info.selection}'"
        values.append({None: UNKNOWN, True: "yes", False: f"no: {chosen}"}[saw])
    marks = tuple(words[selection_saw_split(info)] for info in tables)
    return ManifestRow("this split seen by choices", tuple(values), marks)


def _neutral(info: PredictionsInfo) -> str:
    """Figures are over all labels, so Neutral is in them wherever it is a label."""
    return "included" if "neutral" in (label.casefold() for label in info.labels) else "no label of this name"


def _corrections(info: PredictionsInfo) -> str:
    steps = {"prior": info.prior, "calibration": info.calibration, "decision weights": info.decision_weights}
    return ", ".join(name for name, value in steps.items() if value is not None) or "nothing"
