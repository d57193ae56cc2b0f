from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from erc_llm.corpus import read_corpus
from erc_llm.corpus.summary import summarise
from tests.corpus.small_files import DEV, TRAIN, aligned, own, write


def test_the_figures_of_a_small_corpus(tmp_path: Path) -> None:
    summary = summarise(read_corpus(write(tmp_path / "tiny", "original")))
    train, dev = summary.splits
    assert (train.name, train.episodes, train.dialogues, train.utterances, train.targets) == ("train", 2, 3, 7, 7)
    assert (dev.name, dev.episodes, dev.dialogues, dev.utterances, dev.unlabelled) == ("dev", 1, 1, 3, 0)
    assert train.labels == {
        "Joyful": 2, "Mad": 1, "Neutral": 1, "Peaceful": 0, "Powerful": 2, "Sad": 1, "Scared": 0,
    }  # fmt: skip
    assert summary.top_speakers[:2] == (("Ada Quill", 4), ("Bo Farrow", 4))
    assert summary.everyone == 1


def test_a_generic_name_counts_once_an_episode(tmp_path: Path) -> None:
    summary = summarise(read_corpus(write(tmp_path, "original")))
    assert summary.generic == 1
    assert summary.speakers == 4
    assert summary.speaking_once == 2
    assert summary.splits[0].speakers == 4


def test_empty_lines_and_missing_labels_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(aligned([TRAIN[0], TRAIN[1]._replace(text="")]))
    (split,) = summarise(read_corpus(tmp_path / "train.csv")).splits
    assert (split.targets, split.context_only, split.unlabelled) == (1, 1, 0)
    text = own(DEV).replace('"Peaceful"', "null")
    (tmp_path / "dev.jsonl").write_text(text)
    (split,) = summarise(read_corpus(tmp_path / "dev.jsonl")).splits
    assert (split.targets, split.context_only, split.unlabelled) == (3, 0, 1)


def test_a_summary_is_frozen_and_becomes_json(tmp_path: Path) -> None:
    corpus = read_corpus(write(tmp_path / "tiny", "own"))
    summary = summarise(corpus)
    with pytest.raises(FrozenInstanceError):
        summary.name = "x"  # type: ignore[misc]
    table = json.loads(json.dumps(summary.as_dict()))
    assert table["sha256"] == corpus.sha256
    assert table["files"] == [list(pair) for pair in corpus.files]
    assert table["splits"][0]["labels"]["Joyful"] == 2
