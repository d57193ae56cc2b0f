"""The corpus that a configuration names, as training and prediction see it.

Input: a `CorpusConfig`, a label set. Output: a `Corpus`, its labelled targets, its label distribution.
Does not depend on: models, prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from erc_llm.config import CorpusConfig
from erc_llm.corpus import EMORYNLP, Corpus, Dialogue, LabelSet, read_corpus, read_sample, selection_split
from erc_llm.corpus.speakers import GENERIC_NAMES
from erc_llm.errors import ConfigError

if TYPE_CHECKING:
    from erc_llm.tuning.sampling import Targets


SAMPLE = "sample"


def open_corpus(config: CorpusConfig, labels: LabelSet, *, cut_selection: bool = True) -> Corpus:
    """Read the corpus a configuration names; cut its selection split out of train unless told not to."""
    generic = GENERIC_NAMES if config.generic is None else config.generic
    if config.path == SAMPLE:
        if labels != EMORYNLP:
            raise ConfigError("corpus.labels: the sample corpus has EmoryNLP's labels; give corpus.path, or no labels")
        corpus = read_sample(aliases=config.aliases, generic=generic)
    else:
        corpus = read_corpus(
            config.path, labels=labels, heal_from=config.heal_from, aliases=config.aliases, generic=generic
        )
    if cut_selection and "train" in corpus.splits and "selection" not in corpus.splits:
        corpus = selection_split(corpus, config.selection_fraction, config.selection_seed)
    return corpus


def print_warnings(corpus: Corpus, console: Console, most: int = 5) -> None:
    """Tell people what was odd about the corpus they gave, the first few sentences of it."""
    for sentence in corpus.warnings[:most]:
        console.print(f"note: {sentence}", style="yellow", markup=False, highlight=False)
    if len(corpus.warnings) > most:
        console.print(f"note: and {len(corpus.warnings) - most} more; `erc-llm data` shows all", style="yellow")


def label_distribution(scenes: Sequence[Dialogue], labels: LabelSet) -> tuple[float, ...]:
    """Share of each label among the labelled targets, in label order; they sum to 1."""
    counts = labelled_targets(scenes, labels).counts
    return tuple((counts / counts.sum()).tolist())


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
