"""The command `sweep`: trials of a configuration with other values.

Input: command-line arguments. Output: a folder with all trials and the best configuration.
Does not depend on: torch, transformers and Optuna until the command runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from erc_llm.cli.completion import complete_config
from erc_llm.cli.options import Overrides, open_console, prepare_scoring, print_note


def sweep(
    config: Annotated[
        str,
        typer.Argument(help="YAML file, or a packaged configuration, which is varied.", autocompletion=complete_config),
    ],
    space: Annotated[
        Path,
        typer.Argument(
            help="YAML file of the fields to vary: `lora.rank: [8, 16]`, `training.learning_rate: {low: 0.0003, high: "
            "0.003, log: true}`."
        ),
    ],
    overrides: Overrides = None,
    trials: Annotated[int, typer.Option(help="Trials in all, those of earlier calls included.", min=1)] = 20,
    out: Annotated[Path, typer.Option(help="Folder of the sweep.")] = Path("runs/sweep"),
    metric: Annotated[
        Literal["nll", "weighted_f1", "macro_f1"],
        typer.Option(help="What is to be lowest (nll, of which differences are told apart soonest) or highest."),
    ] = "nll",
    folds: Annotated[
        int | None,
        typer.Option(
            help="Score every trial by cross-fitting with so many folds: slower, and a much longer ruler. Default: on "
            "the selection split, where bad trials are stopped early.",
            min=2,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Trials at a time, each in a process with a GPU or an equal part of the cores. Default: one per GPU, "
            "without a GPU one.",
            min=1,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the values that are tried.", min=0)] = 0,
) -> None:
    """Try values of configuration fields, through Optuna; the best configuration is a file.

    The same command continues an interrupted sweep; run in several terminals, or on several machines that share the
    folder, it shares the trials.
    """
    prepare_scoring()
    from erc_llm.recipes.sweep import Sweep
    from erc_llm.recipes.sweep import sweep as run_sweep
    from erc_llm.recipes.sweep_report import BEST, TABLE, ended, importance

    options = Sweep(config, tuple(overrides or ()), space, trials, metric, folds, seed, out)
    try:
        study = run_sweep(options, open_console(), workers)
    except KeyboardInterrupt:
        typer.echo("erc-llm: interrupted; the same command continues the sweep", err=True)
        raise typer.Exit(130) from None
    done = ended(study)
    best = study.best_trial
    typer.echo(f"{len(done)} trials in {out / TABLE}; best {metric} {best.value:.4f} in trial {best.number}:")
    for text in best.user_attrs["overrides"]:
        typer.echo(f"  {text}")
    for name, part in importance(study).items():
        typer.echo(f"importance of {name}: {part:.2f}")
    print_note(f"train it: erc-llm train {out / BEST}")
