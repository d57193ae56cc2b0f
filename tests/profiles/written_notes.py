"""Notes that a model wrote, who answers what shows every letter it was asked; and a story to take notes of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from erc_llm.corpus.dialogues import Corpus
from erc_llm.corpus.history import History
from erc_llm.profiles.notes import Notes, NotesSource, write_notes
from erc_llm.prompting.templates import load_prompt
from tests.prompting.random_corpora import corpus_of, scene_of

TEMPLATE = load_prompt("summary", ("system", "user"))
SOURCE = NotesSource("c" * 64, "model x", TEMPLATE.sha256, 30)


def echo(prompts: Sequence[tuple[str, str]]) -> list[str]:
    """An answer that differs with every letter of what was asked."""
    return [f"Notes {hashlib.sha256(repr(prompt).encode()).hexdigest()[:12]}." for prompt in prompts]


class Memory:
    """A cache that keeps nothing on disk."""

    def __init__(self) -> None:
        self.values: dict[str, list[str]] = {}

    def add(self, batch: str, answers: Sequence[str]) -> None:
        self.values[batch] = list(answers)


def notes_of(corpus: Corpus, cache: Any = None, answer: Callable[..., list[str]] = echo, batch: int = 3) -> Notes:
    return write_notes(History(corpus), answer, Memory() if cache is None else cache, TEMPLATE, batch=batch)


def story(scenes: int = 5) -> Corpus:
    said = [(("Ada Quill", f"I said {i}"), ("Ben Ode", f"And {i}?"), ("Ada Quill", f"Yes {i}")) for i in range(scenes)]
    return corpus_of({"train": [scene_of(i + 1, *lines) for i, lines in enumerate(said)]})
