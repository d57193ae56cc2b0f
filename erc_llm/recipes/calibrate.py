"""Calibration of a run: checks that a table is its held-out selection split, then fits, reports and stores.

Input: a run, and its predictions table or corpus. Output: the run's `calibration.json`, and printed metrics.
Does not depend on: how calibrations are fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from erc_llm.calibration.neighbours import adapter_sha256, neighbourhood
from erc_llm.calibration.record import Calibration, Decide, Goal, HeldOut
from erc_llm.calibration.select import Neighbourhood, calibrate
from erc_llm.calibration.store import write_calibration
from erc_llm.corpus import Corpus
from erc_llm.corpus.dialogues import SELECTION, Dialogue
from erc_llm.errors import ConfigError, PredictionsError, RunError
from erc_llm.files import write_whole
from erc_llm.predictions import Predictions, PriorShift, read_predictions, write_predictions
from erc_llm.recipes.console import ConsoleProgress
from erc_llm.recipes.data import open_whole
from erc_llm.retrieval.approximate import Search, check_approximate
from erc_llm.retrieval.index import HiddenStates, Index, build_index
from erc_llm.retrieval.store import NEIGHBOURS, packed
from erc_llm.retrieval.vectors import HIDDEN, States
from erc_llm.runs.directory import OUT_OF_FOLD, Run, refuse_other_source
from erc_llm.runs.manifest import FINISHED


@dataclass(frozen=True, eq=False, slots=True)
class TrainLines:
    """An index over labelled lines of train, and the dialogues of the held-out table to calibrate on.

    `states` are the (targets, width) hidden states of their targets, for an index of hidden states.
    """

    index: Index
    dialogues: Sequence[Dialogue]
    states: States | None = None


_BY_SCORES = ("scoring.decode=score", "scoring.answer=label")
_OUT_OF_FOLD = f"leave --predictions out to use the run's own {OUT_OF_FOLD}"
_RULES = {
    "weighted_f1": "decided for weighted F1",
    "macro_f1": "decided for macro F1",
    "weights": "with decision weights",
}


def predict_selection(run: Run, corpus: str | None, heal_from: str | None, console: Console) -> tuple[Predictions, str]:
    """Predict a run's own selection split with raw label scores, or read the cross-fitted train of an average of folds.

    Args:
        run: The run.
        corpus: Path of its corpus; None if it is where it was during training.
        heal_from: With `corpus`, the original files.
        console: Console for progress.

    Returns:
        The predictions table, and the name of the corpus.

    Raises:
        RunError: The run was trained on the selection split too.
    """
    if run.manifest.folds is not None:
        path = run.folder / OUT_OF_FOLD
        if not path.is_file():
            raise RunError(f"{path}: is missing; `erc-llm crossfit ... --resume` writes it")
        return read_predictions(path), str(path)
    _check_held_out(run)
    from erc_llm.predictor import load
    from erc_llm.recipes.predict import open_to_predict, predict_with_progress

    data = open_to_predict(run.config, corpus, heal_from, "selection", console)
    predictor = load(run.folder, data.past, prior="none", calibration="none", overrides=_BY_SCORES)
    return predict_with_progress(predictor, data.corpus, "selection", console), data.corpus.name


def calibrate_run(
    run: Run,
    table: Predictions,
    name: str,
    prior: PriorShift | None,
    goal: Goal,
    seed: int,
    console: Console,
    decide: Decide | None = None,
    neighbours: TrainLines | None = None,
) -> Path:
    """Fit a calibration, print what it changes, and store it with the run.

    Args:
        run: The run.
        table: Its predictions of the selection split, corrected or not.
        name: Name of the table in messages.
        prior: The prior correction on top of which the calibration is fitted.
        goal: Metric to fit for.
        seed: Seed of the cross-validation folds.
        console: Console for the report.
        decide: Name of the decision rule that predictions use by default; None: no calibration and no rule.
        neighbours: Labelled lines of train, whose labels are mixed in if that lowers held-out NLL; None for none.

    Returns:
        Path of the file.

    Raises:
        PredictionsError: The table is of another run, split, corpus or label set, or has too few dialogues.
        ConfigError: No rule of the name `decide` was found.
        RunError: The file cannot be written.
    """
    check_table(run, table, name)
    around = None
    if neighbours is not None:
        around = neighbourhood(neighbours.index, table, neighbours.dialogues, neighbours.states)
    calibration = replace(calibrate(table, prior, goal, seed, around), decide=decide)
    print_held_out(calibration, console)
    if decide is not None and calibration.held_out(decide) is None:
        reason = "no weights raised held-out weighted F1" if goal == "weighted_f1" else "it needs --fit-for weighted_f1"
        raise ConfigError(f"decide={decide}: {reason}; choose another rule; nothing was stored")
    _store_neighbours(run, calibration, table, neighbours, around)
    return write_calibration(run, calibration)


def read_train_lines(
    run: Run, encoder: str, search: Search, corpus: str | None, heal_from: str | None, console: Console
) -> TrainLines:
    """The labelled lines of a run's train, as an index, and the dialogues of its held-out table.

    Args:
        run: The run.
        encoder: `words`, the name of an encoder, or `hidden`: the model's own hidden state at each question.
        search: How the index is searched.
        corpus: Path of its corpus; None if it is where it was during training.
        heal_from: With `corpus`, the original files.
        console: Console for progress.

    Raises:
        RunError: The corpus is not the one that the run was trained on, or the run held nothing out.
        ModelError: The encoder is missing or cannot be loaded, or the library of approximate search is missing.
        ConfigError: The run left out dialogues of train that share lines with other corpora; it is cross-fitted, and
            has no hidden states of its own; or approximate search was asked for with `words`.
    """
    from erc_llm.build import training_view

    if search == "approximate":
        check_approximate(encoder)
    if encoder == HIDDEN and run.manifest.folds is not None:
        raise ConfigError(
            f"--neighbours {HIDDEN}: {run.folder} is cross-fitted: the held-out predictions are those of its folds' "
            "models, and the hidden states in use would be those of their average, which has read every line of train; "
            "a weight fitted on the former says nothing of the latter. Use words or an encoder, or a run of `train`"
        )
    if run.manifest.folds is None:
        _check_held_out(run)
    if run.config.corpus.avoid:
        raise ConfigError(
            f"--neighbours: {run.folder} was trained apart from dialogues that share lines with other corpora "
            "(corpus.avoid), and an index of all of train would hold them; calibrate without --neighbours"
        )
    read = open_whole(run.config, corpus, heal_from)
    refuse_other_source(run, "train split than the corpus given", run.manifest.train_sha256, read.train_sha256)
    view = read if run.manifest.folds is not None else training_view(read, run.config)
    train, held_out = view.split("train"), view.split("train" if run.manifest.folds is not None else SELECTION)
    if encoder != HIDDEN:
        return TrainLines(build_index(train, view.labels, encoder, read.train_sha256, search), held_out)
    states = _hidden_states(run, read, [*train, *held_out], console)
    lines = sum(len(dialogue.targets) for dialogue in train)
    known = HiddenStates(states[:lines], adapter_sha256(run))
    return TrainLines(build_index(train, view.labels, known, read.train_sha256, search), held_out, states[lines:])


def _hidden_states(run: Run, past: Corpus, dialogues: Sequence[Dialogue], console: Console) -> States:
    """(targets, width) hidden states of a run's model at the questions about every target of dialogues."""
    from erc_llm.predictor import load

    predictor = load(run.folder, past, prior="none", calibration="none", overrides=_BY_SCORES)
    with ConsoleProgress(console).bar("hidden states of train", len(dialogues), transient=True) as bar:
        scored = predictor.scores(dialogues, bar.update, states=True)
    return np.array([scores.state for scene in scored for scores in scene], dtype=np.float32)


