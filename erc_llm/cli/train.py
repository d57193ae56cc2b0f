"""The commands about training: `train` and `average`.

Does not depend on: torch and transformers until a command runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erc_llm.cli.options import open_console, prepare_scoring


def train(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of one that comes with the package.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as lora.rank=32.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run.")] = False,
) -> None:
    """Fine-tune an adapter and write a run directory."""
    from erc_llm.config import load_config

    loaded = load_config(config, overrides or [])
    prepare_scoring()
    from erc_llm.models.devices import leave_processes, process_rank
    from erc_llm.recipes.train import train as run_training

    try:
        run = run_training(loaded, resume=resume, console=open_console())
    except KeyboardInterrupt:
        typer.echo("erc-llm: interrupted; the same command with --resume goes on from the last checkpoint", err=True)
        raise typer.Exit(130) from None
    leave_processes()
    if process_rank() == 0:
        typer.echo(f"run: {run.folder}   adapter: {run.adapter}")


def average(
    runs: Annotated[
        list[str], typer.Argument(help="Run directories that differ in their seeds, or in how they were trained.")
    ],
    out: Annotated[Path, typer.Option(help="The new run directory.")],
) -> None:
    """One adapter, the mean of several runs' updates, which answers about as well as their mean answers would."""
    from erc_llm.recipes.average import average_runs
    from erc_llm.runs.directory import read_run

    made = average_runs([read_run(run) for run in runs], out)
    typer.echo(f"run: {made.folder}   adapter: {made.adapter}   rank {made.config.lora.rank}")
