"""Dialogues as a DataFrame, and back."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from erc_llm.corpus import read_corpus, read_sample
from erc_llm.corpus.frames import write_frame
from erc_llm.errors import CorpusError

TALK = pd.DataFrame(
    {
        "dialogue": ["a", "b", "a"],
        "speaker": ["Ann", "Bob", ["Ann", "Bob"]],
        "text": ["You came back!", "Why now?", "Run!"],
        "label": ["Joyful", None, "Scared"],
        "episode": [1, 2, 1],
    }
)


def test_a_frame_becomes_a_corpus(tmp_path: Path) -> None:
    corpus = read_corpus(write_frame(TALK, tmp_path / "train.jsonl"))
    first, second = corpus.split("train")
    assert [(u.speakers, u.text, u.label) for u in first.utterances] == [
        (("Ann",), "You came back!", "Joyful"),
        (("Ann", "Bob"), "Run!", "Scared"),
    ]
    assert [first.episode, second.episode] == [1, 2]
    assert [u.label for u in second.utterances] == [None]
    assert corpus.warnings == ()


def test_the_way_back_gives_the_same_corpus(tmp_path: Path) -> None:
    """Gaps in a column of whole numbers make pandas write them as floats."""
    sample = read_sample()
    frame = sample.to_pandas()
    assert len(frame) == sum(len(d.utterances) for d in sample.dialogues())
    again = read_corpus(write_frame(frame, tmp_path / "sample.jsonl"))
    assert again.sha256 == sample.sha256
    frame.loc[frame["dialogue"] == frame["dialogue"].iloc[-1], ["season", "episode", "scene"]] = None
    assert write_frame(frame, tmp_path / "gaps.jsonl").read_text("utf-8").count('"episode": 1,') > 0


def test_what_is_wrong_with_a_frame_is_said(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no column dialogue, text; it needs dialogue, speaker, text"):
        write_frame(TALK.drop(columns=["dialogue", "text"]), tmp_path / "train.jsonl")
    with pytest.raises(CorpusError, match="dialogue 'a': its rows differ in episode"):
        write_frame(TALK.assign(episode=[1, 2, 3]), tmp_path / "train.jsonl")
    assert list(tmp_path.iterdir()) == []
