"""Cross-fitting: trains a model per fold of train, each blind to its fold, and joins what they predict of it.

Every target of train gets a distribution from a model that never saw its episode. The run directory that is written
holds this table, an adapter that is the average of all folds' adapters, and what was fitted on the table: a calibration
and decision rules.

    runs/NAME/              a run like any other, with
      crossfit.parquet      the out-of-fold table: predictions of train
      report.html           its evaluation, as one page
    runs/NAME-folds/
      fold-1/ ...           a run for each fold, with left_out.parquet: its predictions of the episodes it left out

Input: a configuration, and the number of folds. Output: the run directory.
Does not depend on: how training, prediction and averaging work; it composes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from erc_llm.baselines.baseline_config import BaselineConfig
from erc_llm.calibration.record import Decide
from erc_llm.calibration.select import FEWEST_DIALOGUES, table_hash
from erc_llm.calibration.store import read_calibration
from erc_llm.config import FoldConfig, Recipe, RunConfig
from erc_llm.corpus import Corpus, labelled_scenes
from erc_llm.corpus.dialogues import LEFT_OUT
from erc_llm.corpus.splits import episode_of, fold_episodes
from erc_llm.errors import ConfigError, CorpusError, PredictionsError, RunError
from erc_llm.files import has_files
from erc_llm.predictions import (
    Prediction,
    Predictions,
    PredictionsInfo,
    read_predictions,
    strip_text,
    write_predictions,
)
from erc_llm.recipes.average import average_id, average_runs, mean_distribution
from erc_llm.recipes.console import ConsoleProgress
from erc_llm.recipes.data import open_whole, print_warnings
from erc_llm.recipes.run_inputs import check_leak
from erc_llm.recipes.run_report import write_run_report
from erc_llm.recipes.side_by_side import jobs_at_once, refuse_launcher, run_side_by_side
from erc_llm.runs.directory import OUT_OF_FOLD, Run, read_run
from erc_llm.runs.manifest import MANIFEST, read_manifest
from erc_llm.runs.opened import open_run

C = TypeVar("C", bound=Recipe)

LEFT_OUT_TABLE = f"{LEFT_OUT}.parquet"


@dataclass(frozen=True, slots=True)
class Folds:
    """How train is divided and how the folds are run.

    Attributes:
        count: Number of folds.
        seed: Seed of the division into folds.
        at_once: Number of folds at a time; None: one per GPU, without any one per core. See `side_by_side`.
        with_text: Keep the text of the utterances in the tables.
    """

    count: int = 5
    seed: int = 13
    at_once: int | None = None
    with_text: bool = True

    @property
    def side_by_side(self) -> int:
        """Number of folds at a time."""
        return min(self.count, self.at_once or jobs_at_once(self.count))


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
        folds: The folds.
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
    runs = [read_run(Path(fold.output) / fold.name) for fold in configs]

    def complete(run: Run) -> None:
        """Write what the run directory of an average of folds has beside the adapter."""
        table, path = _out_of_fold_table(run, runs, corpus, folds.with_text), run.folder / OUT_OF_FOLD
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
        return average_runs(runs, folder, of_folds=config, replace_older=True, complete=complete)
    run = read_run(folder)
    complete(run)
    return run


def _out_of_fold_table(run: Run, folds: Sequence[Run], corpus: Corpus, with_text: bool) -> Predictions:
    """The out-of-fold table of an average, from the tables of its folds."""
    tables = [read_predictions(fold.folder / LEFT_OUT_TABLE) for fold in folds]
    info = joined_info([table.info for table in tables], run.config, run.manifest.run_id)
    return join_folds(tables, corpus, replace(info, split="train"), with_text)


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


def joined_info(of_folds: Sequence[PredictionsInfo], config: Recipe, run_id: str) -> PredictionsInfo:
    """Metadata of a table that joins those of the folds: the same split, all folds."""

    def mean(distributions: Sequence[tuple[float, ...] | None]) -> tuple[float, ...] | None:
        known = [values for values in distributions if values is not None]
        return mean_distribution(known) if known else None

    return replace(
        of_folds[0],
        system=config.name,
        folds=len(of_folds),
        run_id=run_id,
        config_sha256=config.sha256,
        recipe_sha256=config.recipe_sha256,
        train_shares=mean([info.train_shares for info in of_folds]),
        training_prior=mean([info.training_prior for info in of_folds]),
    )


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


def folds_folder(config: Recipe) -> Path:
    """The folder of the runs of a cross-fitting's folds."""
    return Path(config.output) / f"{config.name}-folds"


