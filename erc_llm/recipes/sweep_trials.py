"""The trials of a sweep: one worker takes trials, runs and scores them until there are as many as asked for.

A trial is scored on the selection split, where bad ones are stopped early, or by cross-fitting. A trial whose worker
has died is continued by the next worker, in the same run directory.

Input: a sweep's options and its search space. Output: trials in the sweep's journal, their run directories, its report.
Does not depend on: how training works, how many workers there are.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import yaml
from rich.console import Console

from erc_llm.config import RunConfig, load_config
from erc_llm.errors import RunError, UserError
from erc_llm.recipes.console import print_warning
from erc_llm.recipes.sweep_report import write_report
from erc_llm.recipes.sweep_space import Space, suggest

if TYPE_CHECKING:
    import optuna
    from filelock import BaseFileLock

Metric = Literal["nll", "weighted_f1", "macro_f1"]
JOURNAL, TRIALS = "journal.log", "trials"
# Attributes of a trial: number of the trial whose run directory it uses, its worker, and how many workers it has lost.
_CONTINUES, _WORKER, _KILLED = "continues", "worker", "killed"
_MOST_KILLED = 2  # a trial that loses so many workers is taken for their killer, and counts as failed
_PATIENCE = 30.0  # seconds until the processes that pack forests for a killed worker have ended, and its lock with them
_MOST = 100_000  # trials of a sweep, so that seeds of different sweeps differ
_STARTUP = 3  # trials before any is stopped early


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a sweep varies, and how it scores.

    Attributes:
        config: Name or file of the configuration that is varied.
        overrides: `key=value` texts for every trial.
        space: The file of the search space.
        trials: Number of trials in all, those of earlier calls included.
        metric: What is to be lowest (`nll`) or highest.
        folds: Score by cross-fitting with so many folds; None: on the selection split.
        seed: Seed of the values that are tried.
        folder: The folder of the sweep.
    """

    config: str
    overrides: tuple[str, ...]
    space: Path
    trials: int
    metric: Metric
    folds: int | None
    seed: int
    folder: Path

    def base(self, further: list[str] | None = None) -> RunConfig:
        """The configuration of a trial with these values."""
        return load_config(self.config, [*self.overrides, *(further or [])])

    def described(self, space: Space) -> str:
        """The content of `sweep.yaml`."""
        fields = {name: field.model_dump(mode="json") for name, field in space.items()}
        content = {
            "metric": self.metric,
            "folds": self.folds,
            "seed": self.seed,
            "space": fields,
            "config": self.base().result_fields(),
        }
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def open_study(options: Sweep) -> optuna.Study:
    """The study of a sweep, which is created if there is none."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(
        storage=optuna.storages.JournalStorage(JournalFileBackend(str(options.folder / JOURNAL))),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_STARTUP),
        study_name="sweep",
        direction="minimize" if options.metric == "nll" else "maximize",
        load_if_exists=True,
    )


def run_trials(options: Sweep, space: Space, folds_at_once: int | None, console: Console) -> None:
    """Run trials until there are as many as asked for; the report is written after each.

    Args:
        options: The sweep.
        space: Its search space.
        folds_at_once: Folds of a trial at a time; None: one per GPU, without any one per core.
        console: Where to show progress.

    Raises:
        RunError: More trials failed than ended.
    """
    study = open_study(options)
    while (trial := _begin(study, options)) is not None:
        _run_trial(study, trial, options, space, folds_at_once, console)
        with lock(options.folder, "report"):
            write_report(options.folder, study, options.base, options.metric)


def give_back(options: Sweep, worker: int) -> None:
    """Put the trial of a killed worker back at the front, and note that it has lost a worker.

    Args:
        options: The sweep.
        worker: Process id of the worker, which ran on this machine.
    """
    with lock(options.folder, "ask"):
        _rescue(open_study(options), options.folder, _name_of(worker))


def _name_of(process: int) -> str:
    """A worker's name in the journal, which machines share."""
    return f"{platform.node()} {process}"


def _begin(study: optuna.Study, options: Sweep) -> _Trial | None:
    """The next trial, or None if there are as many as asked for. Trials of dead workers come first.

    Raises:
        RunError: More trials failed than ended.
    """
    from optuna.samplers import TPESampler
    from optuna.trial import TrialState

    with lock(options.folder, "ask"):
        _rescue(study, options.folder)
        trials = study.get_trials(deepcopy=False)
        states = [trial.state for trial in trials]
        ended = states.count(TrialState.COMPLETE) + states.count(TrialState.PRUNED)
        failed = [trial for trial in trials if "error" in trial.user_attrs]
        if len(failed) > max(_STARTUP, ended):
            raise RunError(f"{options.folder}: {len(failed)} trials failed; the last: {failed[-1].user_attrs['error']}")
        if ended + states.count(TrialState.RUNNING) >= options.trials:
            return None
        # Each trial has a seed of its own; with that of the sweep every worker would begin with the same values.
        study.sampler = TPESampler(seed=options.seed * _MOST + len(states), constant_liar=True)
        asked = study.ask()
        own = lock(options.folder, f"trial-{asked.number}")
        own.acquire(timeout=0)
        asked.set_user_attr(_WORKER, _name_of(os.getpid()))
        number, killed = asked.user_attrs.get(_CONTINUES, asked.number), asked.user_attrs.get(_KILLED, 0)
        return _Trial(asked, own, int(number), int(killed))


