"""Ablations: trains arms that differ in a few fields, and compares them in pairs on the selection split.

Every arm makes as many optimizer steps as the base arm: its own token budget compensates for longer prompts, for the
branches of all labels, and for targets that are not drawn. Finished arms are skipped, so an interrupted ablation can
continue; naming arms distributes the work over several processes. With `--folds`, each arm is cross-fitted and compared
on all of train; its token budget is that of the first fold. With `--first` as well, only the first folds are trained,
and `benchmarks.ingredients` compares them on the rows that they left out.

Input: a YAML file of arms, such as `benchmarks/profiles.yaml`. Output: a run directory per arm with its predictions of
the selection split (or dev, for final systems), and a Markdown table.
Does not depend on: how training and scoring work.

    python -m benchmarks.ablation benchmarks/profiles.yaml --corpus FOLDER --out runs/profiles [ARM ...]
    python -m benchmarks.ablation benchmarks/profiles.yaml --out docs/results/profiles --table
    python -m benchmarks.ablation benchmarks/imbalance.yaml --out docs/results/imbalance --calibrated
    python -m benchmarks.ablation benchmarks/finals.yaml --corpus FOLDER --out runs/finals --split dev
    python -m benchmarks.ablation benchmarks/finals.yaml --out runs/finals --split dev --calibrated
    python -m benchmarks.ablation benchmarks/imbalance.yaml [ARM ...] --corpus FOLDER --out runs/imbalance --orders 4
    python -m benchmarks.ablation benchmarks/crossfit.yaml [ARM ...] --corpus FOLDER --out runs/crossfit --folds 5
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console

from benchmarks.outcome import exit_code
from benchmarks.trials import differences
from erc_llm.config import RunConfig, load_config
from erc_llm.corpus.dialogues import SELECTION
from erc_llm.errors import ConfigError
from erc_llm.metrics import Floats, gold_surprise
from erc_llm.predictions import Correction, Predictions, corpus_shift, correct, read_predictions
from erc_llm.runs.directory import OUT_OF_FOLD

CROSSFIT = Path(OUT_OF_FOLD).stem  # instead of a split: all of train, as predicted by the folds that left it out


class Note(BaseModel):
    """What a table says of an arm beside its metrics."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    what: str = Field(description="What is changed, in words.")
    literature: str = Field(default="", description="What published work reports of it.")


