"""Asking a server of our own: plain questions, and the dev split of the small corpus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from erc_llm.config import RunConfig
from erc_llm.corpus import Corpus
from erc_llm.corpus.labels import EMORYNLP
from erc_llm.models.endpoint import Endpoint
from erc_llm.predictions import Predictions
from erc_llm.recipes.predict_served import ServedModel, open_served, predict_served
from erc_llm.runs.journal import Journal
from tests.model_server import Reply, Server, said
from tests.prompting.random_corpora import corpus_of, scene_of

TARGETS = 2 + 3 + 4  # of dev


def endpoint(server: Server, retries: int = 0, timeout: float = 5.0) -> Endpoint:
    return Endpoint(server.url, "m", retries=retries, timeout=timeout)


def open_model(server: Server, source: RunConfig | Path, **options: Any) -> ServedModel:
    asked = endpoint(server, options.pop("retries", 0), options.pop("timeout", 5))
    return open_served(source, asked, **options)


def ask(server: Server, config: RunConfig, corpus: Corpus, journal: Path, **options: Any) -> Predictions:
    return predict_served(open_model(server, config, **options), corpus, "dev", Journal(journal))


def word_of(request: dict[str, Any]) -> str:
    """A label that depends on the whole prompt, so that a mixed-up row would show."""
    text = json.dumps(request.get("messages", request.get("prompt")), sort_keys=True)
    return EMORYNLP.names[sum(text.encode()) % 7]


def by_prompt(request: dict[str, Any], _: int) -> Reply:
    return said(word_of(request))


def is_about(user: str, dialogue: Any, k: int) -> bool:
    lines = user.splitlines()
    said_before = zip(dialogue.utterances[: k + 1], lines, strict=False)
    return len(lines) == k + 2 and all(u.text in line for u, line in said_before)


def story(scenes: int = 4) -> Corpus:
    said = [(("Ada Quill", f"Line {i}"), ("Ben Ode", f"And {i}?")) for i in range(scenes)]
    return corpus_of({"train": [scene_of(i + 1, *lines) for i, lines in enumerate(said)]})
