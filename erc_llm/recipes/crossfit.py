"""Cross-fitting: trains a model per fold of train, each blind to its fold, and joins what they predict of it.

Every target of train gets a distribution from a model that never saw its episode. The run directory that is written
holds this table, an adapter that is the average of all folds' adapters, and what was fitted on the table: a calibration
and decision rules.

    runs/NAME/              a run like any other, with
      crossfit.parquet      the out-of-fold table: predictions of train
      report.html           its evaluation, as one page
    runs/NAME-folds/
      fold-1/ ...           a run for each fold, with left_out.parquet: its predictions of the episodes it left out
      left_out.parquet      what the first folds left out, where only these were trained (`screen`)

Input: a configuration, and the number of folds. Output: the run directory, or the table of the first folds.
Does not depend on: how training, prediction and averaging work; it composes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from erc_llm.baselines.baseline_config import BaselineConfig
from erc_llm.calibration.record import Decide
from erc_llm.calibration.select import FEWEST_DIALOGUES, table_hash
from erc_llm.calibration.store import read_calibration
from erc_llm.config import Recipe, RunConfig
from erc_llm.corpus import Corpus, labelled_scenes
from erc_llm.corpus.dialogues import LEFT_OUT
from erc_llm.corpus.splits import episode_of
from erc_llm.errors import ConfigError, CorpusError, RunError
from erc_llm.files import has_files
from erc_llm.predictions import Predictions, read_predictions, strip_text, write_predictions
from erc_llm.recipes.average import average_id, average_runs
from erc_llm.recipes.console import ConsoleProgress
from erc_llm.recipes.crossfit_folds import (
    LEFT_OUT_TABLE,
    Folds,
    first_folds_table,
    fold_configs,
    folds_folder,
    is_predicted,
    join_folds,
)
from erc_llm.recipes.data import open_whole, print_warnings
from erc_llm.recipes.run_inputs import check_leak
from erc_llm.recipes.run_report import write_run_report
from erc_llm.recipes.side_by_side import refuse_launcher, run_side_by_side
from erc_llm.runs.directory import OUT_OF_FOLD, Run, read_run
from erc_llm.runs.manifest import MANIFEST, read_manifest
from erc_llm.runs.opened import open_run


def crossfit(
    config: RunConfig,
    folds: Folds,
    *,
    decide: Decide | None = "weighted_f1",
    resume: bool = False,
    console: Console | None = None,
    control: bool = False,
) -> Run:
    """Train the folds that are not finished, and write the run directory of their average, with its calibration.

    Args:
        config: The configuration of every fold.
        folds: The folds; all of them are trained.
        decide: Name of the decision rule that predictions use unless another one is asked for; None: they use no
            calibration and no rule.
        resume: Continue an unfinished cross-fitting of the same configuration.
        console: Where to show progress.
        control: Whether the configuration may be a control with a leak (`retrieval.leak`). Its table is evidence, its
            run cannot be used.

    Raises:
        RunError: A folder exists and `resume` is False, or it holds other runs.
        ConfigError: The configuration leaves a fold out itself, its answers have no scores, or a launcher started this.
        CorpusError: Train has fewer episodes than folds, or too few dialogues to calibrate on.
        PredictionsError: The corpus has changed since the folds were predicted.
        UserError: Training or prediction of a fold failed.
    """
    from erc_llm.calibration.choose import prior_shift
    from erc_llm.recipes.calibrate import calibrate_run

    console = console or Console()
    folds = replace(folds, first=None)
    corpus, runs = _train_folds(config, folds, resume, console, control)

    def complete(run: Run) -> None:
        """Write what the run directory of an average of folds has beside the adapter."""
        table, path = _joined_table(runs, corpus, folds, run.config, run.manifest.run_id), run.folder / OUT_OF_FOLD
        calibrated = _is_calibrated(run, table)
        if calibrated and path.is_file():
            before = read_predictions(path)
            table = table.with_neighbours(before.neighbours, before.info.neighbours)
        write_predictions(table, path)
        write_run_report(run.folder, config.name, ConsoleProgress(console), path, decide)
        if not calibrated:
            calibrate_run(run, table, OUT_OF_FOLD, prior_shift(run.manifest, "auto"), "nll", 0, console, decide)

    folder = Path(config.output) / config.name
    if not (folder / MANIFEST).is_file() or read_run(folder).manifest.run_id != average_id(runs, config.name):
        run = average_runs(runs, folder, of_folds=config, replace_older=True, complete=complete)
    else:
        run = read_run(folder)
        complete(run)
    first_folds_table(config).unlink(missing_ok=True)
    return run


def screen(
    config: RunConfig, folds: Folds, *, resume: bool = False, console: Console | None = None, control: bool = False
) -> Path:
    """Train the first folds only, and join what they predict of the episodes that they left out.

    A cross-fitting of the same configuration goes on from them.

    Args:
        config: The configuration of every fold.
        folds: The folds, and how many of them to train.
        resume: As in `crossfit`.
        console: Where to show progress.
        control: As in `crossfit`.

    Returns:
        The table that was written, of the lines that these folds left out.

    Raises:
        UserError: As in `crossfit`.
    """
    corpus, runs = _train_folds(config, folds, resume, console or Console(), control)
    path = first_folds_table(config)
    write_predictions(_joined_table(runs, corpus, folds, config, average_id(runs, config.name)), path)
    return path


def _train_folds(
    config: RunConfig, folds: Folds, resume: bool, console: Console, control: bool
) -> tuple[Corpus, list[Run]]:
    """Check everything, and train the folds that are not finished; the whole corpus and the runs of the folds."""
    check_folder(config, resume)
    if not control:
        check_leak(config)
    if config.scoring.decode != "score":
        raise ConfigError(f"scoring.decode={config.scoring.decode}: cross-fitting needs scores; leave it out")
    corpus = open_whole(config, None)
    check_can_calibrate(corpus)
    print_warnings(corpus, console)
    describe(corpus, folds, config, console)
    configs = fold_configs(config, folds)
    for fold in configs:
        _check_classes(fold, corpus)
    run_folds(partial(_train_fold, corpus.sha256), configs, folds, console)
    return corpus, [read_run(Path(fold.output) / fold.name) for fold in configs]


def _joined_table(runs: Sequence[Run], corpus: Corpus, folds: Folds, config: Recipe, run_id: str) -> Predictions:
    """The table of what these folds left out, from their own tables."""
    return join_folds([read_predictions(run.folder / LEFT_OUT_TABLE) for run in runs], corpus, folds, config, run_id)


def _is_calibrated(run: Run, table: Predictions) -> bool:
    """Whether the run has a calibration of this table; the user may have made another one of it, which stays."""
    try:
        return read_calibration(run).table_sha256 == table_hash(table)
    except RunError:
        return False


def check_can_calibrate(corpus: Corpus) -> None:
    """Refuse a corpus with too few dialogues for the calibration at the end, before anything is trained."""
    labelled = len(labelled_scenes(corpus, None, 0))
    if labelled < FEWEST_DIALOGUES:
        raise CorpusError(
            f"corpus '{corpus.name}': train has {labelled} labelled dialogues; cross-fitting needs {FEWEST_DIALOGUES} "
            "or more, over which its calibration is cross-validated"
        )


def _check_classes(fold: RunConfig, corpus: Corpus) -> None:
    """Refuse a fold whose training scenes lack a class that is to be balanced, before any fold is trained."""
    from erc_llm.build import training_view
    from erc_llm.recipes.train import target_sampler

    try:
        scenes = labelled_scenes(training_view(corpus, fold), fold.training.max_scenes, fold.seed)
        target_sampler(fold.sampling, scenes, fold.label_set(), fold.seed)
    except CorpusError as error:
        raise CorpusError(f"{fold.name}: {error}") from error


def check_folder(config: Recipe, resume: bool) -> None:
    """Refuse to continue without `resume`, to replace another run, and a configuration that leaves a fold out itself.

    Raises:
        RunError: A folder exists already, or holds a run that is no cross-fitting.
        ConfigError: `corpus.fold` is set, or a launcher started several processes.
    """
    refuse_launcher("crossfit", "fold")
    if config.corpus.fold is not None:
        raise ConfigError("corpus.fold: cross-fitting sets it for each fold; leave it out")
    folder = Path(config.output) / config.name
    for found in (folder, folds_folder(config)):
        if found.exists() and not resume:
            raise RunError(f"{found}: exists already; add --resume, or choose another name=")
    cross_fitted = (folder / MANIFEST).is_file() and read_manifest(folder).folds is not None
    if has_files(folder) and not cross_fitted and not (folder / OUT_OF_FOLD).is_file():
        raise RunError(
            f"{folder}: contains something else, not a cross-fitting, so it is not replaced; remove it, or choose "
            "another name="
        )


def describe(corpus: Corpus, folds: Folds, config: RunConfig | BaselineConfig, console: Console) -> None:
    """Print the size of the folds, and how much is trained and predicted in all.

    Raises:
        CorpusError: Train has fewer episodes than folds.
    """
    parts = folds.parts(corpus)
    scenes, epochs, most = corpus.split("train"), config.training.epochs, config.training.max_scenes
    left_out = [[d for d in scenes if episode_of(d) in part] for part in parts]
    targets = [sum(len(d.targets) for d in fold) for fold in left_out]
    selected = config.corpus.selection_fraction if config.holds_out_selection else 0.0
    kept = [round((len(scenes) - len(fold)) * (1 - selected)) for fold in left_out]
    trained = epochs * sum(min(of_fold, most or of_fold) for of_fold in kept)
    first = f"the first {folds.trained} of " if folds.trained < folds.count else ""
    for line in (
        f"{first}{folds.count} folds of {len(scenes)} training scenes in {len(set(map(episode_of, scenes)))} episodes, "
        f"{folds.side_by_side} at a time; targets left out: {', '.join(map(str, targets))}",
        f"to do: train on about {trained:.0f} scenes, as in {trained / len(scenes):.1f} epochs of all of train; "
        f"predict {sum(targets)} targets once",
    ):
        console.print(line, highlight=False, soft_wrap=True)


def run_folds(job: Callable[..., None], configs: Sequence[Recipe], folds: Folds, console: Console) -> None:
    """Run `job(config, with_text, console)` for each fold, side by side where there are several GPUs or cores."""
    began = time.monotonic()

    def show(name: str, left: int) -> None:
        minutes = (time.monotonic() - began) / 60
        done = f"{name} is done: {len(configs) - left} of {len(configs)}, after {minutes:.1f} min"
        console.print(done, highlight=False, soft_wrap=True)

    jobs = {config.name: (config, folds.with_text) for config in configs}
    run_side_by_side(job, jobs, folds.side_by_side, show, file=console.file, quiet=console.quiet)


def _train_fold(corpus_sha256: str, config: RunConfig, with_text: bool, console: Console) -> None:
    """Train one fold, and predict the episodes that it left out, unless that was done with the same corpus."""
    from erc_llm.opened_model import load_model
    from erc_llm.predictor import Predictor
    from erc_llm.recipes.predict import open_to_predict, predict_with_progress
    from erc_llm.recipes.train import train

    run = train(config, resume=True, console=console)
    path = run.folder / LEFT_OUT_TABLE
    if is_predicted(path, run.manifest.run_id, corpus_sha256):
        if not with_text:
            strip_text(run.folder)
        return
    data = open_to_predict(config, None, None, LEFT_OUT, console)
    opened = open_run(run.folder, control=True)
    predictor = Predictor(opened, load_model(opened), data.past)
    table = predict_with_progress(predictor, data.corpus, LEFT_OUT, console)
    write_predictions(table if with_text else table.without_text(), path)
