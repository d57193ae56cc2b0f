"""Baselines small enough to be trained in a second, on a stand-in encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from erc_llm.baselines.baseline_config import BaselineConfig
from erc_llm.baselines.emonet import context_limits
from erc_llm.baselines.inputs import Example, InputWriter
from erc_llm.baselines.training import TrainedBaseline, train_baseline
from erc_llm.corpus import EMORYNLP, Corpus, Dialogue, Utterance
from tests.tiny_models import TinyModel
from tests.tiny_runs import dialogue


def baseline_config(model: TinyModel, output: Path, /, **sections: Any) -> BaselineConfig:
    """Emonet on a stand-in, on the CPU in fp32; `sections` are merged in, section by section."""
    content: dict[str, Any] = {
        "name": "tiny",
        "output": str(output),
        "encoder": {"base": str(model.folder), "max_tokens": 48, "precision": "fp32", "device": "cpu"},
        "memory": {"max_tokens": 24, "window": 4},
        "training": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "log_every": 1, "checkpoint_minutes": 1e6},
    }
    for name, values in sections.items():
        content[name] = content.get(name, {}) | values if isinstance(values, dict) else values
    return BaselineConfig.model_validate(content)


def small_corpus(train: int = 10, selection: int = 3, dev: int = 3) -> Corpus:
    """Invented scenes in time order: train, then selection, then dev; two scenes make an episode."""
    counts = {"train": train, "selection": selection, "dev": dev}
    splits = {
        split: tuple(dialogue(i, 2 + i % 4, season) for i in range(count))
        for season, (split, count) in enumerate(counts.items(), start=1)
    }
    return Corpus("invented", "own", EMORYNLP, splits)


def trained(config: BaselineConfig, corpus: Corpus | None = None, **options: Any) -> TrainedBaseline:
    return train_baseline(config, corpus or small_corpus(), **options)


def writer_of(config: BaselineConfig, model: TinyModel, corpus: Corpus) -> InputWriter:
    return InputWriter(corpus, model.tokenizer, context_limits(config))


def read_by(config: BaselineConfig, model: TinyModel, corpus: Corpus) -> dict[tuple[str, str], Example]:
    """What is read for every target of a corpus, without its label."""
    examples = writer_of(config, model, corpus).examples(corpus.dialogues())
    return {(e.dialogue_id, e.utterance_id): replace(e, label=None) for e in examples}


def changed(corpus: Corpus, split: str, number: int, *utterances: Utterance) -> Corpus:
    """The corpus with another text for one of its scenes."""
    scenes = list(corpus.split(split))
    scenes[number] = replace(scenes[number], utterances=utterances)
    return replace(corpus, splits={**corpus.splits, split: tuple(scenes)})


def scene(name: str, place: tuple[int, int, int], *lines: tuple[str, str]) -> Dialogue:
    """A labelled scene of (speaker, text) lines."""
    utterances = tuple(Utterance(f"u{k}", (who,), text, "Neutral") for k, (who, text) in enumerate(lines))
    return Dialogue(name, utterances, *place)
