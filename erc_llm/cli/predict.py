"""The commands about predictions: `predict` and `calibrate`.

Does not depend on: torch and transformers until a command runs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from erc_llm.cli.options import HealFrom, open_console, prepare_scoring
from erc_llm.errors import UserError

if TYPE_CHECKING:
    from erc_llm.corpus import Corpus
    from erc_llm.predictions import Predictions
    from erc_llm.recipes.predict_served import ServedModel

SERVED = "A model behind an OpenAI-compatible server"
PriorOption = Annotated[
    str,
    typer.Option(
        help="Label shares to answer by: none, corpus, or shares in label order such as 0.1,0.7,0.2. "
        "auto is corpus, which changes nothing unless training balanced the classes. A share of 0 rules a label out; a "
        "label that training never saw can have no other."
    ),
]


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
        str | None,
        typer.Option(help="Ask a model behind this server, such as http://127.0.0.1:8000/v1.", rich_help_panel=SERVED),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The name its server knows the model by.", rich_help_panel=SERVED)
    ] = None,
    constrain: Annotated[
        Literal["auto", "none", "vllm", "llamacpp"],
        typer.Option(
            help="How its server holds answers to the labels; auto: as it can, if it says so.", rich_help_panel=SERVED
        ),
    ] = "auto",
    label_scores: Annotated[
        bool,
        typer.Option("--label-scores", help="vLLM only: exact log-likelihoods of all labels.", rich_help_panel=SERVED),
    ] = False,
    concurrency: Annotated[int, typer.Option(help="Requests at once.", min=1, rich_help_panel=SERVED)] = 4,
    timeout: Annotated[
        float,
        typer.Option(help="Seconds within which an answer must be there, all of it.", min=0.1, rich_help_panel=SERVED),
    ] = 60.0,
    allow_remote: Annotated[
        bool, typer.Option(help="Dialogue text may go to a remote --endpoint.", rich_help_panel=SERVED)
    ] = False,
) -> None:
    """Label a split and write the predictions table, or label lines one by one."""
    from erc_llm.calibration.choose import parse_prior
    from erc_llm.config import override_scoring
    from erc_llm.recipes.predict import find_source, open_to_predict, predict_on_console
    from erc_llm.runs.directory import read_run

    prepare_scoring()
    if not interactive and out.suffix not in (".parquet", ".jsonl"):
        raise UserError(f"--out {out}: expected a name that ends in .parquet or .jsonl")
    if interactive and abstain_below is not None:
        raise UserError("--abstain-below is noted in a table, and --interactive writes none; leave one of them out")
    server = None
    if endpoint is not None and model is not None and not interactive:
        from erc_llm.models.endpoint import Endpoint

        _check_served(decode, abstain_below, label_scores)
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
        read = open_to_predict(config, corpus, heal_from, None if interactive else split, open_console())
    if server is not None and read is not None:
        from erc_llm.recipes.predict_served import open_served

        served = open_served(
            found,
            server,
            constrain,
            label_scores=label_scores,
            past=read,
            prior=wanted,
            calibration=calibration,
            overrides=overrides,
        )
        _predict_served(served, read, split, out, abstain_below, without_text)
        return
    from erc_llm.predictor import load

    predictor = load(found, past=read, prior=wanted, calibration=calibration, overrides=overrides)
    if interactive or read is None:
        from erc_llm.cli.terminal import talk

        talk(predictor, sys.stdin, open_console())
    else:
        _write_split(predict_on_console(predictor, read, split, open_console()), read, out, abstain_below, without_text)


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
    prepare_scoring()
    from erc_llm.calibration.choose import parse_prior, prior_shift
    from erc_llm.predictions import read_predictions
    from erc_llm.recipes.calibrate import calibrate_run, predict_selection
    from erc_llm.runs.directory import read_run

    if corpus is not None and predictions is not None:
        raise UserError("a corpus is there to be predicted, --predictions to skip that; leave one of them out")
    run = read_run(source)
    shift = prior_shift(run.manifest, parse_prior(prior))
    if predictions is not None:
        table, name = read_predictions(predictions), str(predictions)
    else:
        table, name = predict_selection(run, corpus, heal_from, open_console())
    path = calibrate_run(run, table, name, shift, fit_for, seed, open_console())
    typer.echo(f"calibration written to {path}; `erc-llm predict {source} --calibration run` applies it")


def _check_served(decode: str | None, abstain_below: float | None, label_scores: bool) -> None:
    """Refuse options that a served model could not follow."""
    if decode is not None:
        raise UserError("--decode: how a served model answers is said by --constrain and --label-scores; leave it out")
    if abstain_below is not None and not label_scores:
        raise UserError(
            "--abstain-below: looks at probabilities, and a served model that writes text gives none; add "
            "--label-scores (vLLM only), or leave it out"
        )


def _predict_served(
    served: ServedModel, read: Corpus, split: str, out: Path, below: float | None, without_text: bool
) -> None:
    from erc_llm.recipes.predict_served import predict_on_console, tell_answers

    console, journal = open_console(), served.journal(out, read, split)
    table = predict_on_console(served, read, split, journal, console)
    _write_split(table, read, out, below, without_text)
    journal.remove()
    tell_answers(served, table, console)


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
