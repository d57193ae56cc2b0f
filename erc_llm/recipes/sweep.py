"""Sweeps: trials of a configuration with other values, through Optuna; resumable, by one worker or several.

    FOLDER/
      sweep.yaml       what is varied and how trials are scored; a sweep cannot be continued with anything else
      journal.log      Optuna's storage: every trial with its values and scores
      trials/          a run directory for each trial
      trials.csv, importance.svg, best.yaml    what came out

Workers share the trials through the journal, whether they are processes of one call, of several, or on other machines.

Input: a configuration and a search space. Output: the folder above.
Does not depend on: how a trial is run and scored.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from rich.console import Console

from erc_llm.errors import ConfigError, RunError, UserError
from erc_llm.files import write_text
from erc_llm.recipes.console import print_warning
from erc_llm.recipes.side_by_side import refuse_launcher, run_side_by_side, visible_gpus
from erc_llm.recipes.sweep_report import ended
from erc_llm.recipes.sweep_space import Space, read_space
from erc_llm.recipes.sweep_trials import Sweep, give_back, lock, open_study, run_trials

if TYPE_CHECKING:
    import optuna

__all__ = ["SWEEP", "Sweep", "sweep"]

SWEEP = "sweep.yaml"
_IN_A_ROW = 3  # workers killed without a trial that ended in between, after which a sweep ends; or one for each worker


def sweep(options: Sweep, console: Console | None = None, workers: int | None = None) -> optuna.Study:
    """Run trials until there are as many as asked for; the report is written after each.

    Args:
        options: The sweep.
        console: Where to show progress.
        workers: Number of trials at a time, each in a process of its own with a GPU or an equal part of the cores; its
            folds are trained one after the other. None: one per GPU, without any one. One runs in this process.

    Raises:
        UserError: Optuna is not installed.
        ConfigError: The search space does not fit the configuration, the selection split is not scored, or a launcher
            started this.
        RunError: The folder holds another sweep, trials fail one after the other, or their workers are killed.
    """
    console = console or Console()
    _require_optuna()
    refuse_launcher("sweep", "trial")
    space = read_space(options.space, options.base)
    if options.folds is None and not options.base().holds_out_selection:
        raise ConfigError("training.evaluations=0 scores nothing; leave it out, or score trials by --folds 5")
    _claim(options, space)
    at_once = min(workers or len(visible_gpus()) or 1, options.trials)
    if at_once == 1:
        run_trials(options, space, None, console)
    else:
        jobs = {f"worker-{number}": (options, space, 1) for number in range(1, at_once + 1)}
        killed = _Killed(options, at_once, console)
        run_side_by_side(run_trials, jobs, at_once, lambda name, left: None, on_killed=killed, quiet=console.quiet)
    return open_study(options)


class _Killed:
    """Gives the trial of a killed worker back; ends a sweep in which workers are killed and no trial ends.

    Args:
        options: The sweep.
        workers: Number of its workers.
        console: Where to show that a worker was killed.
    """

    def __init__(self, options: Sweep, workers: int, console: Console) -> None:
        self._options = options
        self._most = max(_IN_A_ROW, workers)
        self._console = console
        self._in_a_row = 0
        self._ended = 0

    def __call__(self, name: str, process: int) -> None:
        give_back(self._options, process)
        before, self._ended = self._ended, len(ended(open_study(self._options)))
        self._in_a_row = self._in_a_row + 1 if self._ended == before else 1
        if self._in_a_row > self._most:
            raise RunError(
                f"{self._options.folder}: {self._in_a_row} workers were killed and no trial ended in between, perhaps "
                "for lack of memory; the same command with fewer --workers continues in less memory"
            )
        text = f"{name} was killed, perhaps for lack of memory; it starts again, and its trial goes on"
        print_warning(text, self._console)


def _require_optuna() -> None:
    if find_spec("optuna") is None:
        raise UserError("a sweep needs Optuna, which is not installed: pip install 'erc-llm[scale]'")


def _claim(options: Sweep, space: Space) -> None:
    """Write what the sweep is; refuse a folder with another one."""
    path, wanted = options.folder / SWEEP, options.described(space)
    options.folder.mkdir(parents=True, exist_ok=True)
    with lock(options.folder, "claim"):
        if not path.is_file():
            write_text(path, wanted, RunError)
        elif path.read_text("utf-8") != wanted:
            raise RunError(
                f"{path}: this folder holds a sweep with another configuration, search space or metric; choose another "
                "--out"
            )
