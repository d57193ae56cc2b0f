"""Inputs of a run: checks that the files a config refers to are those of a finished run, and reads confusion counts.

A configuration's hash does not cover the content of these files (corpus, base model, template, confusion table).

Input: a configuration, and the corpus or a finished run. Output: confusion counts, or an error.
Does not depend on: training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np

from erc_llm.config import LoraConfig, RunConfig
from erc_llm.corpus import Corpus, Dialogue
from erc_llm.corpus.dialogues import LEFT_OUT, SELECTION
from erc_llm.errors import ConfigError, CorpusError, RunError, UserError
from erc_llm.models.adapters import WEIGHTS
from erc_llm.models.hashes import file_sha256
from erc_llm.predictions import Predictions, read_predictions
from erc_llm.recipes.data import open_corpus
from erc_llm.runs.directory import Run, refuse_other_source
from erc_llm.runs.opened import open_run

_Read = TypeVar("_Read")


def check_auxiliary(config: RunConfig, scenes: Sequence[Dialogue]) -> None:
    """Refuse forecasts instead of labels in training, and auxiliary questions that no training dialogue can answer.

    Raises:
        ConfigError: `scoring.forecast` is set, which is for prediction.
        CorpusError: No dialogue has two speakers, or none has two labelled lines in a row.
    """
    tasks = config.training.auxiliary
    if config.scoring.forecast:
        raise ConfigError(
            "scoring.forecast: is for prediction (`predict --forecast`); training.auxiliary.next_emotion=0.5 trains it"
        )
    if tasks.speaker and all(len({u.speakers for u in d.utterances}) < 2 for d in scenes):
        raise CorpusError(
            "training.auxiliary.speaker: no training dialogue has two speakers, so nobody can be told from another; "
            "leave it out, or name the speakers in the corpus"
        )
    if tasks.next_emotion and not any(a.label and b.label for d in scenes for a, b in pairwise(d.utterances)):
        raise CorpusError(
            "training.auxiliary.next_emotion: no training dialogue has two labelled lines in a row; leave it out"
        )


def check_leak(config: RunConfig) -> None:
    """Refuse a control with a leak outside of cross-fitting.

    Raises:
        ConfigError: `retrieval.leak` is set, and the training run is no fold.
    """
    if config.retrieval.leak != "none" and config.corpus.fold is None:
        raise ConfigError(
            f"retrieval.leak={config.retrieval.leak}: is a control that shows labels nobody has in use; "
            "`erc-llm crossfit CONFIG --leaky-control` measures it, anything else leaves it out"
        )


def start_run(lora: LoraConfig) -> Run | None:
    """The finished run whose adapter training starts from; None for a new adapter.

    Raises:
        RunError: There is no such run, or it is not finished.
        ConfigError: It is no run of an adapter, or its adapter has another shape or scale.
    """
    if lora.start is None:
        return None
    run = open_run(Path(lora.start)).run
    assert run is not None, "a path is always a run"
    theirs = run.config.lora
    for name in ("rank", "alpha", "target_modules"):
        if (made := getattr(theirs, name)) != (asked := getattr(lora, name)):
            raise ConfigError(
                f"lora.start: {lora.start} has lora.{name} {made}, this run {asked}; set lora.{name}={made}"
            )
    return run


def described(run: Run) -> str:
    """A run that another one starts from: its id and corpus, the hash of its adapter, and what it started from."""
    made = run.manifest
    left_out = sum(made.avoided.values())
    apart = f", {left_out} dialogues left out as overlapping" if made.avoided else ""
    weights, train = file_sha256(run.adapter / WEIGHTS)[:12], (made.train_sha256 or made.corpus_sha256)[:12]
    before = "" if made.started_from is None else f", after {made.started_from}"
    return f"{made.run_id} on {made.corpus_name} (adapter {weights}, train {train}{apart}){before}"


def check_finished(run: Run, config: RunConfig) -> None:
    """Refuse a finished run if the files that the configuration refers to have changed since.

    Only the train split of the corpus is compared, because further splits may be added later. Base model, template and
    confusion counts are compared if they still exist, because a run outlives the files of its training. Notes files
    record their own sources.

    Raises:
        RunError: One of the files differs.
        UserError: The configuration refers to another file than the run's configuration, and that file is missing.
    """
    from erc_llm.models.loading import base_model_sha256, resolve_base_model
    from erc_llm.prompting.templates import load_auxiliary, load_prompt, load_retrieval

    began, made = run.config, run.manifest
    path = config.corpus.path
    corpus = open_corpus(config.corpus, config.label_set(), cut_selection=False)
    refuse_other_source(run, f"train split than {path} has now", made.train_sha256, corpus.train_sha256)

    def base_sha256(name: str) -> str | None:
        if name == began.model.base and isinstance(resolve_base_model(name), str):
            return None  # a hub id: nothing is downloaded for this check
        return base_model_sha256(name)

    base = _at_hand(base_sha256, config.model.base, began.model.base)
    refuse_other_source(run, f"base model than model.base={config.model.base} is now", made.base_model_sha256, base)
    template = _at_hand(lambda name: load_prompt(name).sha256, config.prompt.template, began.prompt.template)
    what = f"template than prompt.template={config.prompt.template} is now"
    refuse_other_source(run, what, made.template_sha256, template)
    if made.auxiliary_sha256 is not None:
        refuse_other_source(run, "auxiliary questions than now", made.auxiliary_sha256, load_auxiliary().sha256)
    if made.retrieval is not None:
        old, new = made.retrieval.template_sha256, load_retrieval().sha256
        refuse_other_source(run, "wording of retrieved lines than now", old, new)
    if config.lora.start is not None and Path(config.lora.start).is_dir():  # a run outlives the one it started from
        start = start_run(config.lora)
        now = None if start is None else described(start)
        refuse_other_source(run, f"start than lora.start={config.lora.start} is now", made.started_from, now)
    if config.confusion_reader is not None and config.state.confusion is not None:
        table = _at_hand(read_predictions, config.state.confusion, began.state.confusion)
        if table is not None and _confusion_counts(table, corpus) != made.confusion:
            raise RunError(
                f"{run.folder}: finished, on other confusion counts than those of state.confusion="
                f"{config.state.confusion}; choose another name="
            )


def _at_hand(read: Callable[[str], _Read], name: str, old: str | None) -> _Read | None:
    """The result of `read(name)`; None if the name is the run's own and no longer exists."""
    try:
        return read(name)
    except UserError:
        if name == old:
            return None
        raise


