"""The command table of `erc-llm`, and how its errors end the process.

A user's mistake ends with one message and exit code 2, ours with exit code 1. Heavy libraries are imported inside the
commands that need them, so `--help` is instant.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from erc_llm import __version__
from erc_llm.cli.baseline import baseline
from erc_llm.cli.data import config, data, profile, render
from erc_llm.cli.evaluate import benchmark, compare, evaluate
from erc_llm.cli.options import open_console, prepare_scoring
from erc_llm.cli.predict import calibrate, predict
from erc_llm.cli.train import average, train
from erc_llm.errors import ErcError, UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Fine-tune an open LLM to recognise emotion in conversation: one token tree per scene, exact probabilities.",
)


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the run and the predictions.")] = Path("runs"),
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, as for train.")] = None,
) -> None:
    """Zero-shot, fine-tune, predict and evaluate on the embedded sample corpus, on the CPU."""
    prepare_scoring()
    from erc_llm.cli.demo import run_demo

    run_demo(output, overrides or [], open_console())


for command in (
    data,
    config,
    render,
    profile,
    train,
    average,
    predict,
    calibrate,
    evaluate,
    compare,
    baseline,
    benchmark,
):
    app.command()(command)


def main() -> None:
    """Run the command line and end the process with its exit code."""
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