@dataclass(frozen=True, slots=True)
class _Trial:
    """A trial of this worker.

    Attributes:
        asked: Optuna's trial.
        lock: Held while the worker lives.
        number: Number in the name of the run directory.
        killed: Number of workers that were killed with this trial.
    """

    asked: optuna.Trial
    lock: BaseFileLock
    number: int
    killed: int


def _rescue(study: optuna.Study, folder: Path, killed: str | None = None) -> None:
    """Put the trials of workers that have died back at the front; `killed` is a worker that is known to be dead."""
    from filelock import Timeout
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        was_killed = killed is not None and trial.user_attrs.get(_WORKER) == killed
        try:
            with lock(folder, f"trial-{trial.number}").acquire(timeout=_PATIENCE if was_killed else 0):
                study.tell(trial.number, state=TrialState.FAIL)
                kept = {
                    _CONTINUES: trial.user_attrs.get(_CONTINUES, trial.number),
                    _KILLED: trial.user_attrs.get(_KILLED, 0) + was_killed,
                }
                study.enqueue_trial(trial.params, kept)
        except Timeout:
            continue  # its worker lives


def lock(folder: Path, name: str) -> BaseFileLock:
    """A lock between workers, which ends with the process that holds it."""
    from filelock import FileLock

    (folder / ".locks").mkdir(parents=True, exist_ok=True)
    return FileLock(folder / ".locks" / f"{name}.lock")


def _run_trial(
    study: optuna.Study, trial: _Trial, options: Sweep, space: Space, folds_at_once: int | None, console: Console
) -> None:
    from optuna.trial import TrialState

    values = suggest(space, trial.asked)
    trial.asked.set_user_attr("overrides", values)
    name = f"trial-{trial.number:03d}"
    console.rule(f"{name}: {' '.join(values)}")
    config = options.base([*values, f"output={options.folder / TRIALS}", f"name={name}"])
    try:
        if trial.killed >= _MOST_KILLED:
            raise RunError(f"{trial.killed} workers were killed with it, perhaps for lack of memory")
        score, stopped = _score(config, options, trial.asked, folds_at_once, console)
    except UserError as error:
        trial.asked.set_user_attr("error", str(error))
        study.tell(trial.asked, state=TrialState.FAIL)
        print_warning(f"{name} failed: {error}", console)
    else:
        if stopped:
            study.tell(trial.asked, state=TrialState.PRUNED)
        else:
            study.tell(trial.asked, score)
        console.print(f"{name}: {options.metric} {score:.4f}{', stopped early' if stopped else ''}", markup=False)
    finally:
        trial.lock.release()


def _score(
    config: RunConfig, options: Sweep, asked: optuna.Trial, folds_at_once: int | None, console: Console
) -> tuple[float, bool]:
    """The score of a trial, and whether it was stopped early."""
    if options.folds is not None:
        return _crossfitted(config, options.folds, folds_at_once, options.metric, console), False
    from erc_llm.recipes.train import train
    from erc_llm.runs.logs import SELECTION_LOG, read_lines

    stopped = False

    def stop_early(step: int, metrics: Mapping[str, float]) -> bool:
        nonlocal stopped
        asked.report(metrics[options.metric], step)
        stopped = asked.should_prune()
        return stopped

    run = train(config, resume=True, console=console, watch=stop_early)
    scores = [record[options.metric] for record in read_lines(run.folder / SELECTION_LOG)]
    best: Callable[..., float] = min if options.metric == "nll" else max
    return best(scores, default=math.nan), stopped


def _crossfitted(config: RunConfig, folds: int, at_once: int | None, metric: Metric, console: Console) -> float:
    """The metric of all of train, each line predicted, calibrated and decided by what never saw its episode."""
    from erc_llm.calibration.select import decide_held_out
    from erc_llm.metrics import confusion, gold_surprise, scores_from_confusion
    from erc_llm.predictions import corpus_shift, read_predictions
    from erc_llm.recipes.crossfit import crossfit
    from erc_llm.recipes.crossfit_folds import Folds
    from erc_llm.runs.directory import OUT_OF_FOLD

    run = crossfit(config, Folds(folds, at_once=at_once), resume=True, console=console)
    table = read_predictions(run.folder / OUT_OF_FOLD)
    shift = corpus_shift(table.info.training_prior, table.info.train_shares)
    rule: Literal["weighted_f1", "macro_f1"] = "macro_f1" if metric == "macro_f1" else "weighted_f1"
    decided = decide_held_out(table, shift, rule, calibrated=True)
    if metric == "nll":
        assert decided.probabilities is not None, "a decided table has probabilities"
        return float(gold_surprise(decided.probabilities, decided.gold_index).mean())
    scores = scores_from_confusion(confusion(decided.gold_index, decided.predicted_index, len(table.info.labels)))
    return float(getattr(scores, metric))
