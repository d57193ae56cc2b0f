"""The command line: thin commands over the pipeline.

A user's mistake ends with one message and exit code 2, ours with exit code 1. Heavy libraries are imported inside the
commands that need them, so `--help` is instant.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from erc_llm import __version__
from erc_llm.cli_baselines import baseline
from erc_llm.cli_benchmark import benchmark
from erc_llm.cli_comparison import compare
from erc_llm.cli_predictions import calibrate, evaluate, predict
from erc_llm.commands import HealFrom, open_console, open_section, quiet
from erc_llm.errors import ErcError, UserError

if TYPE_CHECKING:
    pass

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Fine-tune an open LLM to recognise emotion in conversation: one token tree per scene, exact probabilities.",
)

CorpusPath = Annotated[str, typer.Argument(help="A corpus file or folder; `sample` is the embedded corpus.")]
ConfigName = Annotated[str, typer.Option("--config", help="A configuration, for label set, prompt and tokenizer.")]


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
    quiet()
    from erc_llm.demo import run_demo

    run_demo(output, overrides or [], open_console())


@app.command()
def data(
    path: CorpusPath,
    heal_from: HealFrom = None,
    config: ConfigName = "sample",
    json_out: Annotated[Path | None, typer.Option("--json", help="Also write the summary as JSON.")] = None,
) -> None:
    """What is in a corpus: splits, labels, speakers, checksums, and anything odd."""
    import json

    from erc_llm.config import load_config
    from erc_llm.corpus.summary import print_summary, summarise
    from erc_llm.files import write_text

    loaded = load_config(config)
    section = loaded.corpus.model_copy(update={"path": path, "heal_from": heal_from})
    summary = summarise(open_section(section, loaded, cut_selection=False))
    print_summary(summary, open_console())
    if json_out:
        write_text(json_out, json.dumps(summary.as_dict(), indent=2, ensure_ascii=False) + "\n")


@app.command()
def render(
    corpus: CorpusPath,
    dialogue: Annotated[str | None, typer.Option(help="Id of the scene; the first one by default.")] = None,
    utterance: Annotated[int | None, typer.Option(help="Number of a line: show exactly its prompt.")] = None,
    tokens: Annotated[bool, typer.Option(help="Show token by token, with ids.")] = False,
    heal_from: HealFrom = None,
    config: ConfigName = "smollm2-135m",
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, as for train.")] = None,
) -> None:
    """A prompt exactly as the model gets it, trained tokens highlighted, with token counts."""
    from erc_llm.build import build_prompter
    from erc_llm.config import load_config
    from erc_llm.models.loading import load_tokenizer
    from erc_llm.prompting.display import print_prompt
    from erc_llm.recipes.data import hide_selection

    loaded = load_config(config, overrides or [])
    section = loaded.corpus.model_copy(update={"path": corpus, "heal_from": heal_from})
    read = hide_selection(open_section(section, loaded, cut_selection=False), section)
    quiet()
    prompter = build_prompter(loaded, loaded.label_set(), load_tokenizer(loaded.model.base), past=read)
    print_prompt(prompter, read, dialogue, utterance, tokens, open_console())


@app.command()
def profile(
    corpus: CorpusPath,
    out: Annotated[Path | None, typer.Option(help="Write every profile as a row of this .jsonl file.")] = None,
    split: Annotated[str | None, typer.Option(help="With --out: this split only; all by default.")] = None,
    speaker: Annotated[str | None, typer.Option(help="Print the profile of this person, by full name ...")] = None,
    at: Annotated[str | None, typer.Option(help="... before the scene of this id.")] = None,
    heal_from: HealFrom = None,
    config: ConfigName = "smollm2-135m",
    allow_remote: Annotated[bool, typer.Option(help="Dialogue text may go to a remote profile.endpoint.")] = False,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as profile.writer=lines.")] = None,
) -> None:
    """What prompts say of each speaker's past: every profile as a row, or one with a time line of emotions."""
    from erc_llm.config import load_config
    from erc_llm.profile_view import check_asked, find_scene, open_view
    from erc_llm.recipes.data import hide_selection, say_oddities

    check_asked(out, split, speaker, at)
    loaded, console = load_config(config, overrides or []), open_console()
    section = loaded.corpus.model_copy(update={"path": corpus, "heal_from": heal_from})
    read = hide_selection(open_section(section, loaded, cut_selection=False), section)
    say_oddities(read, console)
    quiet()
    if out is not None:
        if split is not None:
            read.split(split)  # a wrong name is told before anything is loaded
        open_view(loaded, read, console, ask_server=True, allow_remote=allow_remote).write(out, split, console)
    elif speaker is not None and at is not None:
        person = section.aliases.get(speaker, speaker)
        found, dialogue = find_scene(read, at, person)
        open_view(loaded, read, console).show(person, found, dialogue, console)


@app.command()
def train(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of one that comes with the package.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as lora.rank=32.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run.")] = False,
) -> None:
    """Fine-tune an adapter and write a run directory."""
    from erc_llm.config import load_config

    loaded = load_config(config, overrides or [])
    quiet()
    from erc_llm.models.devices import leave_processes
    from erc_llm.recipes.train import train as run_training

    try:
        run = run_training(loaded, resume=resume, console=open_console())
    except KeyboardInterrupt:
        typer.echo("erc-llm: interrupted; the same command with --resume goes on from the last checkpoint", err=True)
        raise typer.Exit(130) from None
    leave_processes()
    typer.echo(f"run: {run.folder}   adapter: {run.adapter}")


@app.command()
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


for command in (predict, calibrate, evaluate, compare, baseline, benchmark):
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
