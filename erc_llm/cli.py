"""The command line: thin commands over the pipeline.

A user's mistake ends with one message and exit code 2, ours with exit code 1. Heavy libraries are imported inside the
commands that need them, so `--help` is instant.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from erc_llm import __version__
from erc_llm.errors import ErcError, UserError

if TYPE_CHECKING:
    from rich.console import Console

    from erc_llm.config import CorpusConfig, RunConfig
    from erc_llm.corpus import Corpus
    from erc_llm.predictions import Predictions

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Fine-tune an open LLM to recognise emotion in conversation: one token tree per scene, exact probabilities.",
)

CorpusPath = Annotated[str, typer.Argument(help="A corpus file or folder; `sample` is the embedded corpus.")]
HealFrom = Annotated[str | None, typer.Option(help="Original EmoryNLP files, to restore lines `aligned` lacks.")]
PriorOption = Annotated[
    str,
    typer.Option(
        help="Label shares to answer by: none, corpus, or shares in label order such as 0.1,0.7,0.2. "
        "auto is corpus, which changes nothing unless training balanced the classes."
    ),
]
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
    _quiet()
    from erc_llm.demo import run_demo

    run_demo(output, overrides or [], _console())


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
    summary = summarise(_read(section, loaded, cut_selection=False))
    print_summary(summary, _console())
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
    from erc_llm.config import load_config
    from erc_llm.models import load_tokenizer
    from erc_llm.pipeline import hide_selection
    from erc_llm.predictor import make_prompter
    from erc_llm.prompting.display import print_prompt

    loaded = load_config(config, overrides or [])
    section = loaded.corpus.model_copy(update={"path": corpus, "heal_from": heal_from})
    read = hide_selection(_read(section, loaded, cut_selection=False), section)
    _quiet()
    prompter = make_prompter(loaded, loaded.label_set(), load_tokenizer(loaded.model.base), past=read)
    print_prompt(prompter, read, dialogue, utterance, tokens, _console())


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
    from erc_llm.pipeline import hide_selection, say_oddities
    from erc_llm.profile_view import check_asked, find_scene, open_view

    check_asked(out, split, speaker, at)
    loaded, console = load_config(config, overrides or []), _console()
    section = loaded.corpus.model_copy(update={"path": corpus, "heal_from": heal_from})
    read = hide_selection(_read(section, loaded, cut_selection=False), section)
    say_oddities(read, console)
    _quiet()
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
    _quiet()
    from erc_llm.training import train as run_training

    try:
        run = run_training(loaded, resume=resume, console=_console())
    except KeyboardInterrupt:
        typer.echo("erc-llm: interrupted; the same command with --resume goes on from the last checkpoint", err=True)
        raise typer.Exit(130) from None
    typer.echo(f"run: {run.folder}   adapter: {run.adapter}")


@app.command()
def predict(
    source: Annotated[str, typer.Argument(help="A run directory; or a configuration, for its base model zero-shot.")],
    corpus: Annotated[
        str | None, typer.Argument(help="A corpus; by default the run's own. With --interactive: the past.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which split.")] = "dev",
    out: Annotated[Path, typer.Option(help="Predictions table: .parquet or .jsonl.")] = Path("predictions.parquet"),
    heal_from: HealFrom = None,
    without_text: Annotated[bool, typer.Option("--without-text", help="Leave out what was said, to share it.")] = False,
    interactive: Annotated[bool, typer.Option("--interactive", help="Label lines as you type them.")] = False,
    prior: PriorOption = "auto",
    calibration: Annotated[
        Literal["none", "run"], typer.Option(help="run: as `erc-llm calibrate` stored it with the run.")
    ] = "none",
    abstain_below: Annotated[
        float | None,
        typer.Option(help="Note in the table that less sure answers do not count; all stay in it.", min=0, max=1),
    ] = None,
    decode: Annotated[str | None, typer.Option(help="score, generate or free: short for --set scoring.decode=")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Another scoring.FIELD=VALUE than the run's. Repeatable.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="Ask a model behind this OpenAI-compatible server: http://127.0.0.1:8000/v1.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="--endpoint: the name its server knows the model by.")] = None,
    constrain: Annotated[
        Literal["auto", "none", "vllm", "llamacpp"],
        typer.Option(help="--endpoint: how its server holds answers to the labels; auto: as it can, if it says so."),
    ] = "auto",
    label_scores: Annotated[
        bool, typer.Option("--label-scores", help="--endpoint, vLLM: exact log-likelihoods of all labels.")
    ] = False,
    concurrency: Annotated[int, typer.Option(help="--endpoint: requests at once.", min=1)] = 4,
    timeout: Annotated[float, typer.Option(help="--endpoint: seconds to wait for one answer.", min=0.1)] = 60.0,
    allow_remote: Annotated[bool, typer.Option(help="Dialogue text may go to a remote --endpoint.")] = False,
) -> None:
    """Label a split and write the predictions table, or label lines one by one."""
    from erc_llm.config import override_scoring
    from erc_llm.decoding.calibration_file import parse_prior
    from erc_llm.pipeline import find_source, open_to_predict, predict_on_console
    from erc_llm.runs import read_run

    _quiet()
    if not interactive and out.suffix not in (".parquet", ".jsonl"):
        raise UserError(f"--out {out}: expected a name that ends in .parquet or .jsonl")
    if interactive and abstain_below is not None:
        raise UserError("--abstain-below is noted in a table, and --interactive writes none; leave one of them out")
    server = None
    if endpoint is not None and model is not None and not interactive:
        from erc_llm.endpoints import Endpoint

        if decode or changes or prior not in ("auto", "none") or calibration != "none" or abstain_below is not None:
            raise UserError(
                "--endpoint: a served model answers in its own way; leave out --decode, --set, --prior, "
                "--calibration and --abstain-below"
            )
        server = Endpoint(endpoint, model, allow_remote=allow_remote, timeout=timeout, concurrency=concurrency)
    elif endpoint is not None or model is not None or label_scores or constrain != "auto":
        raise UserError("a served model needs --endpoint and --model, and cannot be --interactive")
    found, wanted = find_source(source), parse_prior(prior)
    config = read_run(found).config if isinstance(found, Path) else found
    overrides = [*(changes or []), *([f"scoring.decode={decode}"] if decode else [])]
    config = override_scoring(config, overrides)
    if interactive and config.scoring.decode != "score":
        raise UserError(f"--interactive: shows distributions; scoring.decode={config.scoring.decode} has none")
    if abstain_below is not None and config.scoring.decode != "score":
        raise UserError(f"--abstain-below: looks at probabilities; scoring.decode={config.scoring.decode} has none")
    read = None
    if corpus is not None or not interactive:
        read = open_to_predict(config, corpus, heal_from, None if interactive else split, _console())
    if server is not None and read is not None:
        from erc_llm.served_predictions import open_served, write_served

        served = open_served(found, server, constrain, label_scores=label_scores, past=read)
        write_served(served, read, split, out, _console(), with_text=not without_text)
        return
    from erc_llm.predictor import load

    predictor = load(found, past=read, prior=wanted, calibration=calibration, overrides=overrides)
    if interactive or read is None:
        from erc_llm.terminal import talk

        talk(predictor, sys.stdin, _console())
    else:
        _write_split(predict_on_console(predictor, read, split, _console()), read, out, abstain_below, without_text)


@app.command()
def calibrate(
    source: Annotated[str, typer.Argument(help="A run directory.")],
    corpus: Annotated[str | None, typer.Argument(help="Where the run's corpus is, if not where it was.")] = None,
    predictions: Annotated[Path | None, typer.Option(help="Its table of split `selection`, not to predict it.")] = None,
    prior: PriorOption = "auto",
    fit_for: Annotated[
        Literal["nll", "weighted_f1"],
        typer.Option(help="weighted_f1: besides, weigh labels when one is chosen, if that is shown to help."),
    ] = "nll",
    seed: Annotated[int, typer.Option(help="Of the folds of the cross-validation.", min=0)] = 0,
    heal_from: HealFrom = None,
) -> None:
    """Fit a calibration on the selection split, chosen by cross-validation over dialogues; stored with the run."""
    _quiet()
    from erc_llm.calibrating import calibrate_run
    from erc_llm.decoding.calibration_file import parse_prior, prior_shift
    from erc_llm.pipeline import open_to_predict, predict_on_console
    from erc_llm.predictions import read_predictions
    from erc_llm.runs import read_run

    if corpus is not None and predictions is not None:
        raise UserError("a corpus is there to be predicted, --predictions to skip that; leave one of them out")
    run = read_run(source)
    shift = prior_shift(run.manifest, parse_prior(prior))
    if predictions is not None:
        table, name = read_predictions(predictions), str(predictions)
    else:
        read = open_to_predict(run.config, corpus, heal_from, "selection", _console())
        from erc_llm.predictor import load

        by_scores = ["scoring.decode=score", "scoring.answer=label"]  # whatever the run's tables are made by
        predictor = load(run.folder, past=read, prior="none", overrides=by_scores)
        table, name = predict_on_console(predictor, read, "selection", _console()), read.name
    path = calibrate_run(run, table, name, shift, fit_for, seed, _console())
    typer.echo(f"calibration written to {path}; `erc-llm predict {source} --calibration run` applies it")


def _write_split(table: Predictions, read: Corpus, out: Path, below: float | None, without_text: bool) -> None:
    from dataclasses import replace

    from erc_llm.predictions import write_predictions

    table = replace(table, info=replace(table.info, abstain_below=below))
    write_predictions(_without_text(table) if without_text else table, out)
    typer.echo(f"{len(table)} predictions of {table.info.split} ({read.version}) written to {out}")
    for words in filter(None, (table.info.prior, table.info.calibration)):
        typer.echo(f"corrected: {words}")
    if below is not None:
        typer.echo(f"{int(table.abstained().sum())} of them abstain: their largest probability is below {below:g}")


def _without_text(table: Predictions) -> Predictions:
    """The table without what was said; free text, and reasons before a label, may quote it."""
    from dataclasses import replace

    raw_answer = table.raw_answer if table.info.decoding == "constrained generation" else None
    return replace(table, text=None, raw_answer=raw_answer)


@app.command()
def evaluate(
    predictions: Annotated[Path, typer.Argument(help="A predictions table.")],
    against: Annotated[
        list[str] | None,
        typer.Option(help="Another table, `all-neutral` or `prior-random`: the paired difference. Repeatable."),
    ] = None,
    draws: Annotated[int, typer.Option(help="Bootstrap draws.", min=100)] = 10_000,
    abstain_below: Annotated[
        float | None, typer.Option(help="Also score the answers at least this sure; by default as noted.", min=0, max=1)
    ] = None,
    plots: Annotated[Path | None, typer.Option(help="Folder for reliability and risk by coverage as PNG.")] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Also write the figures as JSON.")] = None,
) -> None:
    """Figures of a predictions table, with intervals from a bootstrap over whole dialogues."""
    import json

    from erc_llm.evaluation.references import difference, print_differences, reference_by_name
    from erc_llm.evaluation.report import evaluate as figures_of
    from erc_llm.evaluation.report import print_evaluation
    from erc_llm.files import write_text
    from erc_llm.predictions import read_predictions

    table = read_predictions(predictions)
    evaluation = figures_of(table, draws=draws, abstain_below=abstain_below)
    if plots is not None and evaluation.calibration is None:
        raise UserError(f"--plots: {predictions} has no probabilities to draw")
    others = [reference_by_name(table, name) or read_predictions(name) for name in against or []]
    differences = [difference(table, other, draws=draws) for other in others]
    print_evaluation(evaluation, _console())
    if differences:
        print_differences(differences, _console())
    if plots is not None and evaluation.calibration is not None:
        from erc_llm.evaluation.plots import write_plots

        for path in write_plots(evaluation.calibration, plots, f"{table.info.system}, split {table.info.split}"):
            typer.echo(f"drawn: {path}")
    if json_out:
        content = evaluation.as_dict() | {"differences": [d.as_dict() for d in differences]}
        write_text(json_out, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _read(section: CorpusConfig, config: RunConfig, cut_selection: bool) -> Corpus:
    from erc_llm.pipeline import open_corpus

    return open_corpus(section, config.label_set(), cut_selection=cut_selection)


def _console() -> Console:
    from rich.console import Console

    return Console()


def _quiet() -> None:
    """Keep the libraries' notices off the screen; their errors still arrive as exceptions."""
    import logging
    import warnings

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    warnings.simplefilter("ignore", FutureWarning)
    for library in ("accelerate", "bitsandbytes"):
        logging.getLogger(library).setLevel(logging.ERROR)


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
