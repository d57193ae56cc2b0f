"""The training commands: `train` and `average`.

Input: command-line arguments. Output: run directories.
Does not depend on: torch and transformers until a command runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erc_llm.cli.completion import complete_config
from erc_llm.cli.options import Overrides, open_console, prepare_scoring, print_note


def train(
    config: Annotated[
        str,
        typer.Argument(
            help="YAML file, or a packaged configuration: smollm2-135m, llama2-7b-qlora, sample, ...",
            autocompletion=complete_config,
        ),
    ],
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an unfinished run.")] = False,
    start: Annotated[
        str | None, typer.Option("--from", help="Finished run whose adapter is trained further; sets lora.start.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Train even if the plan does not fit the GPU (`erc-llm plan`).")
    ] = False,
) -> None:
    """Fine-tune a LoRA or QLoRA adapter and write its run directory."""
    from erc_llm.config import load_config

    started = [] if start is None else [f"lora.start={start}"]
    loaded = load_config(config, [*(overrides or []), *started])
    prepare_scoring()
    from erc_llm.models.devices import leave_processes, process_rank
    from erc_llm.recipes.train import train as run_training

    try:
        run = run_training(loaded, resume=resume, console=open_console(), force=force)
    except KeyboardInterrupt:
        again = "the same command with --resume"
        typer.echo(f"erc-llm: interrupted; {again} continues from the last checkpoint, if there is one", err=True)
        raise typer.Exit(130) from None
    leave_processes()
    if process_rank() == 0:
        print_note(f"run: {run.folder}   adapter: {run.adapter}")


def average(
    runs: Annotated[
        list[str], typer.Argument(help="Run directories that differ in their seeds or training settings only.")
    ],
    out: Annotated[Path, typer.Option(help="Run directory to write.")],
    rank: Annotated[
        int | None,
        typer.Option(
            help="Compress the average to this rank, for a smaller file; one run is enough then. By default exact.",
            min=1,
        ),
    ] = None,
) -> None:
    """Average the adapters of several runs into one adapter, about as accurate as averaging their predictions."""
    from erc_llm.recipes.average import average_runs
    from erc_llm.runs.directory import read_run

    made = average_runs([read_run(run) for run in runs], out, rank=rank)
    print_note(f"run: {made.folder}   adapter: {made.adapter}   rank {made.config.lora.rank}")
