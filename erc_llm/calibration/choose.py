"""Choice of correction: combines the requested prior, calibration and decision rule for a run's predictions.

Input: a run, and the requested prior, calibration and rule; or a table, to find a rule on itself. Output: a
`Correction`, or the decided table.
Does not depend on: models, prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, cast, get_args

import numpy as np

from erc_llm.calibration.f1_rules import Metric, find_rule
from erc_llm.calibration.record import F1Decide
from erc_llm.calibration.select import calibrate, decide_held_out, table_hash
from erc_llm.calibration.store import CALIBRATION, read_calibration
from erc_llm.errors import ConfigError, PredictionsError, RunError
from erc_llm.predictions import Correction, Decision, Predictions, PriorShift, corpus_shift, correct
from erc_llm.predictions.correction import Way, shares_of
from erc_llm.runs.directory import Run
from erc_llm.runs.manifest import Manifest

Prior = Literal["auto", "none", "corpus"] | Sequence[float]
Calibrated = Literal["auto", "none", "run"]
AskedDecide = Literal["auto", "probable", "weighted_f1", "macro_f1", "weights"]


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
    if isinstance(prior, str):
        return corpus_shift(manifest.training_prior, manifest.train_shares)
    shift = PriorShift("given", manifest.training_prior, _given(manifest, prior))
    return shift if shift.changes else None


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


def choose_correction(
    run: Run | None, prior: Prior = "auto", calibration: Calibrated = "auto", decide: AskedDecide = "auto"
) -> Correction:
    """The correction of a run's predictions; without a run (a base model alone), an empty one.

    Args:
        run: The run; None for a base model alone, which supports neither a prior, nor a calibration, nor a rule.
        prior: As for `prior_shift`; with a calibration, `auto` is the prior that the calibration was fitted on top of.
        calibration: `run`: use the calibration that is stored with the run; `none`: use none; `auto`: use it if the
            run names a rule of its own, or if the rule that is asked for was found on calibrated probabilities.
        decide: `probable`: the most probable label; another name: the stored decision rule of that name; `auto`: the
            rule that the calibration names, the decision weights if it has some, or else the most probable label.

    Raises:
        ConfigError: An argument is invalid, the prior differs from that of the calibration, or a rule is asked for
            without the calibration.
        RunError: The run has no such calibration or rule, or it is damaged, or belongs to other labels or another run.
    """
    _check_names(prior, calibration, decide)
    if run is None:
        if calibration == "run" or prior not in ("auto", "none") or decide not in ("auto", "probable"):
            raise ConfigError("prior, calibration and decision rule: a base model alone has none; give a run directory")
        return Correction()
    chosen = _stored(run, calibration, decide)
    if chosen is None:
        return Correction(prior_shift(run.manifest, prior))
    wanted = prior_shift(run.manifest, prior)
    if prior != "auto" and not _same(wanted, chosen.prior):
        raise ConfigError(
            f"prior: the calibration of {run.folder} was fitted on top of {_named(chosen.prior)}, found "
            f"{_named(wanted)}; omit --prior, use --calibration none, or run `erc-llm calibrate {run.folder}` with "
            "that --prior"
        )
    return chosen


def _check_names(prior: Prior, calibration: Calibrated, decide: AskedDecide) -> None:
    if calibration not in ("auto", "none", "run"):
        raise ConfigError(f"calibration: expected auto, none or run, found '{calibration}'")
    if decide not in get_args(AskedDecide):
        raise ConfigError(f"decide: expected {', '.join(get_args(AskedDecide))}, found '{decide}'")
    if isinstance(prior, str) and prior not in ("auto", "none", "corpus"):
        raise ConfigError(f"prior: expected auto, none, corpus or shares, found '{prior}'")


def _stored(run: Run, calibration: Calibrated, decide: AskedDecide) -> Correction | None:
    """The stored correction that is asked for; None if predictions need no stored one."""
    asked = decide not in ("auto", "probable")
    if calibration == "none" and asked:
        raise ConfigError(
            f"decide={decide}: the rules of a run are found on its calibrated probabilities; leave "
            "--calibration none out, or find the rule on the split itself: --transductive"
        )
    path = run.folder / CALIBRATION
    if asked and not path.is_file():
        raise RunError(
            f"{run.folder}: has no decision rule '{decide}' yet; `erc-llm calibrate {run.folder}` finds it on held-out "
            "predictions, and --transductive on the split itself"
        )
    if calibration == "none" or (calibration == "auto" and not path.is_file()):
        return None
    found = read_calibration(run)
    if calibration == "auto" and not asked and found.decide is None:
        return None
    if decide == "auto":
        decide = found.decide or ("probable" if found.held_out("weights") is None else "weights")
    try:
        return found.correction(decide)
    except KeyError:
        raise RunError(
            f"{path}: has no decision rule '{decide}'; `erc-llm calibrate {run.folder}` finds it"
            + (", with --fit-for weighted_f1" if decide == "weights" else "")
        ) from None


def correction_from(held_out: Predictions, decide: F1Decide) -> Correction:
    """The correction that a table of held-out predictions gives: prior, calibration and decision rule.

    Classes that training balanced are first corrected back to train's label distribution.

    Args:
        held_out: Predictions of a part of train that the model was not trained on.
        decide: Name of the rule.

    Raises:
        PredictionsError: The table has fewer than five dialogues with gold labels and log-likelihoods.
    """
    info = held_out.info
    return calibrate(held_out, corpus_shift(info.training_prior, info.train_shares)).correction(decide)


def rule_on(table: Predictions, metric: Metric, way: Way) -> Decision:
    """The decision rule for a metric, found on the probabilities of a table; no label is read.

    Args:
        table: The table.
        metric: The metric.
        way: `transductive` if the rule will decide this very table, else `inductive`.

    Raises:
        PredictionsError: The table has no probabilities.
    """
    if table.probabilities is None:
        raise PredictionsError("the table has no probabilities, on which a decision rule could be found")
    found = find_rule(table.probabilities[~np.isnan(table.probabilities).any(axis=1)], metric)
    unlabelled = replace(table, gold=None)  # the hash names what the rule depends on
    return Decision(metric, way, found.gains, found.costs, table_hash(unlabelled))


def decide_by_itself(table: Predictions, metric: Metric) -> Predictions:
    """The table with the answers of the rule for a metric that is found on its own probabilities.

    Raises:
        PredictionsError: The table has no probabilities.
    """
    return correct(table, replace(Correction.of(table.info), decision=rule_on(table, metric, "transductive")))


def decide_by_others(table: Predictions, metric: Metric) -> Predictions:
    """A cross-fitted table with each row decided by calibration and rule that are fitted on other episodes.

    Classes that training balanced are first corrected back to train's label distribution. See `decide_held_out`.

    Raises:
        PredictionsError: The table is not cross-fitted, or has too few episodes or dialogues.
    """
    info = table.info
    if info.folds is None or info.split != "train":
        raise PredictionsError(
            f"the table of {info.system} is not cross-fitted (split {info.split}), so its answers stay as they were "
            f"predicted; leave --decide out, or predict again with --decide {metric}: `erc-llm predict RUN`, or "
            "`erc-llm baseline CONFIG --resume --predict SPLIT`"
        )
    return decide_held_out(table, corpus_shift(info.training_prior, info.train_shares), metric)


def _same(one: PriorShift | None, other: PriorShift | None) -> bool:
    """Whether two prior shifts of one run are equal up to rounding, whatever their names."""
    if one is None or other is None:
        return one is other
    return np.allclose(one.log_ratio, other.log_ratio, rtol=0, atol=1e-6)


def _named(prior: PriorShift | None) -> str:
    if prior is None:
        return "no prior correction"
    return f"the {prior.name} prior " + ",".join(f"{share:.4g}" for share in prior.wanted)
