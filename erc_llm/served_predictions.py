"""A model behind a server answers about a split: prompts go out, answers are kept as they come, a table is the end.

In: a configuration or a run (whose prompt is used), a server, a corpus. Out: `Predictions`. What was answered is in a
journal, so a run that was killed or whose server failed goes on where it was. No address of a server gets into a table.
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

from erc_llm.config import RunConfig
from erc_llm.corpus.dialogues import Corpus, Dialogue
from erc_llm.corpus.labels import LabelSet
from erc_llm.decoding.scoring import LabelScores
from erc_llm.decoding.served import Constrain, Dialect, ServedAnswer, Written, dialect_of
from erc_llm.decoding.spelling import spelled_label
from erc_llm.endpoints import Endpoint, Request
from erc_llm.errors import RunError
from erc_llm.journal import Journal
from erc_llm.models import load_tokenizer
from erc_llm.pipeline import scored_answer, table_info
from erc_llm.predictions import Answer, Predictions, PredictionsInfo, write_predictions
from erc_llm.predictor import make_prompter
from erc_llm.prompting.examples import Prompter
from erc_llm.prompting.messages import PromptText, prompt_texts
from erc_llm.runs import Run, read_run

State = Sequence[str | None]


@dataclass(frozen=True)
class ServedModel:
    """A model behind a server, with the prompts it gets.

    Attributes:
        config: Says how prompts are made.
        run: The run they are from; None for a configuration. That the server has its model is the caller's word.
        prompter: Makes them.
        endpoint: The server.
        dialect: How it is asked.
    """

    config: RunConfig
    run: Run | None
    prompter: Prompter
    endpoint: Endpoint
    dialect: Dialect

    @property
    def labels(self) -> LabelSet:
        """The label set it is asked for."""
        return self.prompter.labels

    def journal(self, out: Path) -> Journal:
        """Where the answers for a table `out` are kept meanwhile: beside it, under this server's and dialect's name."""
        job = _hash([self.endpoint.url, self.endpoint.model, self.dialect.name])
        return Journal(out.with_name(f"{out.name}.{job[:8]}.answers"))


def open_served(
    source: Path | RunConfig,
    endpoint: Endpoint,
    constrain: Constrain = "auto",
    *,
    label_scores: bool = False,
    past: Corpus | None = None,
) -> ServedModel:
    """Prepare to ask a server; of the base model only the tokenizer is read.

    Args:
        source: A run directory, or a configuration.
        endpoint: The server.
        constrain: See `dialect_of`.
        label_scores: See `dialect_of`.
        past: Conversations from which speaker profiles are written.

    Raises:
        RunError: No such run, or its prompt template is not the one it was trained with.
        ConfigError: The server cannot do what was asked for.
        ModelError: It cannot be reached, or there is no tokenizer.
    """
    run = read_run(source) if isinstance(source, Path) else None
    config = run.config if run else source
    assert isinstance(config, RunConfig)
    tokenizer = load_tokenizer(config.model.base)
    prompter = make_prompter(config, config.label_set(), tokenizer, run.template if run else None, past)
    if run and prompter.template.sha256 != run.manifest.template_sha256:
        raise RunError(f"{run.template}: not the template this run was trained with; restore it")
    dialect = dialect_of(
        endpoint, prompter, constrain, label_scores=label_scores, answer_tokens=config.scoring.answer_tokens
    )
    return ServedModel(config, run, prompter, endpoint, dialect)


def predict_served(
    model: ServedModel,
    corpus: Corpus,
    split: str,
    journal: Journal,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """The predictions table of one split; the caller removes the journal once the table is written.

    An answer that spells no label is an invalid one; so is an empty text that came as a proper answer.

    Args:
        model: Whom to ask.
        corpus: Where the split is.
        split: Its name.
        journal: What was answered before; what is answered is added.
        on_progress: Gets how many prompts are answered, and how many there are.

    Raises:
        ModelError: The server gave no usable answer to a prompt, after all retries; the journal has those before.
    """
    dialogues = corpus.split(split)
    states: list[State | None] = [None] * len(dialogues)
    if model.config.state.source == "predicted":
        first = _ask_all(model, dialogues, states, journal, None)
        labels = [{k: _label(a, model.labels) for k, a in said.items()} for said in first]
        states = [[said.get(k) for k in range(len(d.utterances))] for d, said in zip(dialogues, labels, strict=True)]
    found = _ask_all(model, dialogues, states, journal, on_progress)
    answers = {
        (d.id, d.utterances[k].id): _row(answer, k, model.labels)
        for d, said in zip(dialogues, found, strict=True)
        for k, answer in said.items()
    }
    return Predictions.from_corpus(_info(model, corpus, split), dialogues, answers, corpus.dialogues(), corpus.generic)


def write_served(
    model: ServedModel, corpus: Corpus, split: str, out: Path, console: Console, *, with_text: bool = True
) -> None:
    """`predict_served` into a file, with a bar, and with what is worth knowing of the answers told in the end.

    Raises:
        ModelError: See `predict_served`; the same call goes on from there.
        PredictionsError: The file cannot be written; the journal stays.
    """
    journal = model.journal(out)
    if len(journal):
        _tell(console, f"going on with the {len(journal)} answers in {journal.path}")
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(f"asking about {split}", total=None)
        table = predict_served(
            model, corpus, split, journal, on_progress=lambda n, of: progress.update(task, completed=n, total=of)
        )
    write_predictions(table if with_text else replace(table, text=None), out)
    journal.remove()
    _tell(console, f"{len(table)} predictions of {split} ({corpus.version}) written to {out}")
    _tell(console, f"asked for: {model.dialect.name}")
    if table.invalid is not None and (invalid := int(table.invalid.sum())):
        _tell(console, f"note: {invalid} of {len(table)} answers spell no label and count as wrong")
    if wrong := unheld(model, table):
        _tell(console, f"note: {wrong} answers are none of the labels: the server did not hold to what it was told")


def _tell(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def unheld(model: ServedModel, table: Predictions) -> int:
    """How many answers are none of the choices their server was told to hold them to; it must then have ignored it."""
    choices = model.dialect.choices if isinstance(model.dialect, Written) else ()
    told = {choice.strip() for choice in choices}
    return sum(text is not None and text.strip() not in told for text in table.raw_answer or ()) if told else 0


def _ask_all(
    model: ServedModel,
    dialogues: Sequence[Dialogue],
    states: Sequence[State | None],
    journal: Journal,
    on_progress: Callable[[int, int], None] | None,
) -> list[dict[int, ServedAnswer]]:
    """For each dialogue: position of the target to what was answered about it."""
    keys: list[tuple[int, int, str]] = []
    open_requests: dict[str, Request] = {}
    for i, prompt in _prompts(model.prompter, dialogues, states):
        request = model.dialect.request(prompt)
        key = _hash([model.endpoint.url, request.path, request.body])
        keys.append((i, prompt.target, key))
        if key not in journal.values:
            open_requests[key] = request
    total = len({key for *_, key in keys})
    answered = total - len(open_requests)
    if on_progress:
        on_progress(answered, total)
    asked = list(open_requests)

    def keep(k: int, answer: ServedAnswer) -> None:
        nonlocal answered
        journal.add(asked[k], {"text": answer.text, "log_likelihoods": answer.log_likelihoods})
        answered += 1
        if on_progress:
            on_progress(answered, total)

    if asked:
        model.endpoint.each(list(open_requests.values()), model.dialect.read, keep)
    results: list[dict[int, ServedAnswer]] = [{} for _ in dialogues]
    for i, target, key in keys:
        results[i][target] = _kept(journal.values[key])
    return results


def _prompts(
    prompter: Prompter, dialogues: Sequence[Dialogue], states: Sequence[State | None]
) -> Iterator[tuple[int, PromptText]]:
    for i, (dialogue, state) in enumerate(zip(dialogues, states, strict=True)):
        for prompt in prompt_texts(prompter, dialogue, state):
            yield i, prompt


def _kept(value: Mapping[str, object]) -> ServedAnswer:
    numbers = value["log_likelihoods"]
    text = value["text"]
    assert text is None or isinstance(text, str)
    return ServedAnswer(text, tuple(map(float, numbers)) if isinstance(numbers, list | tuple) else None)


def _label(answer: ServedAnswer, labels: LabelSet) -> str | None:
    if answer.log_likelihoods is not None:
        return labels.names[int(np.argmax(answer.log_likelihoods))]
    return spelled_label(answer.text or "", labels)


def _row(answer: ServedAnswer, target: int, labels: LabelSet) -> Answer:
    if answer.log_likelihoods is not None:
        return scored_answer(LabelScores(target, np.array(answer.log_likelihoods)), labels.names)
    label = _label(answer, labels)
    return Answer(predicted=label, invalid=label is None, raw_answer=answer.text)


def _info(model: ServedModel, corpus: Corpus, split: str) -> PredictionsInfo:
    shown = model.endpoint.model
    name = f"{PurePath(shown).name if PurePath(shown).is_absolute() else shown}, served"  # no folder of this machine
    info = table_info(model.config, model.run, model.prompter, corpus, split)
    return replace(info, system=name, base_model=name, decoding=model.dialect.name)


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
