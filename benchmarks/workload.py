"""The common workload of all sides of a benchmark: the same model, prompt and scenes.

Input: `Settings`, which are passed to each process as JSON. Output: a `Workload`.
Does not depend on: timing.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erc_llm.errors import CorpusError

if TYPE_CHECKING:
    from erc_llm.config import RunConfig
    from erc_llm.corpus import Dialogue
    from erc_llm.models.loading import LoadedModel
    from erc_llm.prompting.prompter import Prompter


@dataclass(frozen=True, slots=True)
class Settings:
    """Corpus, configuration and run of a benchmark.

    Attributes:
        corpus: A corpus file or folder, or `sample`.
        config: A configuration, for prompt, model, adapter shape and optimisation.
        overrides: `key.sub=value` texts that change the configuration.
        run: A run directory whose adapter and configuration are used instead, except for training.
    """

    corpus: str = "sample"
    config: str = "smollm2-135m"
    overrides: tuple[str, ...] = ()
    run: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """A loaded model, its prompter and some scenes."""

    config: RunConfig
    loaded: LoadedModel
    prompter: Prompter
    dialogues: tuple[Dialogue, ...]


def open_workload(settings: Mapping[str, Any], split: str, scenes: int | None, attention: str) -> Workload:
    """Load the model and draw scenes.

    Args:
        settings: The fields of `Settings`.
        split: `train`: scenes with labelled targets, and never a run's adapter; others: scenes with targets.
        scenes: Number of scenes, drawn with the configuration's seed; None: all.
        attention: transformers' `attn_implementation`.
    """
    from erc_llm.build import build_model, build_prompter
    from erc_llm.corpus import labelled_scenes
    from erc_llm.models.adapters import load_adapter
    from erc_llm.recipes.data import open_corpus
    from erc_llm.runs.directory import read_run

    options = Settings(**{**settings, "overrides": tuple(settings.get("overrides", ()))})
    config = read_config(options)
    labels = config.label_set()
    corpus = open_corpus(config.corpus, labels)
    if split == "train":
        dialogues = labelled_scenes(corpus, scenes, config.seed)
    else:
        dialogues = _draw(tuple(d for d in corpus.split(split) if d.targets), scenes, config.seed)
    loaded = build_model(config, attention)
    prompter = build_prompter(config, labels, loaded.tokenizer, past=corpus)
    if options.run is not None and split != "train":
        loaded = replace(loaded, model=load_adapter(loaded.model, read_run(Path(options.run)).adapter))
    return Workload(config, loaded, prompter, dialogues)


def read_config(settings: Settings) -> RunConfig:
    """The configuration, with the corpus of the benchmark."""
    from erc_llm.config import load_config
    from erc_llm.runs.directory import read_run

    if settings.run is None:
        config = load_config(settings.config, settings.overrides)
    else:
        config = read_run(Path(settings.run)).config
    corpus = config.corpus.model_copy(update={"path": settings.corpus, "heal_from": None})
    return config.model_copy(update={"corpus": corpus})


def _draw(dialogues: tuple[Dialogue, ...], most: int | None, seed: int) -> tuple[Dialogue, ...]:
    if not dialogues:
        raise CorpusError("the split has no target, so nothing can be measured; choose another corpus")
    if most is None or most >= len(dialogues):
        return dialogues
    chosen = sorted(random.Random(f"benchmarks/{seed}").sample(range(len(dialogues)), most))
    return tuple(dialogues[i] for i in chosen)
