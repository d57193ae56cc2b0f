"""Prediction: labels a split of a corpus with a run or a base model, loaded here or served, and writes the table.

Input: `PredictOptions` (model, corpus, output file). Output: a file with a predictions table.
Does not depend on: how training works, the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console

from erc_llm.calibration.choose import AskedDecide, Calibrated, Prior, decide_by_itself
from erc_llm.config import RunConfig
from erc_llm.corpus import Corpus
from erc_llm.errors import UserError
from erc_llm.predictions import Predictions, PredictionsInfo, correct, write_predictions
from erc_llm.recipes.console import ConsoleProgress
from erc_llm.recipes.data import open_whole, print_warnings, with_selection
from erc_llm.recipes.prediction_info import chosen_on, table_info
from erc_llm.runs.opened import open_run

if TYPE_CHECKING:
    from erc_llm.build import Past
    from erc_llm.decoding.dialects import Constrain
    from erc_llm.predictor import Predictor


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """A model behind an OpenAI-compatible server, and how it is queried.

    Attributes:
        url: Address of the server.
        model: Name of the model on the server.
        constrain: See `erc_llm.decoding.dialects.dialect_of`.
        label_scores: Request exact log-likelihoods of all labels (vLLM only).
        concurrency: Number of simultaneous requests.
        timeout: Seconds within which a complete answer must arrive.
        allow_remote: Whether dialogue text may be sent to another machine.
    """

    url: str
    model: str
    constrain: Constrain = "auto"
    label_scores: bool = False
    concurrency: int = 4
    timeout: float = 60.0
    allow_remote: bool = False


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """Model, corpus and output file of a prediction.

    Attributes:
        source: A run directory; or a configuration, for zero-shot prediction with its base model.
        corpus: A corpus to use instead of the configuration's; None: the configuration's. For live use: the corpus
            that profiles are written from, or `none`; for a sharded prediction: an address of files.
        split: The split to predict.
        out: File of the table: `.parquet` or `.jsonl`; for a sharded prediction: a folder.
        heal_from: Original EmoryNLP files, from which lines missing in the `aligned` corpus are restored.
        with_text: Keep the text of the utterances in the table.
        prior: See `erc_llm.predictor.load`.
        calibration: See `erc_llm.predictor.load`.
        decide: See `erc_llm.predictor.load`.
        transductive: Find the rule that `decide` names on the distributions of the split itself.
        overrides: See `erc_llm.predictor.load`.
        abstain_below: Confidence threshold recorded in the table: predictions below it count as abstentions.
        server: The server of the model; None: the model is loaded here.
    """

    source: str
    corpus: str | None = None
    split: str = "dev"
    out: Path = Path("predictions.parquet")
    heal_from: str | None = None
    with_text: bool = True
    prior: Prior = "auto"
    calibration: Calibrated = "auto"
    decide: AskedDecide = "auto"
    transductive: bool = False
    overrides: tuple[str, ...] = ()
    abstain_below: float | None = None
    server: ServerOptions | None = None

    @property
    def stored_decide(self) -> AskedDecide:
        """The stored rule to use; none where the rule is found on the split itself."""
        return "probable" if self.transductive else self.decide


class PredictedFile(NamedTuple):
    """A table that was written, and remarks to print about it."""

    table: Predictions
    remarks: tuple[str, ...]


class OpenedCorpus(NamedTuple):
    """A corpus with the split to predict, and the same corpus uncut, from which profiles are written."""

    corpus: Corpus
    past: Corpus


def predict_to_file(options: PredictOptions, console: Console) -> PredictedFile:
    """Predict a split and write the table.

    Args:
        options: Model, corpus and output file.
        console: Console for progress.

    Raises:
        UserError: Options contradict each other; or run or corpus cannot be read, or the table cannot be written.
    """
    check_options(options)
    opened = open_run(options.source, options.overrides)
    check_probabilities(options, opened.config)
    if options.server is not None:
        from erc_llm.recipes.predict_served import predict_served_to_file

        return predict_served_to_file(options, options.server, opened, console)
    from erc_llm.predictor import load

    data = open_to_predict(opened.config, options.corpus, options.heal_from, options.split, console)
    predictor = load(
        opened, data.past, prior=options.prior, calibration=options.calibration, decide=options.stored_decide
    )
    table = predict_with_progress(predictor, data.corpus, options.split, console)
    return PredictedFile(write_table(table, options), ())


def open_live(options: PredictOptions, console: Console, beside: Predictor | None = None) -> Predictor:
    """A predictor for lines that are typed one by one; profiles are written from `options.corpus`.

    With `beside`, it shares the base model of another predictor; see `erc_llm.predictor.load`.

    Raises:
        UserError: A live session does not support one of the options, or loading fails.
    """
    from erc_llm.predictor import load

    if options.abstain_below is not None:
        raise UserError("--abstain-below is recorded in a table, and --interactive writes none; leave one of them out")
    if options.server is not None:
        raise UserError("--interactive needs a model that is loaded here; leave out --endpoint and --model")
    if options.transductive:
        raise UserError("--transductive: a rule found on a whole split cannot decide single lines; leave it out")
    opened = open_run(options.source, options.overrides)
    if opened.config.scoring.decode != "score":
        raise UserError(
            f"--interactive, serve and ui: show probabilities, and scoring.decode={opened.config.scoring.decode} has "
            "none; use scoring.decode=score"
        )
    past: Past = None
    if options.corpus == "none":
        past = "none"
    elif options.corpus is not None:
        past = open_to_predict(opened.config, options.corpus, options.heal_from, None, console).past
    return load(
        opened,
        past,
        prior=options.prior,
        calibration=options.calibration,
        decide=options.decide,
        beside=beside,
    )


def open_to_predict(
    config: RunConfig, path: str | None, heal_from: str | None, split: str | None, console: Console
) -> OpenedCorpus:
    """Open the corpus whose `split` is predicted, and the past from which profiles are written.

    Args:
        config: Configuration of the run or base model.
        path: A corpus to use instead of the configuration's.
        heal_from: With `path`, the original files from which missing lines are restored.
        split: The split to predict, which must exist (`selection` is cut out of train); None: no split is predicted.
        console: Console for warnings.
    """
    past = open_whole(config, path, heal_from)
    corpus = with_selection(past, config.corpus) if split == "selection" else past
    print_warnings(corpus, console)
    if split is not None:
        corpus.split(split)
    return OpenedCorpus(corpus, past)


def predict(
    predictor: Predictor,
    corpus: Corpus,
    split: str,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> Predictions:
    """The predictions table of one split; scores are corrected by the predictor's correction."""
    dialogues = corpus.split(split)
    predictions = predictor.predictions(dialogues, on_progress)
    info = describe_table(predictor, corpus, split)
    table = Predictions.from_corpus(info, dialogues, predictions, corpus.dialogues(), corpus.generic)
    return correct(table, predictor.correction) if predictor.config.scoring.decode == "score" else table