def _store_neighbours(
    run: Run, calibration: Calibration, table: Predictions, lines: TrainLines | None, around: Neighbourhood | None
) -> None:
    """Write the index of a calibration that mixes neighbours in; remove one that is no longer used.

    The out-of-fold table of a cross-fitted run gets their labels as a column, so that rules can be measured on it.
    """
    chosen, path, column, source = calibration.neighbours, run.folder / NEIGHBOURS, None, None
    if chosen is None:
        path.unlink(missing_ok=True)
    else:
        assert lines is not None, "they were chosen among those given"
        assert around is not None, "they were chosen among those given"
        content = packed(lines.index)
        write_whole(path, lambda file: file.write(content), RunError)
        column, source = dict(around.distributions)[chosen.k, chosen.temperature], chosen.words
    stored = run.folder / OUT_OF_FOLD
    if run.manifest.folds is None or not stored.is_file():
        return
    before = read_predictions(stored)
    if before.keys == table.keys and (column is not None or before.neighbours is not None):
        write_predictions(before.with_neighbours(column, source), stored)


def check_table(run: Run, table: Predictions, name: str) -> None:
    """Refuse a table that holds what the run was trained on, or what it is evaluated on.

    That leaves the selection split of a single run, and the cross-fitted train of an average over folds.

    Raises:
        PredictionsError: The table is another one; the message lists what was found and what was expected.
        RunError: The run was trained on the selection split too.
    """
    manifest, info = run.manifest, table.info
    if manifest.folds is None:
        _check_held_out(run)
    # The train hash is compared if it is known: a corpus with a further split still has the same selection split.
    by_train = manifest.train_sha256 is not None and info.train_sha256 is not None
    hashes = (info.train_sha256, manifest.train_sha256) if by_train else (info.corpus_sha256, manifest.corpus_sha256)
    found, expected = (f"hash {str(value)[:12]}" for value in hashes)
    scoring = run.config.scoring.model_copy(update={"decode": "score"})  # calibrations are fitted on scores
    pairs = {
        "status of the run": (manifest.status, FINISHED),
        "split": (info.split, "selection" if manifest.folds is None else "train"),
        "folds": (info.folds, manifest.folds),
        "run": (info.run_id, manifest.run_id),
        "decoding": (info.decoding or "scores", scoring.decoding or "scores"),
        "labels": (", ".join(info.labels), ", ".join(manifest.labels)),
        "base model": (info.base_model_sha256, manifest.base_model_sha256),
        "template": (info.template_sha256, manifest.template_sha256),
        "train of the corpus" if by_train else "corpus": (found, expected),
    }
    wrong = [f"{what}: found {is_}, expected {wanted}" for what, (is_, wanted) in pairs.items() if is_ != wanted]
    held_out = "selection split" if manifest.folds is None else "cross-fitted train"
    if wrong:
        raise PredictionsError(
            f"{name}: not the {held_out} of {run.folder}, on which a calibration is fitted: {'; '.join(wrong)}; "
            + (
                f"`erc-llm predict {run.folder} --split selection` writes it"
                if manifest.folds is None
                else _OUT_OF_FOLD
            )
        )