def read_confusion(config: RunConfig, corpus: Corpus) -> tuple[tuple[int, ...], ...] | None:
    """The confusion counts that corrupt the labels in training prompts or smooth labels; None if neither needs them.

    Raises:
        ConfigError: No table is given, or it is neither of this corpus's selection split nor of its cross-fitted train.
        PredictionsError: The file is no predictions table.
    """
    reader, path = config.confusion_reader, config.state.confusion
    if reader is None:
        return None
    if path is None:
        raise ConfigError(
            f"state.confusion: {reader} needs predictions of a RUN without state: of the selection split "
            "(`erc-llm predict RUN --split selection`), or the crossfit.parquet of a cross-fitted RUN"
        )
    table = read_predictions(path)
    found = (table.info.split, table.info.corpus_sha256[:12], table.info.labels)
    cross_fitted = table.info.folds is not None and table.info.split == "train"
    expected = ("train" if cross_fitted else SELECTION, corpus.sha256[:12], corpus.labels.names)
    if found != expected:
        raise ConfigError(f"state.confusion: {path} has (split, corpus hash, labels) {found}; expected {expected}")
    if table.info.selection in ("none", "train") and table.info.run_id is not None and not cross_fitted:
        raise ConfigError(
            f"state.confusion: {path} is of run {table.info.run_id}, which was trained on the selection "
            "split too (training.evaluations=0, or an average of folds), so its errors there are too few; give a table "
            "of another run, or the crossfit.parquet of a cross-fitted one"
        )
    return _confusion_counts(table, corpus)


def _confusion_counts(table: Predictions, corpus: Corpus) -> tuple[tuple[int, ...], ...]:
    """(labels, labels) how often a target of a gold label (row) was predicted as each label (column).

    Without the episodes that this training run leaves out as a fold of a cross-fitting.
    """
    from erc_llm.metrics import confusion as count_confusions

    left_out = {dialogue.id for dialogue in corpus.splits.get(LEFT_OUT, ())}
    seen = np.array([name not in left_out for name in table.dialogue_id], dtype=np.bool_)
    both = (table.gold_index >= 0) & (table.predicted_index >= 0) & seen
    counts = count_confusions(table.gold_index[both], table.predicted_index[both], len(table.info.labels))
    return tuple(tuple(int(count) for count in row[:-1]) for row in counts)  # the last column: invalid answers
