"""Summary of a corpus: counts of each split, its labels and its speakers, checksums and warnings.

Input: a `Corpus`. Output: a `CorpusSummary`.
Does not depend on: files, formats, the terminal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from erc_llm.corpus.dialogues import EVERYONE, Corpus, Dialogue
from erc_llm.corpus.speakers import identity, is_generic

TOP_SPEAKERS = 10


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """Counts of one split.

    Attributes:
        name: Name of the split.
        episodes: Number of episodes; 0 if the data has none.
        dialogues: Number of scenes.
        utterances: Number of utterances, context-only ones included.
        targets: Number of utterances to predict.
        unlabelled: Number of targets without a label.
        speakers: Number of identities, without `#ALL#`.
        labels: Label to number of targets with it, in label order.
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
        """Number of utterances that are never targets: healed gaps and empty lines."""
        return self.utterances - self.targets


@dataclass(frozen=True, slots=True)
class CorpusSummary:
    """Counts of a corpus.

    Attributes:
        name: Name of the corpus.
        version: `original`, `aligned`, `meld`, `compm` or `own`.
        healed: Whether gaps were filled with context lines.
        splits: One entry per split, in the corpus's order.
        speakers: Number of identities over all splits, without `#ALL#`.
        speaking_once: Number of identities with a single utterance.
        generic: Number of generic names that occur; each counts as a different identity in each episode.
        everyone: Number of utterances of `#ALL#`.
        top_speakers: The most frequent identities with their numbers of utterances.
        sha256: Hash of the content.
        files: (name, sha256) of every file that was read.
        warnings: Sentences about unusual data that the user may want to correct.
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
    """Counts, checksums and warnings of a corpus."""
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
