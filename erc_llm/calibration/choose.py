"""Choice of correction: combines the requested prior and calibration for a run's predictions.

Input: a run, and the requested prior and calibration. Output: a `Correction`.
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
    """Parse a prior from the command line: `auto`, `none`, `corpus`, or shares such as `0.1,0.7,0.2`.

    Raises:
        ConfigError: The text is none of these.
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
    """The shift from a run's training prior to the requested one; None if it changes nothing.

    Args:
        manifest: The run's manifest.
        prior: `none`: no shift; `corpus` or `auto`: to the label distribution of train, which changes nothing unless
            training balanced the classes; or one share per label, in label order. A share of 0 rules a label out.
            Shares that sum to 1 within 0.01 are divided by their sum.

    Raises:
        ConfigError: The number of shares differs from the number of labels, a share is negative, their sum is not 1, or
            a label that training never saw has a share above 0.
    """
    if prior == "none":
        return None
    shift = PriorShift(CORPUS_PRIOR, manifest.training_prior, manifest.train_shares)
    if not isinstance(prior, str):
        shift = PriorShift("given", manifest.training_prior, _given(manifest, prior))
    # Distributions that differ only by rounding count as equal, so that scores stay bit-identical.
    return None if np.allclose(shift.log_ratio, 0, rtol=0, atol=1e-9) else shift


def _given(manifest: Manifest, prior: Sequence[float]) -> tuple[float, ...]:
    """The label distribution that the user gave, normalised."""
    try:
        wanted = shares_of(prior, len(manifest.labels))
    except PredictionsError as error:
        raise ConfigError(f"{error}; the labels are {', '.join(manifest.labels)}") from None
    rows = zip(manifest.labels, manifest.training_prior, wanted, strict=True)
    unseen = [f"{label} (found {share:.4g})" for label, seen, share in rows if seen == 0 < share]
    if unseen:
        raise ConfigError(
            f"prior: training never saw {', '.join(unseen)}, so no correction is defined for it; expected a share of "
            "0, which rules the label out"
        )
    return wanted


def choose_correction(run: Run | None, prior: Prior = "auto", calibration: Calibrated = "none") -> Correction:
    """The correction of a run's predictions; without a run (a base model alone), an empty one.

    Args:
        run: The run; None for a base model alone, which supports neither a prior nor a calibration.
        prior: As for `prior_shift`; with a calibration, `auto` is the prior that the calibration was fitted on top of.
        calibration: `run`: use the calibration that `erc-llm calibrate` stored with the run; `none`: use none.

    Raises:
        ConfigError: The prior is invalid, or differs from the prior of the calibration.
        RunError: The run has no calibration, or it is damaged, or belongs to other labels or another training run.
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
            f"{_named(wanted)}; omit --prior, or run `erc-llm calibrate {run.folder}` with that --prior"
        )
    return stored


def _same(one: PriorShift | None, other: PriorShift | None) -> bool:
    """Whether two prior shifts of one run are equal up to rounding, whatever their names."""
    if one is None or other is None:
        return one is other
    return np.allclose(one.log_ratio, other.log_ratio, rtol=0, atol=1e-6)


def _named(prior: PriorShift | None) -> str:
    if prior is None:
        return "no prior correction"
    return f"the {prior.name} prior " + ",".join(f"{share:.4g}" for share in prior.wanted)
