"""Storage of a run's calibration: writes and reads `calibration.json`, and checks that it belongs to the run.

Input: a run, and a `Calibration` to store. Output: a complete file, or the stored `Calibration`.
Does not depend on: how a calibration is fitted, predictions tables, models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from erc_llm.calibration.record import Calibration
from erc_llm.errors import RunError
from erc_llm.files import write_text
from erc_llm.predictions import Decision
from erc_llm.runs.directory import Run
from erc_llm.runs.manifest import Manifest
from erc_llm.runs.provenance import versions

CALIBRATION = "calibration.json"
CALIBRATION_FORMAT = 2
_IDENTITY = {
    "run_id": "run",
    "base_model_sha256": "a run on base model",
    "template_sha256": "a run with template",
    "train_sha256": "a run on train",
}


def write_calibration(run: Run, calibration: Calibration) -> Path:
    """Store a calibration with its run, replacing an older one.

    Raises:
        RunError: The file cannot be written.
    """
    path = run.folder / CALIBRATION
    head = {"format_version": CALIBRATION_FORMAT, **_identity(run.manifest)}
    content = head | asdict(calibration) | {"created_with": versions()}
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n", RunError)
    return path


def read_calibration(run: Run) -> Calibration:
    """The calibration stored with a run.

    Raises:
        RunError: The file is missing, damaged or of another format, or belongs to other labels or another run.
    """
    from pydantic import TypeAdapter, ValidationError

    path, again = run.folder / CALIBRATION, f"make it with `erc-llm calibrate {run.folder}`"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path}: no such file; {again}") from None
    except ValueError as error:
        raise RunError(f"{path}: broken JSON ({error}), damaged or cut off; {again}") from None
    if isinstance(content, dict) and content.get("format_version") == 1:
        content = _from_format_1(content)
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != CALIBRATION_FORMAT:
        raise RunError(f"{path}: found calibration format {version}, expected 1 or {CALIBRATION_FORMAT}; {again}")
    try:
        calibration = TypeAdapter(Calibration).validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RunError(f"{path}: {problems}; {again}") from None
    if problem := _misfit(calibration, content, run.manifest):
        raise RunError(f"{path}: {problem}; {again}")
    return calibration


def _from_format_1(content: dict[str, Any]) -> dict[str, Any]:
    """Convert format 1, whose only decision rule were decision weights."""
    weights, held_out = content.get("decision_weights"), content.get("decided")
    decisions = []
    if weights is not None and held_out is not None:
        rule = Decision("weights", "inductive", tuple(weights), (0.0,) * len(weights), content.get("table_sha256"))
        decisions = [{"decision": asdict(rule), "held_out": held_out}]
    kept = {name: value for name, value in content.items() if name not in ("decision_weights", "decided")}
    return kept | {"decisions": decisions, "format_version": CALIBRATION_FORMAT}


def _identity(manifest: Manifest) -> dict[str, str | None]:
    """Hashes that identify a run beyond its id, which runs on other weights or another corpus may share."""
    return {name: getattr(manifest, name) for name in _IDENTITY}


def _misfit(calibration: Calibration, content: Mapping[str, object], manifest: Manifest) -> str | None:
    """Why a calibration with valid fields does not belong to this run; None if it does."""
    if calibration.labels != manifest.labels:
        return f"found the labels {', '.join(calibration.labels)}, the run has {', '.join(manifest.labels)}"
    for name, own in _identity(manifest).items():
        if name in content and content[name] != own:  # older calibrations store only the id
            return f"was fitted for {_IDENTITY[name]} {content[name]}, this is {own}"
    prior = calibration.prior
    if prior is not None and prior.training != manifest.training_prior:
        return "corrects another prior than this run was trained with"
    decisions = [stored.decision for stored in calibration.decisions]
    given = [calibration.offsets, *(of.gains for of in decisions), *(of.costs for of in decisions)]
    if any(len(values) != len(manifest.labels) for values in (*given, *([prior.wanted] if prior else []))):
        return f"expected {len(manifest.labels)} numbers, one per label, in every list"
    if not 0 < calibration.temperature < np.inf or not np.isfinite(calibration.offsets).all():
        return "expected a temperature above 0 and finite offsets"
    if calibration.neighbours is not None and not 0 <= calibration.neighbours.weight <= 1:
        return f"expected a weight of neighbours from 0 to 1, found {calibration.neighbours.weight}"
    for decision in decisions:
        if not (np.isfinite(decision.gains).all() and np.isfinite(decision.costs).all() and min(decision.gains) >= 0):
            return f"expected finite numbers, and gains of at least 0, in the decision rule {decision.rule}"
    if calibration.decide not in (None, "probable", *(decision.rule for decision in decisions)):
        return f"names the decision rule {calibration.decide}, and has {len(decisions)} others"
    return None