def predict_with_progress(predictor: Predictor, corpus: Corpus, split: str, console: Console) -> Predictions:
    """`predict`, with a progress bar in a terminal."""
    with ConsoleProgress(console).bar(f"scoring {split}", len(corpus.split(split)), transient=True) as bar:
        return predict(predictor, corpus, split, on_progress=bar.update)


def write_table(table: Predictions, options: PredictOptions) -> Predictions:
    """Write a table according to the options, decided on itself if they say so; returns the table that was written."""
    if options.transductive:
        assert options.decide in ("weighted_f1", "macro_f1"), "`check_options` refuses others"
        table = decide_by_itself(table, options.decide)
    table = replace(table, info=replace(table.info, abstain_below=options.abstain_below))
    table = table if options.with_text else table.without_text()
    write_predictions(table, options.out)
    return table


def describe_table(predictor: Predictor, corpus: Corpus, split: str) -> PredictionsInfo:
    """Metadata of a table of this predictor's scores, before they are corrected."""
    config, run = predictor.config, predictor.run
    decoding, scored = config.scoring.decoding, config.scoring.decode == "score"
    system = config.name if run else f"{config.model.base} zero-shot"
    if predictor.export is not None and predictor.export.form != "peft":
        system += f", {predictor.export.form} in {predictor.export.stored}"
    info = table_info(config, run, predictor.prompter, corpus, split)
    mixing = predictor.correction.mixing
    return replace(
        info,
        system=f"{system}, {decoding}" if decoding else system,
        selection=(chosen_on(run, predictor.correction) if scored else None) or info.selection,
        neighbours=None if mixing is None else mixing.words,
        decoding=decoding,
        base_model=predictor.loaded.description,
        base_model_sha256=predictor.loaded.weights_sha256,
    )


def check_options(options: PredictOptions) -> None:
    """Refuse contradictory options before anything is read."""
    if options.out.suffix not in (".parquet", ".jsonl"):
        raise UserError(f"--out {options.out}: expected a name that ends in .parquet or .jsonl")
    if options.transductive and options.decide not in ("weighted_f1", "macro_f1"):
        raise UserError("--transductive: finds a rule for F1; give --decide weighted_f1 or macro_f1 with it")
    server = options.server
    if server is None:
        return
    if any(text.startswith("scoring.decode=") for text in options.overrides):
        raise UserError("--decode: --constrain and --label-scores set how a served model answers; leave --decode out")
    for option in _needing_probabilities(options) if not server.label_scores else ():
        raise UserError(
            f"{option}: needs probabilities, and a served model that writes text gives none; add --label-scores (vLLM "
            "only), or leave it out"
        )


def check_probabilities(options: PredictOptions, config: RunConfig) -> None:
    """Refuse options that need probabilities where the configuration gives none."""
    for option in _needing_probabilities(options) if config.scoring.decode != "score" else ():
        raise UserError(f"{option}: needs probabilities; scoring.decode={config.scoring.decode} has none")


def _needing_probabilities(options: PredictOptions) -> list[str]:
    """The options given that need probabilities of the labels."""
    given = {"--abstain-below": options.abstain_below is not None, "--transductive": options.transductive}
    return [option for option, is_given in given.items() if is_given]
