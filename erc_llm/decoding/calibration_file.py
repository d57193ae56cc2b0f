"""A run's `calibration.json`, and what correction a run's predictions get.

In: a run, and the prior and calibration asked for. Out: a `Correction`; or the file, which appears whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal, cast

import numpy as np

from erc_llm.decoding.calibration import Calibration
from erc_llm.errors import ConfigError, PredictionsError, RunError
from erc_llm.files import write_text
from erc_llm.predictions import Correction, PriorShift
from erc_llm.predictions.correction import CORPUS_PRIOR, shares_of
from erc_llm.runs.directory import Run
from erc_llm.runs.manifest import Manifest
from erc_llm.runs.provenance import versions

CALIBRATION = "calibration.json"
CALIBRATION_FORMAT = 1
_IDENTITY = {
    "run_id": "run",
    "base_model_sha256": "a run on base model",
    "template_sha256": "a run with template",
    "train_sha256": "a run on train",
}

Prior = Literal["auto", "none", "corpus"] | Sequence[float]
Calibrated = Literal["none", "run"]


def parse_prior(text: str) -> Prior:
    """A prior as a person types it: `auto`, `none`, `corpus`, or shares such as `0.1,0.7,0.2`.

    Raises:
        ConfigError: None of these.
    """
    if text in ("auto", "none", "corpus"):
        return cast(Prior, text)
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"prior: expected auto, none, corpus, or shares in label order such as 0.1,0.7,0.2, found '{text}'"
        ) from None


def prior_shift(manifest: Manifest, prior: Prior) -> PriorShift | None:
    """How a run's scores get from the prior of its training to the one asked for; None where nothing is to be done.

    Args:
        manifest: Of the run.
        prior: `none`: nothing is done; `corpus` and `auto`: to the label shares of train, which does nothing unless
            training balanced the classes; or shares of one's own, in label order. An own share of 0 rules a label out.

    Raises:
        ConfigError: The shares are not one for each label, negative, do not sum to 1 (to 0.01; then they are divided
            by their sum), or give one to a label that training never saw.
    """
    if prior == "none":
        return None
    shift = PriorShift(CORPUS_PRIOR, manifest.training_prior, manifest.train_shares)
    if not isinstance(prior, str):
        shift = PriorShift("given", manifest.training_prior, _given(manifest, prior))
    # Shares that differ by rounding are the same; scores then stay as they are, to the bit.
    return None if np.allclose(shift.log_ratio, 0, rtol=0, atol=1e-9) else shift


def _given(manifest: Manifest, prior: Sequence[float]) -> tuple[float, ...]:
    """A person's own shares, which sum to 1."""
    try:
        wanted = shares_of(prior, len(manifest.labels))
    except PredictionsError as error:
        raise ConfigError(f"{error}; the labels are {', '.join(manifest.labels)}") from None
    rows = zip(manifest.labels, manifest.training_prior, wanted, strict=True)
    unseen = [f"{label} (found {share:.4g})" for label, seen, share in rows if seen == 0 < share]
    if unseen:
        raise ConfigError(
            f"prior: training never saw {', '.join(unseen)}, so there is no share to take back; expected 0 there, "
            "which rules the label out"
        )
    return wanted


def choose_correction(run: Run | None, prior: Prior = "auto", calibration: Calibrated = "none") -> Correction:
    """What predictions of a run get; a base model alone (None) gets nothing, and may ask for nothing.

    Args:
        run: The run.
        prior: As for `prior_shift`; with a calibration, `auto` is the prior that it was fitted on top of.
        calibration: `run`: the one that `erc-llm calibrate` stored with the run.

    Raises:
        ConfigError: The prior cannot be had, or is another than the calibration's.
        RunError: The run has no calibration, a damaged one, or one of other labels or another training.
    """
    if calibration not in ("none", "run"):
        raise ConfigError(f"calibration: expected none or run, found '{calibration}'")
    if isinstance(prior, str) and prior not in ("auto", "none", "corpus"):
        raise ConfigError(f"prior: expected auto, none, corpus or shares, found '{prior}'")
    if run is None:
        if calibration != "none" or prior not in ("auto", "none"):
            raise ConfigError("prior and calibration: a base model alone has neither; give a run directory")
        return Correction()
    if calibration == "none":
        return Correction(prior_shift(run.manifest, prior))
    stored = read_calibration(run).correction
    wanted = prior_shift(run.manifest, prior)
    if prior != "auto" and not _same(wanted, stored.prior):
        raise ConfigError(
            f"prior: the calibration of {run.folder} was fitted on top of {_named(stored.prior)}, found "
            f"{_named(wanted)}; leave --prior out, or run `erc-llm calibrate {run.folder}` with that --prior"
        )
    return stored