class Arms(BaseModel):
    """The arms of an ablation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: str = Field(description="The configuration that all arms start from.")
    budget: tuple[str, ...] = Field(description="`key=value` texts for every arm: scenes, epochs, seed.")
    base: str = Field(description="The arm with which the others are compared.")
    arms: Mapping[str, tuple[str, ...]] = Field(
        description="Name to `key=value` texts; {NAME} stands for the run directory of an arm trained before."
    )
    notes: Mapping[str, Note] = Field(default={}, description="Name of an arm to what a table says of it.")


def read_arms(path: Path) -> Arms:
    """Read the arms of a file.

    Raises:
        ConfigError: The file cannot be read, or is no file of arms.
    """
    try:
        arms = Arms.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except (OSError, ValidationError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: expected config, budget, base and arms: {error}") from error
    if arms.base not in arms.arms:
        raise ConfigError(f"{path}: base: '{arms.base}' is not among the arms {', '.join(arms.arms)}")
    if unknown := sorted(set(arms.notes) - set(arms.arms)):
        raise ConfigError(f"{path}: notes: '{unknown[0]}' is not among the arms {', '.join(arms.arms)}")
    return arms


def arm_config(arms: Arms, name: str, corpus: str, out: Path, folds: int | None = None) -> RunConfig:
    """The configuration of one arm; every arm except the base arm gets its own number of tokens per step.

    With folds, it is the number at which the first fold makes as many steps as the first fold of the base arm.
    """
    from erc_llm.recipes.crossfit_folds import Folds, fold_configs

    folders = {arm: str(out / arm) for arm in arms.arms}
    fixed = [f"corpus.path={corpus}", f"output={out}"]

    def configure(arm: str) -> RunConfig:
        own = [text.format(**folders) for text in arms.arms[arm]]
        return load_config(arms.config, [*arms.budget, *own, *fixed, f"name={arm}"])

    config, base = configure(name), configure(arms.base)
    if name == arms.base:
        return config
    sized, of_base = config, base
    if folds is not None:
        sized, of_base = (fold_configs(whole, Folds(folds))[0] for whole in (config, base))
    wanted = steps_at(sizes_of(of_base), base, base.training.tokens_per_step)
    budget = budget_for(sizes_of(sized), config, wanted)
    return config.model_copy(update={"training": config.training.model_copy(update={"tokens_per_step": budget})})


def sizes_of(config: RunConfig) -> list[list[int]]:
    """(epochs, scenes) tokens of each training scene, as training counts them."""
    from erc_llm.build import build_prompter
    from erc_llm.corpus import labelled_scenes
    from erc_llm.models.loading import load_tokenizer
    from erc_llm.recipes.data import open_corpus
    from erc_llm.recipes.run_inputs import read_confusion
    from erc_llm.recipes.train import target_sampler
    from erc_llm.tuning.scene_trees import scene_sizes, training_trees

    labels = config.label_set()
    corpus = open_corpus(config.corpus, labels, cut_selection=config.holds_out_selection)
    scenes = labelled_scenes(corpus, config.training.max_scenes, config.seed)
    prompter = build_prompter(config, labels, load_tokenizer(config.model.base), past=corpus)
    trees_of = training_trees(config, scenes, prompter, read_confusion(config, corpus))
    sampler = target_sampler(config.sampling, scenes, labels, config.seed)
    return scene_sizes(trees_of, [sampler.asked(epoch) for epoch in range(math.ceil(config.training.epochs))])


def steps_at(sizes: Sequence[Sequence[int]], config: RunConfig, tokens_per_step: int) -> int:
    """Number of optimizer steps of a training run with that token budget."""
    from erc_llm.tuning.order import order_steps

    epochs, seed = config.training.epochs, config.seed
    return len(order_steps(sizes, epochs=epochs, tokens_per_step=tokens_per_step, parts=1, seed=seed).steps)


def budget_for(sizes: Sequence[Sequence[int]], config: RunConfig, steps: int) -> int:
    """The smallest token budget whose number of steps is closest to `steps`."""
    guess = round(sum(map(sum, sizes)) / steps)
    tried = {budget: steps_at(sizes, config, budget) for budget in range(max(64, guess // 2), 2 * guess)}
    return min(tried, key=lambda budget: (abs(tried[budget] - steps), budget))


def run_arm(
    arms: Arms, name: str, corpus: str, out: Path, console: Console, split: str = SELECTION, orders: int = 1
) -> None:
    """Train one arm, and predict the selection split and another split; finished parts are skipped.

    With several label orders, the split is also predicted with the mean over them; that needs the arm's adapter.
    """
    from erc_llm.predictions import write_predictions
    from erc_llm.predictor import load
    from erc_llm.recipes.predict import open_to_predict, predict
    from erc_llm.recipes.train import train

    wanted = dict.fromkeys(((SELECTION, 1), (split, 1), (split, orders)))
    missing = [(part, k) for part, k in wanted if not _table(out / name, part, k).is_file()]
    if not missing:
        console.print(f"{name}: done already", highlight=False)
        return
    config = arm_config(arms, name, corpus, out)
    console.rule(f"{name}, {config.training.tokens_per_step} tokens a step")
    run = train(config, resume=(out / name).exists(), console=console)
    for part, k in missing:
        data = open_to_predict(config, None, None, part, console)
        predictor = load(run.folder, data.past, overrides=[f"scoring.label_orders={k}"])
        write_predictions(predict(predictor, data.corpus, part).without_text(), _table(out / name, part, k))


def crossfit_arm(
    arms: Arms, name: str, corpus: str, out: Path, console: Console, folds: int, first: int | None = None
) -> None:
    """Cross-fit one arm; its out-of-fold table is `crossfit.parquet` in its run directory.

    With `first`, as many folds are trained only, and lie in `NAME-folds`.
    """
    from erc_llm.recipes.crossfit import crossfit, screen
    from erc_llm.recipes.crossfit_folds import Folds

    if _table(out / name, CROSSFIT).is_file():
        console.print(f"{name}: done already", highlight=False)
        return
    config = arm_config(arms, name, corpus, out, folds)
    console.rule(f"{name}, {config.training.tokens_per_step} tokens a step")
    wanted = Folds(folds, with_text=False, first=first)
    train = crossfit if first is None else screen
    train(config, wanted, resume=True, console=console, control=True)


def as_table(arms: Arms, out: Path, split: str = SELECTION) -> str:
    """The finished arms on a split, as Markdown; with class balancing, without and with prior correction."""
    from erc_llm.runs.directory import read_run

    rows = [
        "| arm | what is changed | tokens a step | steps | weighted F1 | better than base by | macro F1 | NLL (nats) "
        "| lower than base by | calibration error |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    tables = _finished(arms, out, split)
    plain = load_config(arms.config, arms.budget).model_dump()
    for name, table in tables.items():
        config = read_run(out / name).config
        changed = differences(config.model_dump(), plain, hidden=("training.tokens_per_step", "state.confusion"))
        about = [", ".join(changed) or "nothing", str(config.training.tokens_per_step), str(_steps(out / name))]
        averaged = [(f", {t.info.decoding}", t) for t in _of_several_orders(out / name, split)]
        for words, found in (*_corrected(table), *averaged):
            rows.append(f"| {' | '.join([name + words, *about, *_metrics(found, tables.get(arms.base))])} |")
    return "\n".join(rows)


def as_calibrated_table(arms: Arms, out: Path) -> str:
    """Metrics of each finished arm before and after calibration, on held-out selection dialogues, as Markdown."""
    from erc_llm.calibration.select import calibrate

    rows = [
        "| arm | calibration | weighted F1 | calibrated | with decision weights | macro F1 | calibrated "
        "| with decision weights | NLL (nats) | calibrated | calibration error | calibrated |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, table in _finished(arms, out, SELECTION).items():
        for words, found in _corrected(table):
            fit = calibrate(found, Correction.of(found.info).prior, "weighted_f1")
            steps = (fit.before, fit.after, fit.held_out("weights") or fit.after)
            f1, macro = ([f"{100 * getattr(s, metric):.2f}" for s in steps] for metric in ("weighted_f1", "macro_f1"))
            nll = [f"{step.nll:.3f}" for step in steps[:2]]
            error = [f"{100 * step.calibration_error:.2f}" for step in steps[:2]]
            rows.append(f"| {' | '.join([name + words, fit.kind, *f1, *macro, *nll, *error])} |")
    return "\n".join(rows)


def write_steps(arms: Arms, out: Path, split: str) -> list[Path]:
    """Write each finished arm's table of a split after each correction step, for `erc-llm compare`.

    The calibration and the decision weights are fitted on the arm's own selection split. The files are, step by step,
    `SPLIT-raw`, `SPLIT-prior` (if training used another prior), `SPLIT-calibration` and `SPLIT-decision-weights`.
    """
    from erc_llm.calibration.select import calibrate
    from erc_llm.predictions import write_predictions

    written = []
    for name, table in _finished(arms, out, split).items():
        selection = read_predictions(_table(out / name, SELECTION))
        fit = calibrate(selection, Correction.of(selection.info).prior, "weighted_f1")
        has_weights = fit.decision_strength is not None
        for step, correction in fit.correction("weights" if has_weights else "probable").steps:
            word = step.partition(":")[0].replace(" ", "-")
            written.append(out / name / f"{split}-{word}.parquet")
            write_predictions(correct(table, correction), written[-1])
    return written


def _finished(arms: Arms, out: Path, split: str) -> dict[str, Predictions]:
    paths = {name: _table(out / name, split) for name in arms.arms}
    return {name: read_predictions(path) for name, path in paths.items() if path.is_file()}


def _table(folder: Path, split: str, orders: int = 1) -> Path:
    return folder / (f"{split}.parquet" if orders == 1 else f"{split}-{orders}-orders.parquet")


def _of_several_orders(folder: Path, split: str) -> list[Predictions]:
    return [read_predictions(path) for path in sorted(folder.glob(f"{split}-*-orders.parquet"))]


def _corrected(table: Predictions) -> list[tuple[str, Predictions]]:
    """The table without correction, and corrected to the corpus prior if training used another prior."""
    raw = ("", correct(table, Correction()))
    shift = corpus_shift(table.info.training_prior, table.info.train_shares)
    return [raw] if shift is None else [raw, (", corrected", correct(table, Correction(shift)))]


def _steps(folder: Path) -> int | str:
    """Optimizer steps of a run; an average of folds has no log of its own."""
    from erc_llm.runs.logs import SELECTION_LOG, read_lines

    lines = read_lines(folder / SELECTION_LOG)
    return int(lines[-1]["step"]) if lines else ""


def _metrics(table: Predictions, base: Predictions | None) -> list[str]:
    from erc_llm.evaluation.references import difference
    from erc_llm.evaluation.report import evaluate
    from erc_llm.metrics import Estimate, paired_mean_difference

    def signed(estimate: Estimate, scale: float, digits: int) -> str:
        value, low, high = (
            "none" if x is None else f"{scale * x:+.{digits}f}" for x in (estimate.value, estimate.low, estimate.high)
        )
        return f"{value} ({low} to {high})"

    def percent(estimate: Estimate | None) -> str:
        assert estimate is not None, "an ablation's tables are written with probabilities"
        bounds = "" if estimate.low is None else f" ({100 * estimate.low:.2f} to {100 * (estimate.high or 0):.2f})"
        return f"{100 * estimate.value:.2f}{bounds}"

    found = evaluate(table)
    macro, error = percent(found.headline.macro_f1), percent(found.calibration_error)
    nll = f"{_gold_nll(table).mean():.3f}"
    cells = [f"{100 * found.headline.weighted_f1.value:.2f}", "", macro, nll, "", error]
    if base is not None and (base.info.run_id, base.info.decoding) != (table.info.run_id, table.info.decoding):
        cells[1] = signed(difference(table, base).estimate, 100, 2)
        lower = paired_mean_difference(_gold_nll(base), _gold_nll(table), table.dialogue_index)
        cells[4] = signed(lower, 1, 3)
    return cells


def _gold_nll(table: Predictions) -> Floats:
    """(targets,) -ln p(gold) in nats; every target of the selection split has a gold label."""
    assert table.probabilities is not None, "an ablation's tables are written with probabilities"
    return gold_surprise(table.probabilities, table.gold_index)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the arms, or print the table; returns exit code 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__)
    parser.add_argument("file", type=Path, help="YAML file of the arms")
    parser.add_argument("arm", nargs="*", help="run only these arms")
    parser.add_argument("--corpus", help="corpus to train on")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run directories")
    parser.add_argument("--split", default=SELECTION, help="split to evaluate; dev is for final systems")
    parser.add_argument("--folds", type=int, help="cross-fit each arm with this number of folds")
    parser.add_argument("--first", type=int, help="with --folds: train only this number of folds, the first ones")
    parser.add_argument("--orders", type=int, default=1, help="also average over this number of label orders")
    parser.add_argument("--table", action="store_true", help="train nothing; print the table of the finished arms")
    parser.add_argument(
        "--calibrated",
        action="store_true",
        help="print the calibrated metrics instead; with another split, write its calibrated tables",
    )
    options = parser.parse_intermixed_args(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120)
    arms = read_arms(options.file)
    if unknown := sorted(set(options.arm) - set(arms.arms)):
        raise ConfigError(f"{options.file}: has no arm {', '.join(unknown)}; its arms are {', '.join(arms.arms)}")
    if options.first is not None and (options.folds is None or not 0 < options.first < options.folds):
        raise ConfigError(f"--first {options.first}: expected less than the number of folds, and --folds")
    if not (options.table or options.calibrated):
        if options.corpus is None:
            raise ConfigError("--corpus: required for training; --table and --calibrated work without it")
        for name in options.arm or arms.arms:
            if options.folds is not None:
                crossfit_arm(arms, name, options.corpus, options.out, console, options.folds, options.first)
                continue
            run_arm(arms, name, options.corpus, options.out, console, options.split, options.orders)
        if options.first is not None:
            return
    if options.calibrated and options.split != SELECTION:
        print("\n".join(map(str, write_steps(arms, options.out, options.split))))
    elif options.calibrated:
        print(as_calibrated_table(arms, options.out))
    else:
        print(as_table(arms, options.out, CROSSFIT if options.folds else options.split))


if __name__ == "__main__":
    sys.exit(main())
