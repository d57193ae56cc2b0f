"""Prediction with several adapters on one base model: each by itself, or all as an ensemble.

The base model is loaded once. An ensemble's distribution is the mean of its members', each after its own prior and
calibration.

Input: `PredictOptions` and further runs. Output: one predictions table per run, or that of the ensemble.
Does not depend on: how a single run predicts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from erc_llm.corpus import Corpus
from erc_llm.errors import UserError
from erc_llm.predictions import Correction, Predictions
from erc_llm.predictions.mean import mean_prediction
from erc_llm.recipes.predict import (
    PredictedFile,
    PredictOptions,
    check_options,
    check_probabilities,
    open_to_predict,
    predict_with_progress,
    write_table,
)
from erc_llm.runs.opened import open_run

if TYPE_CHECKING:
    from erc_llm.predictor import Predictor


def predict_together(
    options: PredictOptions, further: Sequence[str], ensemble: bool, console: Console
) -> list[tuple[Path, PredictedFile]]:
    """Predict a split with the adapters of several runs; returns what was written, file by file.

    Args:
        options: The first run, corpus, split and output file. Without an ensemble, each run's table gets the run's name
            before the suffix.
        further: Run directories, or exports as peft, on the same base model.
        ensemble: Write one table with the mean of the distributions instead of one table a run.
        console: Console for progress.

    Raises:
        UserError: Options contradict each other, two runs have one name, or a run cannot share the base model.
    """
    from erc_llm.predictor import load

    check_options(options)
    if options.server is not None:
        raise UserError("--adapter: adapters are loaded here; leave out --endpoint and --model")
    opened = [open_run(source, options.overrides) for source in (options.source, *further)]
    names = [each.config.name for each in opened]
    if len(set(names)) < len(names):
        raise UserError(f"--adapter: the runs have the names {', '.join(names)}; expected different ones")
    if ensemble and any(each.config.scoring.decode != "score" for each in opened):
        raise UserError("--ensemble: averages probabilities; use scoring.decode=score")
    if ensemble and options.decide in ("weighted_f1", "macro_f1", "weights") and not options.transductive:
        raise UserError(
            f"--decide {options.decide}: rules are found for one run, and an ensemble has none; add --transductive, or "
            "leave it out"
        )
    for each in opened:
        check_probabilities(options, each.config)
    predictors: list[Predictor] = []
    corpora: list[Corpus] = []
    for each in opened:  # all are loaded before any predicts, so that one that does not fit costs no prediction
        data = open_to_predict(each.config, options.corpus, options.heal_from, options.split, console)
        corpora.append(data.corpus)
        predictor = load(
            each,
            data.past,
            prior=options.prior,
            calibration=options.calibration,
            decide="probable" if ensemble else options.stored_decide,
            beside=predictors[0] if predictors else None,
        )
        predictors.append(predictor)
    written, tables = [], []
    for name, predictor, corpus in zip(names, predictors, corpora, strict=True):
        table = predict_with_progress(predictor, corpus, options.split, console)
        if ensemble:
            tables.append(table)
            continue
        out = options.out.with_name(f"{options.out.stem}-{name}{options.out.suffix}")
        written.append((out, PredictedFile(write_table(table, replace(options, out=out)), ())))
    if ensemble:
        written.append((options.out, PredictedFile(write_table(_ensemble(tables), options), ())))
    return written


def _ensemble(tables: Sequence[Predictions]) -> Predictions:
    """The mean of the tables; its log-likelihoods are those of the mean, so nothing is left to correct or take back."""
    infos = [table.info for table in tables]
    mean = mean_prediction(tables)
    ids = hashlib.sha256("\n".join(str(info.run_id) for info in infos).encode()).hexdigest()[:8]
    uncorrected = replace(mean.info, **Correction().metadata)
    info = replace(
        uncorrected,
        system=f"ensemble of {', '.join(info.system for info in infos)}",
        run_id=f"ensemble-{ids}",
        seed=None,
        config_sha256=None,
        recipe_sha256=None,
        training_prior=None,
    )
    return replace(mean, info=info, label_mass=None)
