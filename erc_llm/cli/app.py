"""The command table of `erc-llm`, and the exit codes of its errors.

Input: command-line arguments. Output: one message on standard error and exit code 2 for a mistake of the user, 1 for an
internal error.
Does not depend on: torch and transformers; commands import them when they run, so `--help` is instant.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
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
from erc_llm.cli.options import open_console, prepare_scoring, with_quiet
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


# The commands in the order of the help: their group, and an example of each.
COMMANDS: dict[str, tuple[tuple[Callable[..., None], str], ...]] = {
    "Start": (
        (demo, "erc-llm demo"),
        (ui, "erc-llm ui runs/talks"),
    ),
    "Data and prompts": (
        (data, "erc-llm data talks"),
        (profile, "erc-llm profile talks --speaker 'Nela Horn' --at night-shift-01"),
        (render, "erc-llm render talks --utterance 3 profile.writer=statistics"),
        (export_prompts, "erc-llm export-prompts talks --out prompts"),
    ),
    "Before training": (
        (config, "erc-llm config"),
        (plan, "erc-llm plan llama2-7b-qlora corpus.path=talks --gpu 'RTX 4090'"),
        (validate, "erc-llm validate smollm2-135m corpus.path=talks"),
    ),
    "Training": (
        (train, "erc-llm train smollm2-135m corpus.path=talks name=talks"),
        (crossfit, "erc-llm crossfit smollm2-135m corpus.path=talks name=talks-5 --folds 5"),
        (average, "erc-llm average runs/seed-13 runs/seed-14 --out runs/averaged"),
        (sweep, "erc-llm sweep smollm2-135m space.yaml corpus.path=talks --trials 20"),
        (baseline, "erc-llm baseline emonet corpus.path=talks name=talks-emonet --predict test"),
    ),
    "Prediction": (
        (predict, "erc-llm predict runs/talks talks --split test --out test.parquet"),
        (calibrate, "erc-llm calibrate runs/talks --decide weighted_f1"),
        (serve, "erc-llm serve runs/talks --port 8000"),
    ),
    "Evidence": (
        (evaluate, "erc-llm evaluate test.parquet --against all-neutral --report test.html"),
        (compare, "erc-llm compare ours=test.parquet emonet=runs/talks-emonet/test.parquet --out report"),
        (benchmark, "erc-llm benchmark emorynlp --data emorynlp --out benchmark"),
    ),
    "Adapters": (
        (export, "erc-llm export runs/talks --format gguf --to talks-gguf"),
        (adapters, "erc-llm adapters"),
    ),
}
for _group, _commands in COMMANDS.items():
    for _command, _example in _commands:
        # A demo has nothing to show but its progress.
        _function = _command if _command is demo else with_quiet(_command)
        app.command(rich_help_panel=_group, epilog=f"Example: {_example}")(_function)


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
