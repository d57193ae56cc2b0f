"""What came out of a sweep: a table of its trials, the importance of each field, and the best configuration.

Input: an Optuna study. Output: `trials.csv`, `importance.svg` and `best.yaml` in the sweep's folder.
Does not depend on: how trials are run.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from erc_llm.config import RunConfig
from erc_llm.errors import RunError
from erc_llm.files import write_text, write_whole

if TYPE_CHECKING:
    import optuna

TABLE, IMPORTANCE, BEST = "trials.csv", "importance.svg", "best.yaml"
_FEWEST = 4  # trials that ended, below which the importance of a field says nothing


def ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that were scored, those that were stopped early included."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def write_report(folder: Path, study: optuna.Study, configure: Callable[[list[str]], RunConfig], metric: str) -> None:
    """Write the three files.

    Args:
        folder: The sweep's folder.
        study: The study.
        configure: The configuration with the `key=value` texts of a trial.
        metric: Name of what trials are scored by.

    Raises:
        RunError: A file cannot be written.
    """
    trials = ended(study)
    write_text(folder / TABLE, _table(trials, metric), RunError)
    if any(trial.value is not None for trial in trials):
        base = configure(list(study.best_trial.user_attrs["overrides"]))
        best = base.model_copy(update={"tried": base.tried + len(trials) - 1})
        head = f"# Best of {len(trials)} trials, by {metric}: {study.best_value:.4f}\n"
        write_text(folder / BEST, head + best.as_yaml(), RunError)
    found = importance(study)
    if found:
        _draw(found, folder / IMPORTANCE)


def importance(study: optuna.Study) -> Mapping[str, float]:
    """Importance of each field, largest first, adding up to 1; empty if too few trials have ended."""
    import optuna

    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(complete) < _FEWEST:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _table(trials: list[optuna.trial.FrozenTrial], metric: str) -> str:
    """The trials as CSV, in their order; of one that was stopped early, the latest score."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["trial", "state", metric, *names, "seconds"])
    for trial in trials:
        score = trial.value if trial.value is not None else next(reversed(trial.intermediate_values.values()), None)
        seconds = None if trial.duration is None else round(trial.duration.total_seconds(), 1)
        values = [str(trial.params.get(name, "")).strip() for name in names]
        rows.writerow([trial.number, trial.state.name.lower(), score, *values, seconds])
    return text.getvalue()


def _draw(found: Mapping[str, float], path: Path) -> None:
    """A bar for every field."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 0.8 + 0.4 * len(found)), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(found)[::-1], list(found.values())[::-1])
    axes.set_xlabel("importance (PED-ANOVA)")
    axes.set_xlim(0, 1)
    write_whole(path, lambda file: figure.savefig(file, format="svg"), RunError)
