"""Which correction a run's predictions get: the prior and the calibration that were asked for.

Input: a run, and the prior and calibration asked for. Output: a `Correction`.
Does not depend on: models, prompts, tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import numpy as np

from erc_llm.calibration.store import read_calibration
from erc_llm.errors import ConfigError, PredictionsError
from erc_llm.predictions import Correction, PriorShift
from erc_llm.predictions.correction import CORPUS_PRIOR, shares_of
from erc_llm.runs.directory import Run
from erc_llm.runs.manifest import Manifest

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


def _same(one: PriorShift | None, other: PriorShift | None) -> bool:
    """Whether two corrections of one run's prior do the same, by whatever name and but for rounding."""
    if one is None or other is None:
        return one is other
    return np.allclose(one.log_ratio, other.log_ratio, rtol=0, atol=1e-6)


def _named(prior: PriorShift | None) -> str:
    if prior is None:
        return "no prior correction"
    return f"the {prior.name} prior " + ",".join(f"{share:.4g}" for share in prior.wanted)
