from __future__ import annotations

import io
import json
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from rich.console import Console

from erc_llm.corpus import read_corpus, read_sample
from erc_llm.corpus.summary import CorpusSummary, print_summary, summarise
from tests.corpus.small_files import DEV, TRAIN, aligned, own, write


def printed(summary: CorpusSummary, width: int = 100, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding)
    print_summary(summary, Console(file=stream, width=width))
    stream.flush()
    return raw.getvalue().decode(encoding)


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


def test_what_is_printed(tmp_path: Path) -> None:
    corpus = read_corpus(write(tmp_path / "tiny", "own"), aliases={"Zed": "Zoe"})
    text = printed(summarise(corpus))
    assert "Corpus tiny: version own" in text
    assert "2 splits" not in text
    assert f"  {corpus.sha256}  content" in text
    assert all(f"  {digest}  {name}" in text for name, digest in corpus.files)
    assert "- alias for a name that no utterance has: 'Zed'" in text
    assert "#ALL# speaks 1 times" in text


def test_the_longest_bar_belongs_to_the_largest_share() -> None:
    rows = [line for line in printed(summarise(read_sample())).splitlines() if "█" in line]
    lengths = {line.split()[0]: line.count("█") for line in rows}
    assert set(lengths) == set(read_sample().labels.names)
    assert max(lengths, key=lambda label: lengths[label]) == "Neutral"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_bars_fit_the_terminal(width: int) -> None:
    rows = [line for line in printed(summarise(read_sample()), width).splitlines() if "█" in line]
    assert all(len(line) <= width for line in rows)


def test_a_terminal_without_unicode_gets_plain_bars() -> None:
    assert "####" in printed(summarise(read_sample()), encoding="ascii")


def test_an_unlabelled_corpus(tmp_path: Path) -> None:
    (tmp_path / "talk.jsonl").write_text('{"id": "a", "utterances": [{"speaker": "Ada", "text": "Hm."}]}')
    text = printed(summarise(read_corpus(tmp_path / "talk.jsonl")))
    assert "No labels." in text
    assert "Nothing odd." in text


def test_aligned_without_healing_says_what_heal_from_would_do(tmp_path: Path) -> None:
    gaps, whole = write(tmp_path / "aligned", "aligned"), write(tmp_path / "original", "original")
    assert "heal_from brings them back" in printed(summarise(read_corpus(gaps)))
    healed = printed(summarise(read_corpus(gaps, heal_from=whole)))
    assert "version aligned, gap-healed" in healed
    assert "heal_from brings them back" not in healed


def test_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    rows = '{"id": "[bold]a", "utterances": [{"speaker": "\\u001b[31mEve[/bold]\\nMal", "text": ""}]}'
    (tmp_path / "talk.jsonl").write_text(rows)
    text = printed(summarise(read_corpus(tmp_path / "talk.jsonl")))
    assert "\x1b" not in text
    assert "[31mEve[/bold]" in text
    assert "'[bold]a_u001'" in text
