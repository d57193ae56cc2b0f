"""Prediction with a served model: labels a split with a model behind an OpenAI-compatible server.

Responses are stored in a journal as they arrive, so that an interrupted call can continue. Server addresses are never
written to a table.

Input: a run or a configuration (whose prompts are sent), a server, a corpus. Output: `Predictions`.
Does not depend on: model weights; only the tokenizer of the base model is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np
from rich.console import Console
from rich.progress import Progress

from erc_llm.build import Past, build_prompter
from erc_llm.calibration.choose import AskedDecide, Calibrated, Prior, choose_correction
from erc_llm.calibration.neighbours import open_neighbours
from erc_llm.config import RunConfig
from erc_llm.corpus.dialogues import Corpus, Dialogue
from erc_llm.corpus.labels import LabelSet
from erc_llm.decoding.dialects import Constrain, Dialect, Scored, ServedResponse, Written, dialect_of
from erc_llm.decoding.scenes import scored_prediction
from erc_llm.decoding.scoring import LabelScores
from erc_llm.decoding.spelling import spelled_label
from erc_llm.errors import ConfigError
from erc_llm.models.endpoint import Endpoint, Request
from erc_llm.models.loading import load_tokenizer, read_tokenizer
from erc_llm.predictions import Correction, Prediction, Predictions, PredictionsInfo, correct
from erc_llm.prompting.messages import PromptText, prompt_texts
from erc_llm.prompting.prompter import Prompter
from erc_llm.recipes.predict import PredictedFile, PredictOptions, ServerOptions, open_to_predict, write_table
from erc_llm.recipes.prediction_info import chosen_on, table_info
from erc_llm.retrieval.index import Neighbours
from erc_llm.runs.directory import Run
from erc_llm.runs.journal import Journal
from erc_llm.runs.opened import Opened, open_run

State = Sequence[str | None]


@dataclass(frozen=True)
class ServedModel:
    """A model behind a server, with the prompts that are sent to it.

    Attributes:
        config: Configuration of the prompts.
        run: The run that the prompts belong to; None for a configuration. It is not checked that the server has the
            run's model.
        prompter: Builds the prompts.
        endpoint: The server.
        dialect: Form of requests and responses.
        correction: Correction of label scores; empty if the model writes text.
        neighbours: Neighbours of lines in train, whose labels the correction mixes in; None if it mixes in none.
    """

    config: RunConfig
    run: Run | None
    prompter: Prompter
    endpoint: Endpoint
    dialect: Dialect
    correction: Correction
    neighbours: Neighbours | None = None

    @property
    def labels(self) -> LabelSet:
        """The label set of the prompts."""
        return self.prompter.labels

    def journal(self, out: Path, corpus: Corpus, split: str) -> Journal:
        """The journal of the answers for a table `out`: beside it, with a hash of this job in its name."""
        asked = [self.endpoint.url, self.endpoint.model, self.dialect.name, self.prompter.template.sha256]
        job = _hash([*asked, corpus.sha256, split])
        return Journal(out.with_name(f"{out.name}.{job[:8]}.answers"))


def open_served(
    source: str | Path | RunConfig | Opened,
    endpoint: Endpoint,
    constrain: Constrain = "auto",
    *,
    label_scores: bool = False,
    past: Past = None,
    prior: Prior = "auto",
    calibration: Calibrated = "auto",
    decide: AskedDecide = "auto",
    overrides: Sequence[str] = (),
) -> ServedModel:
    """Prepare a served model; only the tokenizer of the base model is read.

    Args:
        source: A run directory, or a configuration; see `erc_llm.runs.opened.open_run`.
        endpoint: The server.
        constrain: See `dialect_of`.
        label_scores: See `dialect_of`.
        past: Conversations from which speaker profiles are written.
        prior: As for `erc_llm.load`; requires label scores.
        calibration: As for `erc_llm.load`; requires label scores.
        decide: As for `erc_llm.load`; a rule requires label scores.
        overrides: `key=value` texts, such as `scoring.label_orders=1`.

    Raises:
        RunError: There is no such run or calibration, or its prompt template differs from the one of its training.
        ConfigError: The server does not support the request, an override is wrong, or there are no scores to correct.
        ModelError: The server cannot be reached, or there is no tokenizer.
    """
    opened = open_run(source, overrides)
    config, run = opened.config, opened.run
    _check_scoring(config)
    correction = _correction(run, prior, calibration, decide, label_scores)
    merged = run is not None and opened.export is not None and opened.export.form in ("merged", "gguf")
    tokenizer = read_tokenizer(run.folder) if run is not None and merged else load_tokenizer(config.model.base)
    made = None if run is None else run.manifest
    prompter = build_prompter(config, config.label_set(), tokenizer, opened.template, past, made=made)
    dialect = dialect_of(
        endpoint, prompter, constrain, label_scores=label_scores, answer_tokens=config.scoring.answer_tokens
    )
    _check_decode(config, dialect)
    neighbours = open_neighbours(run, correction)
    if neighbours is not None and neighbours.by_states:
        raise ConfigError(
            "the run's neighbours are found by its hidden states, which a server does not return; calibrate it with "
            "--neighbours words or an encoder, or use --calibration none"
        )
    return ServedModel(config, run, prompter, endpoint, dialect, correction, neighbours)


def predict_served_to_file(
    options: PredictOptions, server: ServerOptions, opened: Opened, console: Console
) -> PredictedFile:
    """Predict a split with a model behind a server and write the table; an interrupted call can continue.

    Args:
        options: Corpus, split and output file.
        server: The server.
        opened: The run or configuration whose prompts are sent.
        console: Console for progress.

    Raises:
        UserError: The corpus cannot be read, the server gives no usable answer, or the table cannot be written.
    """
    endpoint = Endpoint(
        server.url,
        server.model,
        allow_remote=server.allow_remote,
        timeout=server.timeout,
        concurrency=server.concurrency,
    )
    data = open_to_predict(opened.config, options.corpus, options.heal_from, options.split, console)
    model = open_served(
        opened,
        endpoint,
        server.constrain,
        label_scores=server.label_scores,
        past=data.past,
        prior=options.prior,
        calibration=options.calibration,
        decide=options.stored_decide,
    )
    journal = model.journal(options.out, data.corpus, options.split)
    table = _predict_with_progress(model, data.corpus, options.split, journal, console)
    written = write_table(table, options)
    journal.remove()
    return PredictedFile(written, tuple(_remarks(model, table)))


def _check_scoring(config: RunConfig) -> None:
    """Refuse scoring settings that a server cannot follow: each target is one prompt, and its answer is a label."""
    scoring = config.scoring
    if scoring.forecast:
        raise ConfigError("scoring.forecast: a served model is asked about lines that it has read; leave it out")
    if scoring.label_orders > 1:
        raise ConfigError(
            f"scoring.label_orders={scoring.label_orders}: a served model gets one prompt per target, with the labels "
            "in their own order; set scoring.label_orders=1"
        )
    if scoring.answer != "label":
        raise ConfigError(
            f"scoring.answer={scoring.answer}: a served model answers with a label, without reasons; set "
            "scoring.answer=label and scoring.decode=score"
        )


def _check_decode(config: RunConfig, dialect: Dialect) -> None:
    """Refuse a `scoring.decode` that contradicts the dialect; `score` accepts every dialect."""
    way = "score" if isinstance(dialect, Scored) else "generate" if _choices(dialect) else "free"
    if config.scoring.decode not in ("score", way):
        raise ConfigError(
            f"scoring.decode={config.scoring.decode}: this server would return {dialect.name}; set "
            "scoring.decode=score, and choose the kind of answer with --constrain and --label-scores"
        )


def _correction(
    run: Run | None, prior: Prior, calibration: Calibrated, decide: AskedDecide, label_scores: bool
) -> Correction:
    if not label_scores:
        if prior not in ("auto", "none") or calibration == "run" or decide not in ("auto", "probable"):
            raise ConfigError(
                "prior, calibration and decision rule: they work on scores, and a served model that writes text gives "
                "none; add --label-scores (vLLM only), or leave them out"
            )
        return Correction()
    correction = choose_correction(run, prior, calibration, decide)
    if run and correction.calibrated and run.config.scoring.label_orders > 1:
        raise ConfigError(
            "calibration: the run's is fitted on scores with scoring.label_orders="
            f"{run.config.scoring.label_orders}, and a served model has those of one order; use --calibration none"
        )
    return correction


def predict_served(
    model: ServedModel,
    corpus: Corpus,
    split: str,
    journal: Journal,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """The predictions table of one split; the caller removes the journal once the table is written.

    An answer that names no label is invalid; so is an empty text in a proper response.

    Args:
        model: The served model.
        corpus: The corpus.
        split: Name of the split.
        journal: Answers from an interrupted call; new answers are appended.
        on_progress: Called with the number of prompts answered and the total.

    Raises:
        ModelError: The server gave no usable answer to a prompt after all retries; earlier answers are in the journal.
    """
    dialogues = corpus.split(split)
    states: list[State | None] = [None] * len(dialogues)
    if model.config.state.source == "predicted":
        first = _ask_all(model, dialogues, states, journal, None)
        labels = [{k: _label(a, model.labels) for k, a in found.items()} for found in first]
        states = [[found.get(k) for k in range(len(d.utterances))] for d, found in zip(dialogues, labels, strict=True)]
    responses = _ask_all(model, dialogues, states, journal, on_progress)
    predictions = [
        _prediction(found[k], k, model.labels)
        for dialogue, found in zip(dialogues, responses, strict=True)
        for k in dialogue.targets
    ]
    info = _info(model, corpus, split)
    if model.neighbours is not None and (mixing := model.correction.mixing) is not None:
        predictions = model.neighbours.added_to(predictions, dialogues)
        info = replace(info, neighbours=mixing.words)
    raw = Predictions.from_corpus(info, dialogues, predictions, corpus.dialogues(), corpus.generic)
    return correct(raw, model.correction)


def _predict_with_progress(
    model: ServedModel, corpus: Corpus, split: str, journal: Journal, console: Console
) -> Predictions:
    """`predict_served`, with a progress bar in a terminal."""
    if len(journal):
        text = f"continuing with the {len(journal)} answers in {journal.path}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(f"predicting {split}", total=None)
        return predict_served(
            model, corpus, split, journal, on_progress=lambda n, of: progress.update(task, completed=n, total=of)
        )


def _remarks(model: ServedModel, table: Predictions) -> Iterator[str]:
    """Remarks about the answers, to print."""
    yield f"kind of answers: {model.dialect.name}"
    if table.invalid is not None and (invalid := int(table.invalid.sum())):
        yield f"note: {invalid} of {len(table)} answers name no label and count as wrong"
    if wrong := unconstrained(model, table):
        yield f"note: {wrong} answers are none of the labels: the server ignored the constraint"


def unconstrained(model: ServedModel, table: Predictions) -> int:
    """Number of answers that are none of the choices in their request, which the server must have ignored."""
    choices = {choice.strip() for choice in _choices(model.dialect)}
    return sum(text is not None and text.strip() not in choices for text in table.raw_answer or ()) if choices else 0


def _choices(dialect: Dialect) -> tuple[str, ...]:
    return dialect.choices if isinstance(dialect, Written) else ()


def _ask_all(
    model: ServedModel,
    dialogues: Sequence[Dialogue],
    states: Sequence[State | None],
    journal: Journal,
    on_progress: Callable[[int, int], None] | None,
) -> list[dict[int, ServedResponse]]:
    """For each dialogue, position of the target to the response."""
    keys: list[tuple[int, int, str]] = []
    open_requests: dict[str, Request] = {}
    for i, prompt in _prompts(model.prompter, dialogues, states):
        dialogue = dialogues[i]
        about = f"dialogue {dialogue.id}, utterance {dialogue.utterances[prompt.target].id}"
        request = replace(model.dialect.request(prompt), about=about)
        key = _hash([model.endpoint.url, request.path, request.body])
        keys.append((i, prompt.target, key))
        if key not in journal.values:
            open_requests[key] = request
    total = len({key for *_, key in keys})
    answered = total - len(open_requests)
    if on_progress:
        on_progress(answered, total)
    asked = list(open_requests)

    def keep(k: int, answer: ServedResponse) -> None:
        nonlocal answered
        journal.add(asked[k], {"text": answer.text, "log_likelihoods": answer.log_likelihoods})
        answered += 1
        if on_progress:
            on_progress(answered, total)

    if asked:
        model.endpoint.each(list(open_requests.values()), model.dialect.read, keep)
    results: list[dict[int, ServedResponse]] = [{} for _ in dialogues]
    for i, target, key in keys:
        results[i][target] = _kept(journal.values[key])
    return results


def _prompts(
    prompter: Prompter, dialogues: Sequence[Dialogue], states: Sequence[State | None]
) -> Iterator[tuple[int, PromptText]]:
    for i, (dialogue, state) in enumerate(zip(dialogues, states, strict=True)):
        for prompt in prompt_texts(prompter, dialogue, state):
            yield i, prompt


def _kept(value: Mapping[str, object]) -> ServedResponse:
    numbers = value["log_likelihoods"]
    text = value["text"]
    assert text is None or isinstance(text, str)
    return ServedResponse(text, tuple(map(float, numbers)) if isinstance(numbers, list | tuple) else None)


def _label(answer: ServedResponse, labels: LabelSet) -> str | None:
    if answer.log_likelihoods is not None:
        return labels.names[int(np.argmax(answer.log_likelihoods))]
    return spelled_label(answer.text or "", labels)


def _prediction(response: ServedResponse, target: int, labels: LabelSet) -> Prediction:
    if response.log_likelihoods is not None:
        return scored_prediction(LabelScores(target, np.array(response.log_likelihoods)), labels.names)
    label = _label(response, labels)
    return Prediction(predicted=label, invalid=label is None, raw_answer=response.text)


def _info(model: ServedModel, corpus: Corpus, split: str) -> PredictionsInfo:
    shown = model.endpoint.model
    name = f"{PurePath(shown).name if PurePath(shown).is_absolute() else shown}, served"  # no folder of this machine
    info = table_info(model.config, model.run, model.prompter, corpus, split)
    return replace(
        info,
        system=name,
        base_model=name,
        decoding=model.dialect.name,
        selection=chosen_on(model.run, model.correction) or info.selection,
    )


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