def _check_held_out(run: Run) -> None:
    if not run.config.holds_out_selection:
        raise RunError(
            f"{run.folder}: was trained with training.evaluations=0, on all of train, so it has no held-out selection "
            "split for a calibration; train it with training.evaluations=1 or more"
        )


def print_held_out(calibration: Calibration, console: Console) -> None:
    """Print the chosen calibration, and the metrics on held-out dialogues without and with it."""
    about = (
        f"{calibration.targets:,} targets in {calibration.dialogues:,} {calibration.units}, {calibration.folds} folds"
    )
    console.print(f"Held-out metrics on {calibration.where}: {about}", style="bold", highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("")
    for column in ("Weighted F1 %", "Macro F1 %", "Accuracy %", "NLL", "Calibration error %"):
        table.add_column(column, justify="right", no_wrap=True)
    prior = "no prior correction" if calibration.prior is None else f"prior: {calibration.prior.name}"
    rows = {f"before ({prior})": calibration.before, "calibrated": calibration.after}
    rows |= {_RULES[stored.decision.rule]: stored.held_out for stored in calibration.decisions}
    for title, held_out in rows.items():
        table.add_row(title, *_row(held_out))
    console.print(table)
    strength = "" if calibration.strength is None else f", regularisation {calibration.strength:g}"
    console.print(f"Chosen: {calibration.kind}{strength}, temperature {calibration.temperature:.4f}", highlight=False)
    if calibration.kind == "offsets":
        _print_numbers("offsets in nats", calibration.labels, calibration.offsets, console)
    if calibration.decision_strength is not None:
        weights = calibration.correction("weights").decision
        assert weights is not None, "a strength was selected, so there are weights"
        _print_numbers("decision weights", calibration.labels, weights.gains, console)
    elif calibration.fit_for == "weighted_f1":
        console.print("No decision weights raised held-out weighted F1; none are used.", highlight=False)
    _print_neighbours(calibration, console)
    console.print("Kind and regularisation are chosen on these folds too, so the metrics are slightly optimistic.")


def _print_neighbours(calibration: Calibration, console: Console) -> None:
    if (chosen := calibration.neighbours) is not None:
        console.print(f"Neighbours: weight {chosen.weight:.3f}, {chosen.words}", markup=False, highlight=False)
    elif calibration.neighbour_candidates:
        console.print("No candidate for neighbours lowered held-out NLL; none are mixed in.", highlight=False)


def _row(held_out: HeldOut) -> tuple[str, ...]:
    percents = (held_out.weighted_f1, held_out.macro_f1, held_out.accuracy, held_out.calibration_error)
    weighted, macro, accuracy, error = ("" if value is None else f"{100 * value:.2f}" for value in percents)
    return weighted, macro, accuracy, f"{held_out.nll:.4f}", error


def _print_numbers(title: str, labels: tuple[str, ...], numbers: tuple[float, ...], console: Console) -> None:
    pairs = ", ".join(f"{label} {number:+.3f}" for label, number in zip(labels, numbers, strict=True))
    console.print(f"{title}: {pairs}", markup=False, highlight=False)
