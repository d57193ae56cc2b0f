"""The command `crossfit`: cross-fits a language model's adapter, or an encoder baseline.

Input: command-line arguments. Output: run directories and predictions tables.
Does not depend on: torch and transformers until the command runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from erc_llm.cli.completion import complete_config
from erc_llm.cli.options import Overrides, WithoutText, open_console, prepare_scoring, print_note
from erc_llm.errors import UserError

if TYPE_CHECKING:
    from erc_llm.recipes.crossfit_folds import Folds


def crossfit(
    config: Annotated[
        str,
        typer.Argument(
            help="YAML file, or a packaged configuration, of a language model or of a baseline (which states its "
            "kind).",
            autocompletion=complete_config,
        ),
    ],
    overrides: Overrides = None,
    folds: Annotated[
        int, typer.Option(help="Number of training runs; each leaves out as large a part of train.", min=2, max=100)
    ] = 5,
    first: Annotated[
        int | None,
        typer.Option(
            help="Train the first folds only, to try a setting: what they left out is one table, compared like any "
            "other. --resume without it trains the rest.",
            min=1,
        ),
    ] = None,
    fold_seed: Annotated[int, typer.Option(help="Seed of the division of train's episodes into folds.", min=0)] = 13,
    workers: Annotated[
        int | None, typer.Option(help="Folds at a time. Default: one per GPU, without a GPU one per core.", min=1)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an unfinished cross-fitting.")] = False,
    predict: Annotated[
        list[str] | None,
        typer.Option(help="For a baseline: also predict this split, as the mean over the folds. Repeatable."),
    ] = None,
    without_text: WithoutText = False,
    leaky_control: Annotated[
        bool,
        typer.Option(
            "--leaky-control",
            help="Allow retrieval.leak, to measure what a leak would seem to bring; the run itself cannot be used.",
        ),
    ] = False,
) -> None:
    """Train a model per fold of train, each blind to its fold, and predict all of train with them."""
    from erc_llm.config_files import find_config, read_yaml
    from erc_llm.recipes.crossfit_folds import Folds

    overrides = overrides or []
    fields = {*read_yaml(find_config(config)), *(text.partition("=")[0].partition(".")[0] for text in overrides)}
    is_baseline = not fields.isdisjoint(("kind", "encoder", "memory", "speaker"))
    if predict and not is_baseline:
        raise UserError("--predict: is for baselines; `erc-llm predict RUN` predicts with the averaged adapter")
    if first is not None and first >= folds:
        raise UserError(f"--first {first}: expected less than the {folds} folds; leave it out to train them all")
    prepare_scoring()
    wanted = Folds(folds, fold_seed, workers, not without_text, first)
    try:
        if is_baseline:
            _baseline(config, overrides, wanted, resume, predict or [])
        else:
            _language_model(config, overrides, wanted, resume, leaky_control)
    except KeyboardInterrupt:
        typer.echo("erc-llm: interrupted; the same command with --resume continues", err=True)
        raise typer.Exit(130) from None


def _language_model(config: str, overrides: list[str], folds: Folds, resume: bool, control: bool) -> None:
    from erc_llm.config import load_config
    from erc_llm.recipes.crossfit import crossfit, screen
    from erc_llm.runs.directory import OUT_OF_FOLD

    loaded = load_config(config, overrides)
    if folds.first is not None:
        table = screen(loaded, folds, resume=resume, console=open_console(), control=control)
        print_note(f"predictions of what {folds.first} of {folds.count} folds left out: {table}")
        return
    run = crossfit(loaded, folds, resume=resume, console=open_console(), control=control)
    print_note(f"run: {run.folder}   adapter: {run.adapter}   predictions of train: {run.folder / OUT_OF_FOLD}")


def _baseline(config: str, overrides: list[str], folds: Folds, resume: bool, splits: list[str]) -> None:
    from erc_llm.baselines.baseline_config import load_baseline
    from erc_llm.recipes.crossfit_baseline import crossfit_baseline

    loaded = load_baseline(config, overrides)
    for path in crossfit_baseline(loaded, folds, splits, resume=resume, console=open_console()):
        print_note(f"predictions written to {path}")