def fold_configs(config: C, folds: Folds) -> list[C]:
    """The configuration of each fold's run."""
    found = []
    for number in range(1, folds.count + 1):
        fold = FoldConfig(number=number, folds=folds.count, seed=folds.seed)
        corpus = config.corpus.model_copy(update={"fold": fold})
        own = {"name": f"fold-{number}", "output": str(folds_folder(config)), "corpus": corpus}
        found.append(config.model_copy(update=own))
    return found


def describe(corpus: Corpus, folds: Folds, config: RunConfig | BaselineConfig, console: Console) -> None:
    """Print the size of the folds, and how much is trained and predicted in all.

    Raises:
        CorpusError: Train has fewer episodes than folds.
    """
    parts = fold_episodes(corpus, folds.count, folds.seed)
    scenes, epochs, most = corpus.split("train"), config.training.epochs, config.training.max_scenes
    left_out = [[d for d in scenes if episode_of(d) in part] for part in parts]
    targets = [sum(len(d.targets) for d in fold) for fold in left_out]
    selected = config.corpus.selection_fraction if config.holds_out_selection else 0.0
    kept = [round((len(scenes) - len(fold)) * (1 - selected)) for fold in left_out]
    trained = epochs * sum(min(of_fold, most or of_fold) for of_fold in kept)
    for line in (
        f"{folds.count} folds of {len(scenes)} training scenes in {sum(map(len, parts))} episodes, "
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


def is_predicted(path: Path, run_id: str, corpus_sha256: str) -> bool:
    """Whether a table is there, by this run and of this corpus."""
    if not path.is_file():
        return False
    info = read_predictions(path).info
    return (info.run_id, info.corpus_sha256) == (run_id, corpus_sha256)


def join_folds(tables: Sequence[Predictions], corpus: Corpus, info: PredictionsInfo, with_text: bool) -> Predictions:
    """The out-of-fold table: each target of train as predicted by the fold that left it out, without correction.

    Args:
        tables: The folds' tables of the episodes that they left out.
        corpus: The whole corpus.
        info: Metadata of the table.
        with_text: Keep the text of the utterances.

    Raises:
        PredictionsError: The tables do not hold every target of train exactly once.
    """
    rows = {key: (table, row) for table in tables for row, key in enumerate(table.keys)}
    dialogues = corpus.split("train")
    wanted = [(d.id, d.utterances[k].id) for d in dialogues for k in d.targets]
    if set(wanted) != rows.keys() or sum(map(len, tables)) != len(wanted):
        raise PredictionsError(
            f"the folds' tables hold {sum(map(len, tables))} targets, train has {len(wanted)}: the corpus has changed "
            "since; choose another name="
        )
    predictions = (_prediction(*rows[key]) for key in wanted)
    joined = Predictions.from_corpus(info, dialogues, predictions, corpus.dialogues(), corpus.generic)
    return joined if with_text else joined.without_text()


def _prediction(table: Predictions, row: int) -> Prediction:
    """One row of a table that was written by scores."""

    def values(column: NDArray[np.float64] | None) -> list[float] | None:
        return None if column is None else column[row].tolist()

    return Prediction(
        predicted=table.predicted[row],
        log_likelihoods=values(table.log_likelihoods),
        probabilities=values(table.probabilities),
        label_mass=None if table.label_mass is None else float(table.label_mass[row]),
    )
