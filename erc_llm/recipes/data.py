"""Corpus loading: opens the corpus of a configuration for training and prediction.

Input: a `CorpusConfig`, a label set. Output: a `Corpus`, its labelled targets, its label distribution.
Does not depend on: models, prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from erc_llm.config import CorpusConfig, RunConfig
from erc_llm.corpus import EMORYNLP, Corpus, Dialogue, LabelSet, read_corpus, read_sample, selection_split
from erc_llm.corpus.overlap import overlapping
from erc_llm.corpus.speakers import GENERIC_NAMES
from erc_llm.corpus.splits import leave_out
from erc_llm.errors import ConfigError
from erc_llm.runs.progress import Progress

if TYPE_CHECKING:
    from erc_llm.tuning.sampling import Targets


SAMPLE = "sample"


def open_corpus(config: CorpusConfig, labels: LabelSet, *, cut_selection: bool = True) -> Corpus:
    """Read the corpus that a configuration names, without the fold that it leaves out of train.

    Args:
        config: The configuration of the corpus.
        labels: The label set.
        cut_selection: Whether to separate the selection split from train.

    Raises:
        CorpusError: The files are not a corpus, or train has too few episodes.
        ConfigError: The sample corpus is asked for with other labels.
    """
    generic = GENERIC_NAMES if config.generic is None else config.generic
    if config.path == SAMPLE:
        if labels != EMORYNLP:
            raise ConfigError(
                "corpus.labels: the sample corpus has EmoryNLP's labels; leave corpus.labels out, or set corpus.path"
            )
        corpus = read_sample(aliases=config.aliases, generic=generic)
    else:
        corpus = read_corpus(
            config.path, labels=labels, heal_from=config.heal_from, aliases=config.aliases, generic=generic
        )
    if config.fold is not None and "train" in corpus.splits:
        corpus = leave_out(corpus, config.fold.number, config.fold.folds, config.fold.seed)
    return with_selection(corpus, config) if cut_selection else corpus


def open_whole(config: RunConfig, path: str | None, heal_from: str | None = None) -> Corpus:
    """The corpus of a configuration, or the one at `path` (with missing lines from `heal_from`), no selection cut."""
    from erc_llm.build import training_fold

    section = config.corpus
    if path is None:
        return open_corpus(section, config.label_set(), cut_selection=False)
    # Whether another corpus has episodes to leave out is decided by `training_view`.
    section = section.model_copy(update={"path": path, "heal_from": heal_from, "fold": None})
    return training_fold(open_corpus(section, config.label_set(), cut_selection=False), config)


def with_selection(corpus: Corpus, config: CorpusConfig) -> Corpus:
    """The corpus with a selection split cut out of train, unless it has one of its own or no train."""
    if "train" not in corpus.splits or "selection" in corpus.splits:
        return corpus
    return selection_split(corpus, config.selection_fraction, config.selection_seed)


def without_overlaps(corpus: Corpus, avoid: Sequence[str], progress: Progress) -> tuple[Corpus, dict[str, int]]:
    """The corpus without the dialogues of train that share lines with other corpora, and how many each of them cost.

    Args:
        corpus: The corpus, its selection split cut.
        avoid: Files or folders of the other corpora, whatever their labels.
        progress: Where to say what is left out.

    Raises:
        CorpusError: One of them cannot be read.
    """
    left_out: dict[str, int] = {}
    for path in avoid:
        other = read_corpus(path, labels=None)
        scenes = corpus.split("train")
        found = {match.dialogue for match in overlapping(scenes, other.dialogues())}
        kept = tuple(dialogue for dialogue in scenes if dialogue.id not in found)
        progress.line(f"{len(found)} of {len(scenes)} dialogues of train share lines with {other.name}: left out")
        corpus = replace(corpus, splits={**corpus.splits, "train": kept})
        left_out[other.name] = left_out.get(other.name, 0) + len(found)
    return corpus, left_out


def print_warnings(corpus: Corpus, console: Console, most: int = 5) -> None:
    """Print the first `most` warnings about a corpus."""
    for sentence in corpus.warnings[:most]:
        console.print(f"note: {sentence}", style="yellow", markup=False, highlight=False)
    if len(corpus.warnings) > most:
        console.print(f"note: and {len(corpus.warnings) - most} more; `erc-llm data` shows all", style="yellow")


def label_distribution(scenes: Sequence[Dialogue], labels: LabelSet) -> tuple[float, ...]:
    """Relative frequency of each label among the labelled targets, in label order; the sum is 1."""
    return labelled_targets(scenes, labels).shares


def labelled_targets(scenes: Sequence[Dialogue], labels: LabelSet) -> Targets:
    """Every labelled target of the scenes, in order."""
    from erc_llm.tuning.sampling import Targets

    rows = [
        (number, k, labels.index(label))
        for number, dialogue in enumerate(scenes)
        for k in dialogue.targets
        if (label := dialogue.utterances[k].label) is not None
    ]
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return Targets(columns[0], columns[1], columns[2], len(scenes), len(labels))
