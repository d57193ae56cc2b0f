"""The command table of `erc-llm`, and the exit codes of its errors.

Input: command-line arguments. Output: one message on standard error and exit code 2 for a mistake of the user, 1 for an
internal error.
Does not depend on: torch and transformers; commands import them when they run, so `--help` is instant.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from erc_llm import __version__
from erc_llm.cli.adapters import adapters
from erc_llm.cli.baseline import baseline
from erc_llm.cli.crossfit import crossfit
from erc_llm.cli.data import config, data, export_prompts, profile, render
from erc_llm.cli.evaluate import benchmark, compare, evaluate
from erc_llm.cli.export import export
from erc_llm.cli.options import open_console, prepare_scoring
from erc_llm.cli.plan import plan
from erc_llm.cli.predict import calibrate, predict
from erc_llm.cli.serve import serve
from erc_llm.cli.sweep import sweep
from erc_llm.cli.train import average, train
from erc_llm.cli.ui import ui
from erc_llm.cli.validate import validate
from erc_llm.errors import ErcError, UserError
from erc_llm.models.devices import grow_segments

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Fine-tune open LLMs for emotion recognition in conversation, predict exact label probabilities, and evaluate "
    "and compare systems.",
)


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the run directories and predictions tables.")] = Path("runs"),
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Configuration fields to change, as section.field=value.")
    ] = None,
) -> None:
    """Run zero-shot prediction, fine-tuning, prediction and evaluation on the embedded sample corpus, on a CPU."""
    prepare_scoring()
    from erc_llm.cli.demo import run_demo

    run_demo(output, overrides or [], open_console())


for command in (
    data,
    config,
    render,
    profile,
    plan,
    validate,
    train,
    crossfit,
    average,
    predict,
    calibrate,
    evaluate,
    compare,
    baseline,
    benchmark,
    export,
    adapters,
    export_prompts,
    serve,
    ui,
    sweep,
):
    app.command()(command)


def main() -> None:
    """Run the command line and end the process with its exit code."""
    grow_segments()
    try:
        app(standalone_mode=True)
    except ErcError as error:
        sys.stderr.write(f"erc-llm: {error}\n")
        sys.exit(error.exit_code)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        wrong = UserError(f"{where}{error.strerror or error}")
        sys.stderr.write(f"erc-llm: {wrong}\n")
        sys.exit(wrong.exit_code)
