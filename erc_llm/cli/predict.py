"""The prediction commands: `predict` and `calibrate`.

Input: command-line arguments. Output: predictions tables, or a run's calibration.
Does not depend on: torch and transformers until a command runs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from erc_llm.cli.options import (
    HealFrom,
    WithoutText,
    open_console,
    open_output,
    prepare_scoring,
    print_note,
)
from erc_llm.errors import UserError

if TYPE_CHECKING:
    from erc_llm.decoding.dialects import Constrain
    from erc_llm.predictions import Predictions
    from erc_llm.recipes.predict import PredictOptions, ServerOptions

SERVED = "A model behind an OpenAI-compatible server"
SHARDED = "A corpus too large for one process"
PriorOption = Annotated[
    str,
    typer.Option(
        help="Label prior to correct predictions to: none, corpus (the label distribution of train), or "
        "probabilities in label order such as 0.1,0.7,0.2. auto is corpus, which changes nothing unless training "
        "balanced the classes. 0 rules a label out; labels that training never saw must have 0."
    ),
]


def predict(
    source: Annotated[
        str, typer.Argument(help="Run directory; or a configuration, for zero-shot prediction with its base model.")
    ],
    corpus: Annotated[
        str | None,
        typer.Argument(
            help="Corpus file or folder. Default: the run's corpus. With --interactive: the corpus from which speaker "
            "profiles are written, or none. With --engine ray: path, glob or address of JSONL or Parquet files."
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split to predict. Default: dev.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Predictions table to write: .parquet or .jsonl; with --engine ray a folder. Default: "
            "predictions.parquet."
        ),
    ] = None,
    heal_from: HealFrom = None,
    without_text: WithoutText = False,
    interactive: Annotated[
        bool, typer.Option("--interactive", help="Label lines as you type them, instead of a split.")
    ] = False,
    prior: PriorOption = "auto",
    calibration: Annotated[
        Literal["auto", "none", "run"],
        typer.Option(
            help="run: apply the calibration that is stored with the run; none: do not. auto: apply it if the run "
            "names a decision rule of its own, or if the rule of --decide was found on calibrated probabilities."
        ),
    ] = "auto",
    decide: Annotated[
        Literal["auto", "probable", "weighted_f1", "macro_f1", "weights"],
        typer.Option(
            help="How the label is chosen. probable: the most probable one. weighted_f1, macro_f1: by the rule that is "
            "best for it in expectation, stored with the run. weights: by stored weights that were fitted with labels. "
            "auto: the rule that the run names, else probable."
        ),
    ] = "auto",
    transductive: Annotated[
        bool,
        typer.Option(
            "--transductive",
            help="Find the rule of --decide on the probabilities of this split (no labels) instead of using the stored "
            "one. An answer then depends on the other lines.",
        ),
    ] = False,
    abstain_below: Annotated[
        float | None,
        typer.Option(
            help="Confidence threshold recorded in the table: predictions below it count as abstentions, but stay in "
            "the table.",
            min=0,
            max=1,
        ),
    ] = None,
    decode: Annotated[
        str | None,
        typer.Option(
            help="score (exact label probabilities), generate (text constrained to the labels) or free (unconstrained "
            "text); short for --set scoring.decode=..."
        ),
    ] = None,
    forecast: Annotated[
        bool,
        typer.Option(
            "--forecast",
            help="Predict each line's label before the line is read; short for --set scoring.forecast=true.",
        ),
    ] = False,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change a setting of the run: scoring.FIELD=VALUE, or, for a run from another machine, model.base, "
            "model.device, model.precision or profile.notes. Repeatable.",
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            help="A further run on the same base model, which is loaded once. Each run's table gets the run's name "
            "before the suffix of --out. Repeatable."
        ),
    ] = None,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="With --adapter: one table, the mean of the runs' distributions.")
    ] = False,
    endpoint: Annotated[
        str | None,
        typer.Option(help="Address of the server, such as http://127.0.0.1:8000/v1.", rich_help_panel=SERVED),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name of the model on the server.", rich_help_panel=SERVED)] = None,
    constrain: Annotated[
        Literal["auto", "none", "vllm", "llamacpp"],
        typer.Option(
            help="How the server constrains answers to the labels; auto: detect what it supports.",
            rich_help_panel=SERVED,
        ),
    ] = "auto",
    label_scores: Annotated[
        bool,
        typer.Option(
            "--label-scores", help="Request exact log-likelihoods of all labels (vLLM only).", rich_help_panel=SERVED
        ),
    ] = False,
    concurrency: Annotated[
        int, typer.Option(help="Number of simultaneous requests.", min=1, rich_help_panel=SERVED)
    ] = 4,
    timeout: Annotated[
        float,
        typer.Option(help="Seconds within which a complete answer must arrive.", min=0.1, rich_help_panel=SERVED),
    ] = 60.0,
    allow_remote: Annotated[
        bool,
        typer.Option(
            help="Allow dialogue text to be sent to an --endpoint on another machine.", rich_help_panel=SERVED
        ),
    ] = False,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(
            help="ray: label all dialogues of the files in shards, by several workers; the same command goes on after "
            "an interruption.",
            rich_help_panel=SHARDED,
        ),
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            help="Workers, each with a model of its own. Default: one for each GPU; without GPUs one.",
            min=1,
            rich_help_panel=SHARDED,
        ),
    ] = None,
    shard_dialogues: Annotated[int, typer.Option(help="Dialogues of a shard.", min=1, rich_help_panel=SHARDED)] = 256,
) -> None:
    """Predict a split and write the predictions table, or label lines as you type them."""
    prepare_scoring()
    from erc_llm.calibration.choose import parse_prior
    from erc_llm.recipes.console import print_warning
    from erc_llm.recipes.predict import PredictOptions, open_live, predict_to_file

    sharded = engine == "ray"
    if sharded and (given := _unsharded(interactive, adapter, split)):
        raise UserError(f"--engine ray: does not support {given}; leave one of them out")
    if not sharded and (workers is not None or shard_dialogues != 256):
        raise UserError("--workers and --shard-dialogues: belong to --engine ray; add it, or leave them out")
    out = Path("predictions" if sharded else "predictions.parquet") if out is None else out

    short = [f"scoring.decode={decode}"] if decode else []
    short += ["scoring.forecast=true"] if forecast else []
    server = _server(endpoint, model, constrain, label_scores, concurrency, timeout, allow_remote, interactive)
    options = PredictOptions(
        source=source,
        corpus=corpus,
        split=split or "dev",
        out=out,
        heal_from=heal_from,
        with_text=not without_text,
        prior=parse_prior(prior),
        calibration=calibration,
        decide=decide,
        transductive=transductive,
        overrides=(*(changes or []), *short),
        abstain_below=abstain_below,
        server=server,
    )
    if sharded:
        _predict_sharded(options, workers, shard_dialogues)
        return
    if ensemble and not adapter:
        raise UserError("--ensemble: averages several runs; name the others with --adapter")
    if adapter:
        if interactive:
            raise UserError("--adapter: predicts a split; leave --interactive out")
        from erc_llm.recipes.predict_together import predict_together

        for path, one in predict_together(options, adapter, ensemble, open_console()):
            _report(one.table, path)
        return
    if interactive:
        from erc_llm.cli.terminal import talk

        talk(open_live(options, open_console()), sys.stdin, open_output())
        return
    written = predict_to_file(options, open_console())
    _report(written.table, out)
    for sentence in written.remarks:
        print_warning(sentence, open_console())


def _unsharded(interactive: bool, adapter: list[str] | None, split: str | None) -> str | None:
    """An option that was given and that a sharded prediction does not support."""
    given = {
        "--interactive": interactive,
        "--adapter": bool(adapter),
        "--split (all dialogues of the files are labelled)": split is not None,
    }
    return next((name for name, is_given in given.items() if is_given), None)


def _predict_sharded(options: PredictOptions, workers: int | None, dialogues: int) -> None:
    from erc_llm.recipes.predict_sharded import Sharding, predict_sharded

    try:
        found = predict_sharded(options, Sharding(workers=workers, dialogues=dialogues), open_console())
    except KeyboardInterrupt:
        typer.echo("erc-llm: interrupted; the same command goes on where it was", err=True)
        raise typer.Exit(130) from None
    print_note(f"{found.rows} predictions of {found.dialogues} dialogues written to {options.out}")
    if found.failed:
        raise UserError(f"{found.failed} dialogues have no predictions; {found.errors} says why, shard by shard")


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
    """The server that the options name; None if the model is loaded here."""
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
        raise UserError("a served model needs both --endpoint and --model, and does not support --interactive")
    return None


def _report(table: Predictions, out: Path) -> None:
    from erc_llm.predictions import Correction

    info = table.info
    print_note(f"{len(table)} predictions of {info.split} ({info.corpus_version}) written to {out}")
    for words in filter(None, (info.prior, info.calibration)):
        print_note(f"corrected: {words}")
    if info.neighbours_weight is not None:
        print_note(f"mixed in with weight {info.neighbours_weight:.3f}: {info.neighbours}")
    decision = Correction.of(info).decision
    if info.decoding is None or decision is not None:
        print_note(f"decided: {'the most probable label' if decision is None else decision.words}")
    if info.abstain_below is not None:
        count = int(table.abstained().sum())
        print_note(f"{count} of them abstain: their largest probability is below {info.abstain_below:g}")


def calibrate(
    source: Annotated[str, typer.Argument(help="Run directory.")],
    corpus: Annotated[
        str | None, typer.Argument(help="Path of the run's corpus, if it has moved since training.")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="The run's predictions table of split `selection`. Default: predict that split now; for a "
            "cross-fitted run, its out-of-fold table."
        ),
    ] = None,
    prior: PriorOption = "auto",
    fit_for: Annotated[
        Literal["nll", "weighted_f1"],
        typer.Option(
            help="nll: calibrate the probabilities, and find the decision rules for F1, which needs no labels; "
            "weighted_f1: also fit decision weights per label, kept if they raise held-out weighted F1."
        ),
    ] = "nll",
    decide: Annotated[
        Literal["probable", "weighted_f1", "macro_f1", "weights"] | None,
        typer.Option(
            help="How predictions choose the label from now on, unless --decide says otherwise. Default: the most "
            "probable label, without calibration; weighted_f1 for a cross-fitted run."
        ),
    ] = None,
    neighbours: Annotated[
        str | None,
        typer.Option(
            metavar="ENCODER",
            help="Also mix in the labels of the nearest lines of train, if that lowers held-out NLL. ENCODER: words "
            "(no model needed), all-minilm-l6-v2, all-mpnet-base-v2, a folder or a hub id; hidden: the hidden states "
            "of the run itself.",
        ),
    ] = None,
    search: Annotated[
        Literal["exact", "approximate"],
        typer.Option(
            help="With --neighbours ENCODER: how the index is searched. approximate is for hundreds of thousands of "
            "lines, and needs pip install 'erc-llm\\[neighbours]'."
        ),
    ] = "exact",
    seed: Annotated[int, typer.Option(help="Random seed of the cross-validation folds.", min=0)] = 0,
    heal_from: HealFrom = None,
) -> None:
    """Fit a calibration and find decision rules on a run's held-out part of train, and store them with the run.

    That is the selection split of a training run, and the out-of-fold table of a cross-fitted one. The calibration is
    chosen by cross-validation.
    """
    prepare_scoring()
    from erc_llm.calibration.choose import parse_prior, prior_shift
    from erc_llm.predictions import read_predictions
    from erc_llm.recipes.calibrate import calibrate_run, check_table, predict_selection, read_train_lines
    from erc_llm.runs.directory import read_run
    from erc_llm.runs.opened import refuse_control

    if corpus is not None and predictions is not None and neighbours is None:
        raise UserError("CORPUS and --predictions exclude each other: the table replaces predicting the corpus")
    if search != "exact" and neighbours is None:
        raise UserError(f"--search {search}: is how neighbours are found; add --neighbours ENCODER, or leave it out")
    run = read_run(source)
    refuse_control(run)
    shift = prior_shift(run.manifest, parse_prior(prior))
    table = None
    if predictions is not None:
        table, name = read_predictions(predictions), str(predictions)
        check_table(run, table, name)
    lines = None
    if neighbours is not None:
        lines = read_train_lines(run, neighbours, search, corpus, heal_from, open_console())
    if table is None:
        table, name = predict_selection(run, corpus, heal_from, open_console())
    if decide is None and run.manifest.folds is not None:
        decide = "weighted_f1"
    path = calibrate_run(run, table, name, shift, fit_for, seed, open_output(), decide, lines)
    how = "" if decide else " --calibration run"
    print_note(f"calibration written to {path}; `erc-llm predict {source}{how}` applies it")
