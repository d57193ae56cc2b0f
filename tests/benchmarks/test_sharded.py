"""Sharded prediction as a benchmark: its input, its model and its table."""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchmarks import sharded
from erc_llm.corpus import EMORYNLP, read_corpus
from erc_llm.corpus.shards import plan_shards, read_shard
from erc_llm.predictor import load
from erc_llm.recipes.predict import predict


def test_the_input_has_the_dialogues_and_lines_that_it_states(tmp_path: Path) -> None:
    lines = sharded.write_input(tmp_path / "talks", 30)
    plan = plan_shards(str(tmp_path / "talks"), 8)
    dialogues = [dialogue for shard in plan.shards for dialogue in read_shard(shard, EMORYNLP, {})]
    assert len(dialogues) == len({d.id for d in dialogues}) == 30
    assert sum(len(d.utterances) for d in dialogues) == lines


def test_the_model_labels_the_input(tmp_path: Path) -> None:
    sharded.write_input(tmp_path / "talks", 4)
    predictor = load(str(sharded.write_model(tmp_path)))
    corpus = read_corpus(tmp_path / "talks" / "talks-0.jsonl")
    assert len(predict(predictor, corpus, "all")) == sum(len(d.utterances) for d in corpus.split("all"))


def test_a_row_has_rates_and_memory() -> None:
    found = sharded.Measured(seconds=50, lines=100_000, steady=2500, memory=(600, 610))
    assert sharded.row("Ray", found) == "| Ray | 50 | 2,000 | 2,500 | 600 | 610 |"
    assert "| 2,000 |  | 600" in sharded.row("plain", found._replace(steady=None))


def test_memory_is_that_of_the_processes_named() -> None:
    with sharded.sampled_memory([os.getpid()], workers_only=False) as samples:
        time.sleep(1.2)
    assert samples[0][1] > 50, "this process has torch in memory"
    assert sharded.workers_of(os.getpid()) == []