def write_calibration(run: Run, calibration: Calibration) -> Path:
    """Store a calibration with its run; an older one is replaced.

    Raises:
        RunError: It cannot be written.
    """
    path = run.folder / CALIBRATION
    head = {"format_version": CALIBRATION_FORMAT, "split": "selection", **_identity(run.manifest)}
    content = head | asdict(calibration) | {"created_with": versions()}
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n", RunError)
    return path


def read_calibration(run: Run) -> Calibration:
    """The calibration stored with a run.

    Raises:
        RunError: There is none, it is damaged or of another format, or it is of other labels or another run.
    """
    from pydantic import TypeAdapter, ValidationError

    path, again = run.folder / CALIBRATION, f"make it with `erc-llm calibrate {run.folder}`"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path}: no such file; {again}") from None
    except ValueError as error:
        raise RunError(f"{path}: broken JSON ({error}), damaged or cut off; {again}") from None
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != CALIBRATION_FORMAT:
        raise RunError(f"{path}: calibration format {version}, this version reads {CALIBRATION_FORMAT}; {again}")
    try:
        calibration = TypeAdapter(Calibration).validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RunError(f"{path}: {problems}; {again}") from None
    if problem := _misfit(calibration, content, run.manifest):
        raise RunError(f"{path}: {problem}; {again}")
    return calibration


def _identity(manifest: Manifest) -> dict[str, str | None]:
    """What a calibration is of: the same id may be given to trainings of other weights or another corpus."""
    return {name: getattr(manifest, name) for name in _IDENTITY}


def _misfit(calibration: Calibration, content: Mapping[str, object], manifest: Manifest) -> str | None:
    """Why a calibration, well-formed as JSON, is not one of this run."""
    if calibration.labels != manifest.labels:
        return f"is for the labels {', '.join(calibration.labels)}, the run has {', '.join(manifest.labels)}"
    for name, own in _identity(manifest).items():
        if name in content and content[name] != own:  # only the id in calibrations of before
            return f"was fitted for {_IDENTITY[name]} {content[name]}, this is {own}"
    prior = calibration.prior
    if prior is not None and prior.training != manifest.training_prior:
        return "takes back another prior than this run was trained with"
    given = (calibration.offsets, calibration.decision_weights, None if prior is None else prior.wanted)
    if any(values is not None and len(values) != len(manifest.labels) for values in given):
        return f"expected {len(manifest.labels)} numbers, one per label, in every list"
    if not 0 < calibration.temperature < np.inf or not np.isfinite(calibration.offsets).all():
        return "expected a temperature above 0 and finite offsets"
    if any(not 0 < weight < np.inf for weight in calibration.decision_weights or ()):
        return "expected decision weights above 0"
    return None


def _same(one: PriorShift | None, other: PriorShift | None) -> bool:
    """Whether two corrections of one run's prior do the same, by whatever name and but for rounding."""
    if one is None or other is None:
        return one is other
    return np.allclose(one.log_ratio, other.log_ratio, rtol=0, atol=1e-6)


def _named(prior: PriorShift | None) -> str:
    if prior is None:
        return "no prior correction"
    return f"the {prior.name} prior " + ",".join(f"{share:.4g}" for share in prior.wanted)
