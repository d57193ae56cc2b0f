"""Prompts as a dataset: writes the prompts of a split in TRL's forms, so that other trainers train on the same text.

A chat template gives the conversational form (`prompt` and `completion` are lists of messages), a plain template the
standard one (two texts).

Input: a configuration, a corpus, a split. Output: a folder that `datasets.load_from_disk` reads.
Does not depend on: models.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from erc_llm.build import build_prompter
from erc_llm.config import RunConfig
from erc_llm.corpus import Corpus
from erc_llm.errors import CorpusError, UserError
from erc_llm.files import whole_folder
from erc_llm.prompting.messages import prompt_texts
from erc_llm.prompting.prompter import Prompter


def export_prompts(config: RunConfig, corpus: Corpus, split: str, folder: Path) -> int:
    """Write the prompts of the labelled targets of a split; returns their number.

    Args:
        config: The configuration of prompts, profiles and tokenizer.
        corpus: The corpus.
        split: Name of the split.
        folder: The folder; it must not exist.

    Raises:
        CorpusError: There is no such split, or none of its targets is labelled.
        UserError: The folder exists, or cannot be written.
    """
    from datasets import Dataset, DatasetDict, disable_progress_bars

    from erc_llm.models.loading import load_tokenizer

    corpus.split(split)
    if config.state.source != "none":
        raise UserError(
            f"state.source={config.state.source}: its prompts state what a model predicted for earlier lines, and here "
            "is no model; set state.source=none"
        )
    if folder.exists():
        raise UserError(f"{folder}: exists already; choose another --out")
    prompter = build_prompter(config, config.label_set(), load_tokenizer(config.model.base), past=corpus)
    rows = list(prompt_rows(prompter, corpus, split))
    if not rows:
        raise CorpusError(f"corpus '{corpus.name}': no labelled utterance in {split}, so there are no answers to learn")
    disable_progress_bars()
    with whole_folder(folder) as draft:
        DatasetDict({split: Dataset.from_list(rows)}).save_to_disk(draft)
    return len(rows)


def prompt_rows(prompter: Prompter, corpus: Corpus, split: str) -> Iterator[dict[str, Any]]:
    """One row per labelled target: its key, its prompt, and its gold answer with the end."""
    labels, frame = prompter.labels, prompter.frame
    for dialogue in corpus.split(split):
        for prompt in prompt_texts(prompter, dialogue):
            utterance = dialogue.utterances[prompt.target]
            if utterance.label is None:
                continue
            gold = labels.index(utterance.label)
            row: dict[str, Any] = {"dialogue_id": dialogue.id, "utterance_id": utterance.id}
            if prompter.template.chat:
                row["prompt"] = [{"role": role, "content": content} for role, content in prompt.messages]
                row["completion"] = [{"role": "assistant", "content": prompter.answer_texts[gold]}]
            else:
                row["prompt"] = prompt.text
                row["completion"] = frame.encoder.text(prompter.answer_ids[gold])
            yield row
