"""End-to-end benchmark: trains the systems or reuses finished runs, predicts every available split, and compares.

Input: the systems, and a folder with `original/` and `aligned/` or one of them. Output: run directories, predictions
tables, and for each version and split a comparison. Finished runs and tables are kept, so that an interrupted benchmark
can continue.
Does not depend on: how a comparison is shown on the terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from rich.console import Console

from erc_llm.calibration.record import Goal
from erc_llm.corpus import Corpus
from erc_llm.corpus.dialogues import PARTS_OF_TRAIN
from erc_llm.errors import ConfigError, CorpusError, PredictionsError
from erc_llm.evaluation.comparison import compare
from erc_llm.evaluation.comparison_pages import write_comparison
from erc_llm.evaluation.evidence import Comparison
from erc_llm.evaluation.matching import NamedTable
from erc_llm.predictions import (
    Correction,
    Predictions,
    PredictionsInfo,
    correct,
    read_predictions,
    strip_text,
    write_predictions,
)
from erc_llm.recipes.benchmark_config import BenchmarkConfig, BenchmarkSystem
from erc_llm.runs.directory import Run, read_run
from erc_llm.runs.manifest import MANIFEST, read_manifest

if TYPE_CHECKING:
    from erc_llm.calibration.choose import AskedDecide, Calibrated

Version = Literal["original", "aligned"]
VERSIONS: tuple[Version, ...] = ("original", "aligned")


@dataclass(frozen=True)
class BenchmarkPaths:
    """Where a benchmark reads and writes.

    Attributes:
        data: Folder of each available version of the corpus.
        runs: Folder of run directories.
        out: Folder of tables and reports.
        with_text: Keep the utterances' text in the tables; example scenes need it.
    """

    data: Mapping[Version, Path]
    runs: Path
    out: Path
    with_text: bool = True


@dataclass(frozen=True)
class _PredictingRun:
    """A run that predicts splits.

    Attributes:
        name: Name of the run.
        source: The run's id, and the hashes of its base model, template, training data and of the corpus it reads.
        predict: Returns the predictions table of a split.
        correction: Correction of the run's scores.
    """

    name: str
    source: tuple[str | None, ...]
    predict: Callable[[str], Predictions]
    correction: Correction


def find_versions(data: Path, benchmark: BenchmarkConfig) -> dict[Version, Path]:
    """The versions of the corpus below a folder.

    Raises:
        CorpusError: There is no version, or a system is trained on a missing one.
    """
    found: dict[Version, Path] = {version: data / version for version in VERSIONS if (data / version).is_dir()}
    if not found:
        raise CorpusError(f"expected a folder with {' and '.join(f'{v}/' for v in VERSIONS)} in it", data)
    for system in benchmark.systems:
        if system.trained_on != "same" and system.trained_on not in found:
            raise CorpusError(
                f"no {system.trained_on}/ in it, which {system.name} is trained on; add it, or name a YAML file of "
                "systems with trained_on: same",
                data,
            )
    return found


def run_benchmark(
    benchmark: BenchmarkConfig,
    paths: BenchmarkPaths,
    splits: Sequence[str],
    draws: int,
    console: Console,
    on_comparison: Callable[[Comparison], None],
) -> tuple[Path, ...]:
    """Train the systems without finished runs, predict, and compare; returns the folders of the reports.

    Args:
        benchmark: The systems; the first one is compared with each other one.
        paths: Where to read and write.
        splits: Names of the splits to score; if empty, all that nothing is fitted on.
        draws: Draws of the bootstrap and of the permutation test.
        console: Where to show progress.
        on_comparison: Called with each comparison before its report is written.

    Raises:
        UserError: Any error that the commands for the single stages raise.
    """
    reports = []
    corpora = {version: _open_version(version, folder) for version, folder in paths.data.items()}
    for system in benchmark.systems:
        _check_has_held_out(system)
    to_score = splits_to_score(corpora, splits, console)
    for system in benchmark.systems:
        _fetch_base(system, tuple(to_score), paths.runs)
    for version, wanted in to_score.items():
        tables: dict[str, list[NamedTable]] = {split: [] for split in wanted}
        for system in benchmark.systems:
            for predicting in _predicting_runs(system, version, paths, console):
                for split in wanted:
                    path = paths.out / "tables" / f"{version}-{split}" / f"{predicting.name}.parquet"
                    table = _table(predicting, split, path, paths.with_text)
                    tables[split].append(NamedTable(str(path), table, system.name))
        for split, found in tables.items():
            if not any(found[0].table.gold or ()):
                console.print(f"{version}, {split}: no gold labels, so predictions only", highlight=False)
                continue
            comparison = compare(found, on="intersection", draws=draws)
            on_comparison(comparison)
            reports.append(paths.out / f"{version}-{split}")
            write_comparison(comparison, reports[-1])
    return tuple(reports)


def splits_to_score(
    corpora: Mapping[Version, Corpus], asked: Sequence[str], console: Console
) -> dict[Version, tuple[str, ...]]:
    """For each version the requested splits, or all that nothing is fitted on; versions without any are left out.

    Raises:
        CorpusError: There is no split to score, or no version has a requested one.
    """
    there = {version: tuple(corpus.splits) for version, corpus in corpora.items()}
    names = dict.fromkeys(asked or (s for splits in there.values() for s in splits if s not in PARTS_OF_TRAIN))
    if missing := [name for name in names if not any(name in splits for splits in there.values())]:
        found = "; ".join(f"{version} has {', '.join(splits)}" for version, splits in there.items())
        raise CorpusError(f"no split '{missing[0]}' to score; {found}")
    if not names:
        raise CorpusError(f"nothing to score: {' and '.join(there)} have only train; add files of dev or test")
    for version, splits in there.items():
        for name in names:
            if name not in splits:
                console.print(f"{version}: no split '{name}', so it is not scored there", highlight=False)
    wanted = {version: tuple(n for n in names if n in splits) for version, splits in there.items()}
    return {version: scored for version, scored in wanted.items() if scored}


def _open_version(version: Version, folder: Path) -> Corpus:
    corpus = _open(folder)
    if corpus.version in VERSIONS and corpus.version != version:
        raise CorpusError(f"the folder is called {version}, but holds version {corpus.version}; rename it", folder)
    return corpus


def _open(folder: Path) -> Corpus:
    from erc_llm.config import CorpusConfig
    from erc_llm.corpus.labels import EMORYNLP
    from erc_llm.recipes.data import open_corpus

    return open_corpus(CorpusConfig(path=str(folder)), EMORYNLP)


def _table(run: _PredictingRun, split: str, path: Path, with_text: bool) -> Predictions:
    """The table of one run, read from its file if run and corpus are the same; corrected again if necessary."""
    table = _stored(path)
    mixing = run.correction.mixing
    other = table is not None and mixing is not None and table.info.neighbours != mixing.words
    if table is None or other or _source(table.info) != run.source or (with_text and table.text is None):
        table = run.predict(split)
    elif Correction.of(table.info) != run.correction:
        table = correct(table, run.correction)
    elif with_text or table.without_text() is table:
        return table
    table = table if with_text else table.without_text()
    write_predictions(table, path)
    return table


def _stored(path: Path) -> Predictions | None:
    """The table in a file; None if it is missing or unreadable, so that it is made again."""
    try:
        return read_predictions(path)
    except PredictionsError:
        return None


def _source(info: PredictionsInfo) -> tuple[str | None, ...]:
    return info.run_id, info.base_model_sha256, info.template_sha256, info.trained_on_sha256, info.corpus_sha256


def _predicting_runs(
    system: BenchmarkSystem, version: Version, paths: BenchmarkPaths, console: Console
) -> Iterator[_PredictingRun]:
    if system.baseline is not None:
        return _baselines(system, system.baseline, version, paths, console)
    assert system.config is not None, "a system has a config or a baseline"
    return _language_models(system, system.config, version, paths, console)


def _baselines(
    system: BenchmarkSystem, source: str, version: Version, paths: BenchmarkPaths, console: Console
) -> Iterator[_PredictingRun]:
    from erc_llm.baselines.baseline_config import load_baseline
    from erc_llm.baselines.training import TrainedBaseline
    from erc_llm.recipes.baseline import train_reported
    from erc_llm.recipes.console import ConsoleProgress
    from erc_llm.recipes.data import open_corpus

    progress = ConsoleProgress(console)
    for seed in system.seeds:
        name = _run_name(system, version, seed)
        fixed = [f"corpus.path={paths.data[version]}", f"output={paths.runs}", f"name={name}", f"seed={seed}"]
        config = load_baseline(source, [*system.overrides, *fixed])
        progress.heading(name)
        corpus = open_corpus(config.corpus, config.label_set())
        trained = train_reported(config, corpus, resume=True, with_text=paths.with_text, progress=progress)
        of = trained.manifest
        made_from = (of.run_id, of.base_model_sha256, None, of.train_sha256, trained.corpus.sha256)
        assert system.decide != "weights", "a baseline has none"
        correction = trained.correction(None if system.decide == "probable" else system.decide)

        def predict(split: str, trained: TrainedBaseline = trained, correction: Correction = correction) -> Predictions:
            return correct(trained.predict(split), correction)

        yield _PredictingRun(name, made_from, predict, correction)


def _language_models(
    system: BenchmarkSystem, source: str, version: Version, paths: BenchmarkPaths, console: Console
) -> Iterator[_PredictingRun]:
    from erc_llm.calibration.choose import choose_correction
    from erc_llm.predictor import load
    from erc_llm.recipes.data import open_whole
    from erc_llm.recipes.predict import open_to_predict, predict_with_progress

    own = version if system.trained_on == "same" else system.trained_on
    found = (_open(paths.data[own]).version, _open(paths.data[version]).version)
    heal_from = str(paths.data[own]) if found == ("original", "aligned") else None
    for folder in _trained(system, source, own, paths, console):
        run = read_run(folder)
        answer = _answer(system, run, paths.data[own], console)

        def predict(split: str, run: Run = run, answer: _Answer = answer) -> Predictions:
            data = open_to_predict(run.config, str(paths.data[version]), heal_from, split, console)
            predictor = load(run.folder, data.past, calibration=answer.calibration, decide=answer.decide)
            return predict_with_progress(predictor, data.corpus, split, console)

        read = open_whole(run.config, str(paths.data[version]), heal_from)
        of = run.manifest
        made_from = (of.run_id, of.base_model_sha256, of.template_sha256, of.train_sha256, read.sha256)
        correction = Correction()  # generated text has no scores to correct
        if run.config.scoring.decode == "score":
            correction = choose_correction(run, calibration=answer.calibration, decide=answer.decide)
        yield _PredictingRun(run.config.name, made_from, predict, correction)


def _check_has_held_out(system: BenchmarkSystem) -> None:
    """Refuse a language model without held-out predictions to find its rule on, before any system is trained."""
    from erc_llm.config import load_config

    if system.config is None or system.folds is not None or system.decide == "probable":
        return
    config = load_config(system.config, system.overrides)
    if config.scoring.decode == "score" and not config.holds_out_selection:
        raise ConfigError(
            f"{system.name}: decide={system.decide} finds its rule on the selection split, and "
            "training.evaluations=0 holds none out; set decide: probable, or folds: 5"
        )


def _run_name(system: BenchmarkSystem, version: Version, seed: int) -> str:
    return f"{system.name}-{version}-{seed}"


def _fetch_base(system: BenchmarkSystem, versions: Sequence[Version], runs: Path) -> None:
    """Find or download the base model of a system that is still to be trained, before any system is trained."""
    from erc_llm.baselines.baseline_config import load_baseline
    from erc_llm.config import load_config
    from erc_llm.models.loading import base_folder, encoder_folder

    trained_on = versions if system.trained_on == "same" else (system.trained_on,)
    folders = [runs / _run_name(system, version, seed) for version in trained_on for seed in system.seeds]
    if all((folder / MANIFEST).is_file() and read_manifest(folder).finished for folder in folders):
        return
    if system.baseline is not None:
        encoder_folder(load_baseline(system.baseline, system.overrides).encoder.base)
    elif system.config is not None:
        base_folder(load_config(system.config, system.overrides).model.base)


def _trained(system: BenchmarkSystem, source: str, own: Version, paths: BenchmarkPaths, console: Console) -> list[Path]:
    """Run directories of a language model, trained on one version; finished ones are reused."""
    from erc_llm.config import load_config
    from erc_llm.recipes.crossfit import crossfit
    from erc_llm.recipes.crossfit_folds import Folds
    from erc_llm.recipes.train import train

    folders = []
    for seed in system.seeds:
        name = _run_name(system, own, seed)
        fixed = [f"corpus.path={paths.data[own]}", f"output={paths.runs}", f"name={name}", f"seed={seed}"]
        config = load_config(source, [*system.overrides, *fixed])
        console.rule(name)
        if system.folds is not None:
            folds = Folds(system.folds, with_text=paths.with_text)
            folders.append(crossfit(config, folds, resume=True, console=console).folder)
        else:
            folders.append(train(config, resume=(paths.runs / name).exists(), console=console).folder)
    found = [_averaged(folders, paths.runs / f"{system.name}-{own}-average")] if system.average else folders
    if not paths.with_text:
        for folder in {*folders, *found}:
            strip_text(folder)
    return found


class _Answer(NamedTuple):
    """How a run answers: whether with its calibration, and by which rule."""

    calibration: Calibrated
    decide: AskedDecide


def _answer(system: BenchmarkSystem, run: Run, data: Path, console: Console) -> _Answer:
    """Calibrate a run if its system needs that; `data` is the present folder of the corpus it was trained on."""
    from erc_llm.calibration.store import read_calibration

    scored = run.config.scoring.decode == "score"
    decide: AskedDecide = system.decide if scored else "probable"
    if system.calibration == "none" and decide == "probable":
        return _Answer("none", decide)
    if system.folds is None:
        _calibrate(run, data, "nll" if system.calibration == "none" else system.calibration, console)
    if decide == "weights" and read_calibration(run).decision_strength is None:
        decide = "probable"  # no weights raised held-out weighted F1
    return _Answer("run", decide)


def _averaged(folders: Sequence[Path], target: Path) -> Path:
    """The average of runs; it is made again unless the existing one averages the same runs, by their weights."""
    from erc_llm.recipes.average import average_id, average_runs

    runs = [read_run(folder) for folder in folders]
    if target.is_dir() and read_run(target).manifest.run_id == average_id(runs, target.name):
        return target
    return average_runs(runs, target, replace_older=True).folder


def _calibrate(run: Run, data: Path, goal: Goal, console: Console) -> None:
    """Calibrate a run, unless it is calibrated; files of older versions have no rules for F1 and are made again."""
    from erc_llm.calibration.choose import prior_shift
    from erc_llm.calibration.store import CALIBRATION, read_calibration
    from erc_llm.recipes.calibrate import calibrate_run, predict_selection

    found = read_calibration(run) if (run.folder / CALIBRATION).is_file() else None
    if found is None or found.fit_for != goal or found.held_out("weighted_f1") is None:
        table, name = predict_selection(run, str(data), run.config.corpus.heal_from, console)
        calibrate_run(run, table, name, prior_shift(run.manifest, "auto"), goal, 0, console)
