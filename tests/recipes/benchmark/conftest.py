"""A folder to call `erc-llm benchmark` in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.baselines.small import baseline_config
from tests.tiny_models import TinyModel
from tests.tiny_runs import as_json, dialogue, tiny_config, write_corpus


@pytest.fixture
def place(tiny_llama: TinyModel, tiny_bert: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two versions of a corpus, the second with unlabelled test lines, and two configurations."""
    monkeypatch.chdir(tmp_path)
    for version in ("original", "aligned"):
        write_corpus(tmp_path / "data" / version, train=20, dev=3)
    hidden = json.dumps(as_json(dialogue(7, 3, season=3), labels=False))
    (tmp_path / "data" / "aligned" / "test.jsonl").write_text(hidden + "\n", encoding="utf-8")
    corpus: dict[str, Any] = {"selection_fraction": 0.5}
    llm = tiny_config(tiny_llama, tmp_path, tmp_path, corpus=corpus, training={"evaluations": 1})
    (tmp_path / "llm.yaml").write_text(llm.as_yaml(), encoding="utf-8")
    encoder = baseline_config(tiny_bert, tmp_path, corpus=corpus)
    (tmp_path / "encoder.yaml").write_text(encoder.as_yaml(), encoding="utf-8")
    return tmp_path
