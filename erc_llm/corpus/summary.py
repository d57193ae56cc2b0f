"""What a person wants to know of a corpus first, as a record and as text for the terminal.

In: a `Corpus`. Out: a `CorpusSummary`, which prints itself nowhere; `print_summary` shows it on a rich console.
Deliberately unknown here: files and formats. rich is imported only where something is printed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from erc_llm.corpus.dialogues import EVERYONE, Corpus, Dialogue
from erc_llm.corpus.speakers import identity, is_generic

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

TOP_SPEAKERS = 10
BAR_WIDTHS = (4, 24)  # least and most characters of the longest bar; in between it follows the terminal's width


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """One split in figures.

    Attributes:
        name: Name of the split.
        episodes: Different episodes; 0 where the data tells none.
        dialogues: Scenes.
        utterances: All utterances, those that are only context included.
        targets: Utterances a model is asked about.
        unlabelled: Targets without a label.
        speakers: Different identities, `#ALL#` not counted.
        labels: Label to number of targets with it, in the label set's order.
    """

    name: str
    episodes: int
    dialogues: int
    utterances: int
    targets: int
    unlabelled: int
    speakers: int
    labels: dict[str, int]

    @property
    def context_only(self) -> int:
        """Utterances a model is never asked about: healed gaps and empty lines."""
        return self.utterances - self.targets


@dataclass(frozen=True, slots=True)
class CorpusSummary:
    """A corpus in figures.

    Attributes:
        name: What the user calls the corpus.
        version: `original`, `aligned`, `compm` or `own`.
        healed: Whether gaps were filled with context lines.
        splits: One entry a split, in the corpus's order.
        speakers: Different identities in all splits, `#ALL#` not counted.
        speaking_once: Identities with a single utterance.
        generic: Generic names met, each of which counts once an episode.
        everyone: Utterances of `#ALL#`.
        top_speakers: The most frequent identities with their utterances.
        sha256: Hash of the content.
        files: (name, sha256) of every file read.
        warnings: Sentences about what is odd.
    """

    name: str
    version: str
    healed: bool
    splits: tuple[SplitSummary, ...]
    speakers: int
    speaking_once: int
    generic: int
    everyone: int
    top_speakers: tuple[tuple[str, int], ...]
    sha256: str
    files: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """Plain lists, strings and numbers, ready for JSON."""
        return asdict(self)


def summarise(corpus: Corpus) -> CorpusSummary:
    """Count a corpus through."""
    counts = _count_speakers(corpus.dialogues(), corpus.generic)
    everyone = counts.pop(EVERYONE, 0)
    names = {name for dialogue in corpus.dialogues() for u in dialogue.utterances for name in u.speakers}
    return CorpusSummary(
        name=corpus.name,
        version=corpus.version,
        healed=corpus.healed,
        splits=tuple(_summarise_split(split, dialogues, corpus) for split, dialogues in corpus.splits.items()),
        speakers=len(counts),
        speaking_once=sum(count == 1 for count in counts.values()),
        generic=sum(is_generic(name, corpus.generic) for name in names),
        everyone=everyone,
        top_speakers=tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:TOP_SPEAKERS]),
        sha256=corpus.sha256,
        files=corpus.files,
        warnings=corpus.warnings,
    )


def _summarise_split(name: str, dialogues: tuple[Dialogue, ...], corpus: Corpus) -> SplitSummary:
    targets = [u for dialogue in dialogues for u in dialogue.utterances if u.target]
    labels = Counter(u.label for u in targets)
    return SplitSummary(
        name=name,
        episodes=len({dialogue.episode_id for dialogue in dialogues} - {None}),
        dialogues=len(dialogues),
        utterances=sum(len(dialogue.utterances) for dialogue in dialogues),
        targets=len(targets),
        unlabelled=labels[None],
        speakers=len(_count_speakers(dialogues, corpus.generic).keys() - {EVERYONE}),
        labels={label: labels[label] for label in corpus.labels.names},
    )


def _count_speakers(dialogues: Iterable[Dialogue], generic: frozenset[str]) -> Counter[str]:
    return Counter(
        identity(name, dialogue, generic)
        for dialogue in dialogues
        for utterance in dialogue.utterances
        for name in utterance.speakers
    )


def print_summary(summary: CorpusSummary, console: Console) -> None:
    """Show a summary in the terminal: splits, label bars, speakers, checksums, and everything odd."""
    healed = ", gap-healed" if summary.healed else ""
    _say(console, f"Corpus {summary.name}: version {summary.version}{healed}", style="bold")
    console.print(_split_table(summary))
    if summary.version == "aligned" and not summary.healed:
        _say(console, "Lines that could not be aligned are missing in between; heal_from brings them back as context.")
    if any(split.targets > split.unlabelled for split in summary.splits):
        console.print(_label_table(summary, console.width, "#" if console.options.ascii_only else "█"))
    else:
        _say(console, "\nNo labels.")
    _print_speakers(summary, console)
    _say(console, "\nSHA-256")
    for name, digest in (("content, whatever the format", summary.sha256), *summary.files):
        _say(console, f"  {digest}  {name}")
    _say(
        console, "\nOdd" if summary.warnings else "\nNothing odd.", style="bold yellow" if summary.warnings else "bold"
    )
    for sentence in summary.warnings:
        _say(console, f"- {sentence}")


def _split_table(summary: CorpusSummary) -> Table:
    from rich.table import Table

    table = Table(box=None)
    table.add_column("Split")
    for heading in ("Episodes", "Scenes", "Utterances", "Targets", "Context only", "Unlabelled", "Speakers"):
        table.add_column(heading, justify="right")
    for split in summary.splits:
        figures = (
            split.dialogues,
            split.utterances,
            split.targets,
            split.context_only,
            split.unlabelled,
            split.speakers,
        )
        table.add_row(_text(split.name), f"{split.episodes:,}" if split.episodes else "-", *(f"{n:,}" for n in figures))
    return table


def _label_table(summary: CorpusSummary, width: int, block: str) -> Table:
    """A row a label; for every split its count, its share of the labelled targets, and a bar of that share."""
    from rich.table import Table

    splits = [split for split in summary.splits if split.targets > split.unlabelled]
    largest = max(count / sum(split.labels.values()) for split in splits for count in split.labels.values())
    figures = max(len(label) for label in splits[0].labels) + 16 * len(splits)
    bar = min(max((width - figures) // len(splits), BAR_WIDTHS[0]), BAR_WIDTHS[1])
    table = Table(box=None, title="\nLabels, share of each split", title_justify="left", title_style="")
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
    _say(console, f"\nSpeakers: {summary.speakers:,}, of whom {summary.speaking_once:,} speak once{generic}{everyone}")
    top = ", ".join(f"{name} {count:,}" for name, count in summary.top_speakers)
    _say(console, f"  most: {top}")


def _say(console: Console, sentence: str, style: str = "") -> None:
    console.print(_text(sentence, style), soft_wrap=True)


def _text(words: str, style: str = "") -> Text:
    """Somebody's data as it stands: no markup is read in it, and no control code reaches the terminal."""
    from rich.text import Text

    return Text("".join(c if c.isprintable() or c == "\n" else "�" for c in words), style)
