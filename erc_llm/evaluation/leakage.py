"""The leakage manifest: what each system had access to, side by side, and where two of them differ.

Input: the metadata of tables. Output: one row per facet, with a value and a mark for each table. Every value is what a
table states; what it does not state is marked as such.
Does not depend on: metrics, the tables' rows, files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from erc_llm.metrics import INVALID_POLICY
from erc_llm.predictions import PredictionsInfo
from erc_llm.predictions.correction import MOST_PROBABLE
from erc_llm.predictions.info import LEAK, OF_TRAIN

Mark = Literal["", "UNLIKE", "NOT STATED", "LEAK"]
UNKNOWN = "not stated"

# Parts of `PredictionsInfo.profile`: what is read from earlier scenes of any split, and what is not.
_ACROSS = re.compile(r"\w+ in the (trunk|question)|memory across dialogues")
_NOT_ACROSS = re.compile(r"none|memory within the dialogue|state \w+|invented names")


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One line of the manifest.

    Attributes:
        name: The facet.
        values: What each table states.
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
        _retrieval([info.retrieval for info in tables]),
        _facet("other splits in the past", [_other_splits(info) for info in tables]),
        _facet("trained on", [_trained_on(info) for info in tables]),
        _selection(tables),
        _facet("decoding", [_decoding(info) for info in tables]),
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
    if info.folds is not None and info.split == "train":  # each row is of a model that did not see its episode
        return info.selection == info.split
    nothing_held_out = info.selection in ("none", "train")  # of an average over folds, and of a run on all of train
    fitted_on = ("train", "selection") if nothing_held_out else ("train",)
    if info.run_id is not None and info.split in fitted_on:
        return True
    return None if info.selection is None else info.selection == info.split


def past_reaches_other_splits(info: PredictionsInfo) -> bool | None:
    """Whether a system read what speakers did in earlier scenes of any split; None where the table does not state it.

    Profiles and a memory across dialogues do, in training and in use. They see no label of other splits than train
    (`corpus.history`), but what was said in an earlier scene of dev or test.
    """
    parts = info.profile.split(", ")
    if any(_ACROSS.fullmatch(part) for part in parts):
        return True
    lines = [part for part in info.retrieval.split("; ") if OF_TRAIN not in part]  # train is no other split
    known = lines in ([], ["none"]) and all(_NOT_ACROSS.fullmatch(part) for part in parts)
    return False if known else None


def _other_splits(info: PredictionsInfo) -> str:
    return {True: "yes, without labels", False: "no", None: UNKNOWN}[past_reaches_other_splits(info)]


def _facet(name: str, values: Sequence[str]) -> ManifestRow:
    def mark(value: str) -> Mark:
        if value == UNKNOWN:
            return "NOT STATED"
        return "" if value == values[0] else "UNLIKE"

    return ManifestRow(name, tuple(values), tuple(mark(value) for value in values))


def _retrieval(sources: Sequence[str]) -> ManifestRow:
    """Where quoted lines come from; a control that breaks a rule is marked."""
    row = _facet("retrieval", sources)
    marks = tuple("LEAK" if f"{LEAK} " in source else mark for source, mark in zip(sources, row.marks, strict=True))
    return replace(row, marks=marks)


def _trained_on(info: PredictionsInfo) -> str:
    """Corpus version and hash of its train split, which does not change when a test split is added to the corpus.

    Then the run that training started from, if any.
    """
    if info.run_id is None:
        return "nothing: no run"
    if info.trained_on_version is None or info.trained_on_sha256 is None:
        return UNKNOWN
    before = "" if info.started_from is None else f", after {info.started_from}"
    return f"{info.trained_on_version}, train {info.trained_on_sha256[:12]}{before}"


def _invalid(info: PredictionsInfo) -> str:
    """The policy; older tables do not state it, and need none where the most probable label is always the answer."""
    return info.invalid_policy or (INVALID_POLICY if info.decoding is None else UNKNOWN)


def _selection(tables: Sequence[PredictionsInfo]) -> ManifestRow:
    """No mark for a system that did not see the split, whatever its choices were made on."""
    words: dict[bool | None, Mark] = {True: "LEAK", None: "NOT STATED", False: ""}
    values = []
    for info in tables:
        saw = selection_saw_split(info)
        chosen = "nothing was chosen" if info.selection == "none" else f"chosen on '{info.selection}'"
        values.append({None: UNKNOWN, True: "yes", False: f"no: {chosen}"}[saw])
    marks = tuple(words[selection_saw_split(info)] for info in tables)
    return ManifestRow("this split seen by choices", tuple(values), marks)


def _neutral(info: PredictionsInfo) -> str:
    """Metrics are over all labels, so Neutral is included wherever it is a label."""
    return "included" if "neutral" in (label.casefold() for label in info.labels) else "no label of this name"


def _corrections(info: PredictionsInfo) -> str:
    steps = {
        "prior": info.prior is not None,
        "calibration": info.calibration is not None,
        "neighbours in train": info.neighbours_weight is not None,
        _decision(info): info.decided,
    }
    return ", ".join(name for name, applied in steps.items() if applied) or "nothing"


def _decoding(info: PredictionsInfo) -> str:
    if info.decoding is not None:
        return info.decoding
    return "a decision rule on probabilities" if info.decided else MOST_PROBABLE


def _decision(info: PredictionsInfo) -> str:
    """The decision rule; a transductive one reads the distributions of the split that is evaluated, but no label."""
    if info.decision in (None, "weights"):
        return "decision weights"
    return f"decision for {info.decision} ({info.decision_way})"
