"""docs/own-corpus.md keeps its word: its examples are run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from erc_llm.corpus import LabelSet, read_corpus
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


def test_the_meld_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "MELD").mkdir()
    excerpt = tmp_path / "MELD" / "train_sent_emo.csv"
    excerpt.write_text(blocks("csv")[0], encoding="utf-8")
    with pytest.raises(CorpusError, match="CSV without the column Scene_ID"):
        read_corpus(excerpt)
    names: dict[str, object] = {}
    for script in blocks("python"):
        exec(script, names)
    corpus = names["corpus"]
    assert [(d.id, d.time) for d in corpus.split("train")] == [("train_1", (2, 5, 1)), ("train_0", (2, 5, 2))]  # type: ignore[attr-defined]
    assert corpus.warnings == ()  # type: ignore[attr-defined]
