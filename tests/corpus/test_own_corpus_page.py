"""docs/own-corpus.md keeps its word: its examples are run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from erc_llm.corpus import LabelSet, identity, read_corpus
from erc_llm.corpus.labels import MELD
from erc_llm.errors import CorpusError

PAGE = Path(__file__).parents[2] / "docs" / "own-corpus.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_example_line_is_read_as_described(tmp_path: Path) -> None:
    (tmp_path / "night.jsonl").write_text(blocks("json")[0], encoding="utf-8")
    corpus = read_corpus(tmp_path / "night.jsonl")
    (dialogue,) = corpus.split("train")
    assert dialogue.time == (1, 4, 1)
    assert dialogue.utterances[1].speakers == ("Nela Horn", "Tom Aske")
    assert dialogue.utterances[1].id == "night-shift-01_u002"
    assert [u.label for u in dialogue.utterances] == ["Scared", None]
    assert corpus.warnings == ()


def test_every_label_set_on_the_page_is_valid() -> None:
    sections = [yaml.safe_load(block)["corpus"] for block in blocks("yaml")]
    sets = [LabelSet(tuple(s["names"]), s["spellings"], s["neutral"]) for s in (x.get("labels") for x in sections) if s]
    assert len(sets) == 2
    assert sets[0].match("No emotion") == "none"


def test_the_meld_example_is_read(tmp_path: Path) -> None:
    (tmp_path / "train_sent_emo.csv").write_text(blocks("csv")[0], encoding="utf-8")
    corpus = read_corpus(tmp_path, labels=MELD)
    assert corpus.version == "meld"
    assert [(d.id, d.time) for d in corpus.split("train")] == [("train_0001", (2, 5, 160)), ("train_0000", (2, 5, 662))]
    assert [u.label for u in corpus.split("train")[1].utterances] == ["neutral", "surprise", "joy"]
    assert corpus.warnings == ()
    with pytest.raises(CorpusError, match="label 'surprise'"):
        read_corpus(tmp_path)


def test_the_dailydialog_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dailydialog").mkdir()
    for split in ("train", "validation", "test"):
        text = "It is raining . __eou__ Again ? __eou__ Again . __eou__\nHello . __eou__\n"
        (tmp_path / "dailydialog" / f"dialogues_{split}.txt").write_text(text, encoding="utf-8")
        (tmp_path / "dailydialog" / f"dialogues_emotion_{split}.txt").write_text("0 6 5\n4\n", encoding="utf-8")
    (script,) = blocks("python")
    exec(script, {})
    (dailydialog, _) = [yaml.safe_load(block)["corpus"]["labels"] for block in blocks("yaml") if "names" in block]
    labels = LabelSet(tuple(dailydialog["names"]), dailydialog["spellings"], dailydialog["neutral"])
    corpus = read_corpus(tmp_path, labels=labels, generic=("A", "B"))
    first, second = corpus.split("dev")
    assert [(u.speakers, u.text, u.label) for u in first.utterances] == [
        (("A",), "It is raining .", "none"),
        (("B",), "Again ?", "surprise"),
        (("A",), "Again .", "sadness"),
    ]
    people = {identity(s, d, corpus.generic) for split in corpus.splits.values() for d in split for s in ("A", "B")}
    assert len(people) == 12, "nobody is the same person in two dialogues"
    assert second.utterances[0].label == "happiness"
    assert corpus.warnings == ()
