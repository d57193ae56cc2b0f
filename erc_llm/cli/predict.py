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
    from erc_llm.decoding.dialects import Constrain
    from erc_llm.predictions import Predictions
    from erc_llm.recipes.predict import ServerOptions

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
        list[str] | None,
        typer.Option(
            "--set",
            help="Override scoring.FIELD=VALUE, or where the run's model is on this machine: model.base, model.device, "
            "model.precision. Repeatable.",
        ),
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
    prepare_scoring()
    from erc_llm.calibration.choose import parse_prior
    from erc_llm.recipes.predict import PredictOptions, open_live, predict_to_file

    server = _server(endpoint, model, constrain, label_scores, concurrency, timeout, allow_remote, interactive)
    options = PredictOptions(
        source=source,
        corpus=corpus,
        split=split,
        out=out,
        heal_from=heal_from,
        with_text=not without_text,
        prior=parse_prior(prior),
        calibration=calibration,
        overrides=(*(changes or []), *([f"scoring.decode={decode}"] if decode else [])),
        abstain_below=abstain_below,
        server=server,
    )
    if interactive:
        from erc_llm.cli.terminal import talk

        talk(open_live(options, open_console()), sys.stdin, open_console())
        return
    written = predict_to_file(options, open_console())
    _report(written.table, out)
    for sentence in written.remarks:
        typer.echo(sentence)


def _server(
    endpoint: str | None,
    model: str | None,
    constrain: Constrain,
    label_scores: bool,
    concurrency: int,
    timeout: float,
    allow_remote: bool,
    interactive: bool,
) -> ServerOptions | None:
    """The server that was asked for; None where the model is here."""
    from erc_llm.recipes.predict import ServerOptions

    if endpoint is not None and model is not None and not interactive:
        return ServerOptions(
            url=endpoint,
            model=model,
            constrain=constrain,
            label_scores=label_scores,
            concurrency=concurrency,
            timeout=timeout,
            allow_remote=allow_remote,
        )
    if endpoint is not None or model is not None or label_scores or constrain != "auto":
        raise UserError("a served model needs --endpoint and --model, and cannot be --interactive")
    return None


def _report(table: Predictions, out: Path) -> None:
    info = table.info
    typer.echo(f"{len(table)} predictions of {info.split} ({info.corpus_version}) written to {out}")
    for words in filter(None, (info.prior, info.calibration)):
        typer.echo(f"corrected: {words}")
    if info.abstain_below is not None:
        count = int(table.abstained().sum())
        typer.echo(f"{count} of them abstain: their largest probability is below {info.abstain_below:g}")


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
