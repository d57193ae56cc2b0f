"""Cross-fitting of a baseline: trains a model per fold of train, each blind to its fold, and joins their predictions.

    runs/NAME/              config.yaml, and
      crossfit.parquet      the out-of-fold table: predictions of train
      report.html           its evaluation, as one page
      SPLIT.parquet         predictions of another split: the mean over the folds' models, decided for weighted F1
    runs/NAME-folds/
      fold-1/ ...           a run for each fold, with left_out.parquet and SPLIT.parquet
      left_out.parquet      what the first folds left out, where only these were trained

Input: a configuration, the number of folds, and splits to predict. Output: predictions tables.
Does not depend on: how baselines are trained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from erc_llm.baselines.baseline_config import BaselineConfig
from erc_llm.calibration.choose import correction_from
from erc_llm.calibration.record import F1Decide
from erc_llm.corpus.dialogues import LEFT_OUT, PARTS_OF_TRAIN
from erc_llm.errors import ConfigError, RunError
from erc_llm.files import write_text
from erc_llm.predictions import Correction, correct, read_predictions, write_predictions
from erc_llm.predictions.mean import mean_prediction
from erc_llm.recipes.console import ConsoleProgress
from erc_llm.recipes.crossfit import check_can_calibrate, check_folder, describe, run_folds
from erc_llm.recipes.crossfit_folds import (
    LEFT_OUT_TABLE,
    Folds,
    first_folds_table,
    fold_configs,
    is_predicted,
    join_folds,
    joined_info,
)
from erc_llm.recipes.data import open_corpus, print_warnings
from erc_llm.recipes.run_report import write_run_report
from erc_llm.runs.directory import CONFIG, OUT_OF_FOLD


def crossfit_baseline(
    config: BaselineConfig,
    folds: Folds,
    splits: Sequence[str],
    *,
    decide: F1Decide = "weighted_f1",
    resume: bool = False,
    console: Console | None = None,
) -> list[Path]:
    """Train the folds that are not finished, and write the out-of-fold table and those of other splits.

    Args:
        config: The configuration of every fold.
        folds: The folds. If only the first of them are trained, nothing is written but their table.
        splits: Names of other splits to predict; all folds are needed for them.
        decide: The decision rule of their answers, found on the out-of-fold table with a calibration.
        resume: Continue an unfinished cross-fitting of the same configuration.
        console: Where to show progress.

    Raises:
        RunError: A folder exists and `resume` is False, or it holds other runs.
        ConfigError: The configuration leaves a fold out itself, a split is a part of train, or is to be predicted by a
            part of the folds.
        CorpusError: Train has fewer episodes than folds, too few dialogues to calibrate on, or no such split exists.
        UserError: Training or prediction of a fold failed.
    """
    console = console or Console()
    check_folder(config, resume)
    if splits and folds.trained < folds.count:
        raise ConfigError(f"--predict {splits[0]}: is the mean over all folds; leave out --first, or --predict")
    corpus = open_corpus(config.corpus, config.label_set(), cut_selection=False)
    for split in splits:
        if split in PARTS_OF_TRAIN:
            raise ConfigError(f"--predict {split}: {OUT_OF_FOLD} holds the predictions of train; name another split")
        corpus.split(split)
    if splits:
        check_can_calibrate(corpus)
    print_warnings(corpus, console)
    describe(corpus, folds, config, console)
    configs = fold_configs(config, folds)
    run_folds(partial(_train_fold, splits), configs, folds, console)
    found = [Path(fold.output) / fold.name for fold in configs]
    folder = Path(config.output) / config.name
    tables = [read_predictions(fold / LEFT_OUT_TABLE) for fold in found]
    ids = "\n".join(str(table.info.run_id) + str(table.info.config_sha256) for table in tables)
    run_id = f"{config.name}-{hashlib.sha256(ids.encode()).hexdigest()[:8]}"
    out_of_fold = join_folds(tables, corpus, folds, config, run_id)
    written = [folder / OUT_OF_FOLD if folds.trained == folds.count else first_folds_table(config)]
    write_predictions(out_of_fold, written[0])
    if folds.trained < folds.count:
        return written
    correction = correction_from(out_of_fold, decide) if splits else Correction()
    for split in splits:
        of_split = [read_predictions(fold / f"{split}.parquet") for fold in found]
        info = joined_info([table.info for table in of_split], config, run_id)
        written.append(folder / f"{split}.parquet")
        write_predictions(correct(replace(mean_prediction(of_split), info=info), correction), written[-1])
    write_run_report(folder, config.name, ConsoleProgress(console), written[0], decide)
    write_text(folder / CONFIG, config.as_yaml(), RunError)  # last: the folder is no cross-fitting without its table
    first_folds_table(config).unlink(missing_ok=True)
    return written


def _train_fold(splits: Sequence[str], config: BaselineConfig, with_text: bool, console: Console) -> None:
    """Train one fold, and predict the episodes that it left out, and the other splits."""
    from erc_llm.recipes.baseline import train_reported

    progress = ConsoleProgress(console)
    corpus = open_corpus(config.corpus, config.label_set())
    trained = train_reported(config, corpus, resume=True, with_text=with_text, progress=progress)
    for split in (LEFT_OUT, *splits):
        if not is_predicted(trained.folder / f"{split}.parquet", trained.manifest.run_id, corpus.sha256):
            trained.write(split, with_text=with_text, progress=progress)
