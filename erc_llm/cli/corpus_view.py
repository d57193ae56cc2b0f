"""Prints the summary of a corpus: splits, label distribution with bars, speakers, checksums and warnings.

Input: a `CorpusSummary`. Output: text on a rich console; control characters in the corpus are replaced.
Does not depend on: corpus files and their formats.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from erc_llm.corpus.dialogues import EVERYONE
from erc_llm.corpus.summary import CorpusSummary

BAR_WIDTHS = (4, 24)  # minimum and maximum characters of the longest bar; the width of the terminal decides


def print_summary(summary: CorpusSummary, console: Console) -> None:
    """Print splits, label distribution, speakers, checksums and warnings."""
    healed = ", gap-healed" if summary.healed else ""
    _print(console, f"Corpus {summary.name}: version {summary.version}{healed}", style="bold")
    console.print(_split_table(summary))
    if summary.version == "aligned" and not summary.healed:
        _print(console, "Lines that could not be aligned are missing in between; heal_from restores them as context.")
    if any(split.targets > split.unlabelled for split in summary.splits):
        console.print(_label_table(summary, console.width, "#" if console.options.ascii_only else "█"))
    else:
        _print(console, "\nNo labels.")
    _print_speakers(summary, console)
    _print(console, "\nSHA-256")
    for name, digest in (("content, whatever the format", summary.sha256), *summary.files):
        _print(console, f"  {digest}  {name}")
    heading, style = ("\nWarnings", "bold yellow") if summary.warnings else ("\nNo warnings.", "bold")
    _print(console, heading, style)
    for sentence in summary.warnings:
        _print(console, f"- {sentence}")


def _split_table(summary: CorpusSummary) -> Table:
    table = Table(box=None)
    table.add_column("Split")
    for heading in ("Episodes", "Scenes", "Utterances", "Targets", "Context only", "Unlabelled", "Speakers"):
        table.add_column(heading, justify="right")
    for split in summary.splits:
        counts = (
            split.dialogues,
            split.utterances,
            split.targets,
            split.context_only,
            split.unlabelled,
            split.speakers,
        )
        table.add_row(_text(split.name), f"{split.episodes:,}" if split.episodes else "-", *(f"{n:,}" for n in counts))
    return table


def _label_table(summary: CorpusSummary, width: int, block: str) -> Table:
    """One row per label: for every split its count, its share of the labelled targets, and a bar of that share."""
    splits = [split for split in summary.splits if split.targets > split.unlabelled]
    largest = max(count / sum(split.labels.values()) for split in splits for count in split.labels.values())
    numbers = max(len(label) for label in splits[0].labels) + 16 * len(splits)
    bar = min(max((width - numbers) // len(splits), BAR_WIDTHS[0]), BAR_WIDTHS[1])
    table = Table(box=None, title="\nLabel distribution by split", title_justify="left", title_style="")
    table.add_column("Label")
    for split in splits:
        table.add_column(_text(split.name), justify="right")
        table.add_column("%", justify="right")
        table.add_column("", min_width=bar, no_wrap=True)
    for label in splits[0].labels:
        cells = []
        for split in splits:
            share = split.labels[label] / sum(split.labels.values())
            cells += [f"{split.labels[label]:,}", f"{100 * share:.1f}", block * round(bar * share / largest)]
        table.add_row(_text(label), *cells)
    return table


def _print_speakers(summary: CorpusSummary, console: Console) -> None:
    everyone = f"; {EVERYONE} speaks {summary.everyone:,} times" if summary.everyone else ""
    generic = f"; {summary.generic:,} generic names count once an episode" if summary.generic else ""
    _print(
        console, f"\nSpeakers: {summary.speakers:,}, of whom {summary.speaking_once:,} speak once{generic}{everyone}"
    )
    top = ", ".join(f"{name} {count:,}" for name, count in summary.top_speakers)
    _print(console, f"  most: {top}")


def _print(console: Console, sentence: str, style: str = "") -> None:
    console.print(_text(sentence, style), soft_wrap=True)


def _text(words: str, style: str = "") -> Text:
    """Text of a corpus: never read as markup, and without control characters."""
    return Text("".join(c if c.isprintable() or c == "\n" else "�" for c in words), style)
