"""How the summary of a corpus reads in a terminal and in a file."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from erc_llm.cli.corpus_view import print_summary
from erc_llm.corpus import read_corpus, read_sample
from erc_llm.corpus.summary import CorpusSummary, summarise
from tests.corpus.small_files import write


def printed(summary: CorpusSummary, width: int = 100, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding)
    print_summary(summary, Console(file=stream, width=width))
    stream.flush()
    return raw.getvalue().decode(encoding)


def test_what_is_printed(tmp_path: Path) -> None:
    corpus = read_corpus(write(tmp_path / "tiny", "own"), aliases={"Zed": "Zoe"})
    text = printed(summarise(corpus))
    assert "Corpus tiny: version own" in text
    assert "2 splits" not in text
    assert f"  {corpus.sha256}  content" in text
    assert all(f"  {digest}  {name}" in text for name, digest in corpus.files)
    assert "\nWarnings\n- alias for a name that does not occur in the corpus: 'Zed'" in text
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
    assert "No warnings." in text
    assert "Warnings" not in text


def test_aligned_without_healing_says_what_heal_from_would_do(tmp_path: Path) -> None:
    gaps, whole = write(tmp_path / "aligned", "aligned"), write(tmp_path / "original", "original")
    assert "heal_from restores them" in printed(summarise(read_corpus(gaps)))
    healed = printed(summarise(read_corpus(gaps, heal_from=whole)))
    assert "version aligned, gap-healed" in healed
    assert "heal_from restores them" not in healed


def test_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    rows = '{"id": "[bold]a", "utterances": [{"speaker": "\\u001b[31mEve[/bold]\\nMal", "text": ""}]}'
    (tmp_path / "talk.jsonl").write_text(rows)
    text = printed(summarise(read_corpus(tmp_path / "talk.jsonl")))
    assert "\x1b" not in text
    assert "[31mEve[/bold]" in text
    assert "'[bold]a_u001'" in text
