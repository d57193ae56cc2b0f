"""Corpus reader: reads files of any of the five formats into a `Corpus`.

Unusable data raises an error with file and line; unusual data that can be used adds a sentence to `Corpus.warnings`.

Input: a file or a directory of split files. Output: a `Corpus` with labels from its label set, unique ids, and
dialogues in time order.
Does not depend on: the syntax of the formats, prompts, models.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from erc_llm.corpus.dialogues import Corpus, Dialogue, Utterance
from erc_llm.corpus.formats import DESCRIPTIONS, RawDialogue, RawUtterance, recognise
from erc_llm.corpus.healing import heal
from erc_llm.corpus.json_files import parse_line, parse_original, parse_own
from erc_llm.corpus.labels import EMORYNLP, LabelSet
from erc_llm.corpus.read_warnings import ReadWarnings, show
from erc_llm.corpus.sources import SPLIT_WORDS, WHOLE, Source, open_sources
from erc_llm.corpus.speakers import GENERIC_NAMES, resolve
from erc_llm.corpus.text_files import parse_aligned, parse_compm, parse_meld
from erc_llm.errors import CorpusError

LONG_UTTERANCE = 1_000  # words; spoken turns rarely reach a hundred, so a longer one is probably a mistake

PARSERS: Mapping[str, Callable[[Source, ReadWarnings], Iterator[RawDialogue]]] = {
    "original": parse_original,
    "aligned": parse_aligned,
    "meld": parse_meld,
    "compm": parse_compm,
    "own": parse_own,
}


def read_corpus(
    path: Path | str,
    *,
    labels: LabelSet | None = EMORYNLP,
    heal_from: Path | str | None = None,
    aliases: Mapping[str, str] | None = None,
    generic: Collection[str] = GENERIC_NAMES,
    name: str | None = None,
) -> Corpus:
    """Read a corpus file, or a directory of split files, in any of the five formats.

    The split comes from the file name: train or trn; dev, val or valid; test or tst; selection. In this project's
    JSONL, a dialogue's own `split` takes precedence. Without either, the split is `all`. Several files of one split are
    read in the order of their names.

    Args:
        path: File or directory; subdirectories are not read.
        labels: The label set; any other label is an error. None: labels are not read, whatever they are.
        heal_from: EmoryNLP JSON file or folder, from which the gaps of version `aligned` are filled as context.
        aliases: Speaker name in the data to the name to use instead.
        generic: Names that stand for a different person in each episode, kept in `Corpus.generic`.
        name: Name of the corpus; by default the name of the file or folder.

    Raises:
        CorpusError: The data cannot be used; the message states file, line, what was found and what was expected.
    """
    warned = ReadWarnings()
    sources = open_sources(path, warned)
    version = _common_format(sources, Path(path))
    builder = _Builder(labels, aliases or {}, warned)
    for source in sources:
        for raw in PARSERS[version](source, warned):
            builder.add(raw, source)
    splits = builder.splits(Path(path))
    folder = Path(path).is_dir()
    corpus = Corpus(
        name=name or (Path(path).resolve().name if folder else Path(path).stem),
        version=version,
        labels=labels or EMORYNLP,
        splits=splits,
        order=builder.order,
        warnings=warned.sentences(),
        generic=frozenset(generic),
        files=tuple((source.name, source.sha256) for source in sources),
    )
    if heal_from is None:
        return corpus
    return heal(corpus, read_corpus(heal_from, labels=labels, aliases=aliases, generic=generic))


def read_line(
    text: str,
    number: int,
    path: Path,
    labels: LabelSet | None = EMORYNLP,
    aliases: Mapping[str, str] | None = None,
) -> Dialogue:
    """One dialogue from a line of JSONL, with the checks of `read_corpus`.

    Args:
        text: The line.
        number: Its number in the file, from 1.
        path: The file, for messages; it is not opened.
        labels: As in `read_corpus`.
        aliases: As in `read_corpus`.

    Raises:
        CorpusError: The dialogue cannot be used, or has no utterances.
    """
    warned = ReadWarnings()
    source = Source(path, None, "", "")
    raw = parse_line(text, number, source, warned)
    dialogue = _Builder(labels, aliases or {}, warned).add(raw, source)
    if dialogue is None:
        raise CorpusError("a dialogue without utterances; expected at least one", path, number)
    return dialogue


def _common_format(sources: list[Source], path: Path) -> str:
    found = {source.path.name: recognise(source) for source in sources}
    if len(set(found.values())) > 1:
        listed = "; ".join(f"{file} is {DESCRIPTIONS[form]}" for file, form in found.items())
        raise CorpusError(
            f"expected all files of the folder in one format; found: {listed}. Give one file, or separate them", path
        )
    return next(iter(found.values()))


class _Builder:
    """Turns raw dialogues into checked records with ids that are unique within the corpus."""

    def __init__(self, labels: LabelSet | None, aliases: Mapping[str, str], warned: ReadWarnings) -> None:
        self._labels = labels
        self._aliases = aliases
        self._warned = warned
        self._splits: defaultdict[str, list[Dialogue]] = defaultdict(list)
        self._ids: set[str] = set()
        self._order: list[str] = []
        self._names: set[str] = set()

    def add(self, raw: RawDialogue, source: Source) -> Dialogue | None:
        """Check one dialogue and append it to its split; None for one without utterances, which is left out."""
        split = raw.split or source.split or WHOLE
        name = raw.id or f"{split}_{len(self._splits[split]) + 1:04d}"
        place = f"{source.name}:{raw.line}" if raw.line else source.name
        if not raw.utterances:
            self._warned.add("dialogue without utterances, left out", f"{show(name)} ({place})")
            return None
        if raw.episode is None and (raw.season is not None or raw.scene is not None):
            self._warned.add("season and scene are ignored without an episode", f"{show(name)} ({place})")
        unique = self._unique(name, self._ids, "dialogue", place)
        ids: set[str] = set()
        utterances = tuple(self._utterance(u, i, unique, ids, source) for i, u in enumerate(raw.utterances))
        dialogue = Dialogue(unique, utterances, raw.season, raw.episode, raw.scene)
        _check_encodable(unique, source, raw.line)
        self._splits[split].append(dialogue)
        self._order.append(unique)
        return dialogue

    @property
    def order(self) -> tuple[str, ...]:
        """Ids in the order in which they were added; empty if every dialogue has a time."""
        timed = all(dialogue.time is not None for dialogues in self._splits.values() for dialogue in dialogues)
        return () if timed else tuple(self._order)

    def splits(self, path: Path) -> dict[str, tuple[Dialogue, ...]]:
        """Splits in their usual order, with dialogues in time order.

        Raises:
            CorpusError: There is no dialogue.
        """
        filled = {split: dialogues for split, dialogues in self._splits.items() if dialogues}
        if not filled:
            raise CorpusError("the corpus is empty; expected at least one dialogue with an utterance", path)
        for alias in sorted(self._aliases.keys() - self._names):
            self._warned.add("alias for a name that does not occur in the corpus", show(alias))
        usual = [*SPLIT_WORDS, WHOLE]
        order = sorted(filled, key=lambda split: (usual.index(split) if split in usual else len(usual), split))
        numbered = _number_scenes({split: filled[split] for split in order}, path)
        self._report_time(numbered)
        return {split: self._in_time_order(split, dialogues) for split, dialogues in numbered.items()}

    def _utterance(self, raw: RawUtterance, index: int, dialogue: str, ids: set[str], source: Source) -> Utterance:
        place = f"{source.name}:{raw.line}" if raw.line else source.name
        name = self._unique(raw.id or f"{dialogue}_u{index + 1:03d}", ids, "utterance", place)
        label = None if raw.label is None or self._labels is None else self._labels.match(raw.label)
        if raw.label is not None and label is None and self._labels is not None:
            message = (
                f"label {show(raw.label)} of utterance {show(name)} is not one of {', '.join(self._labels.names)}; "
                "correct it, or define your own label set under `corpus.labels` (docs/own-corpus.md)"
            )
            raise CorpusError(message, source.path, raw.line)
        self._names.update(name.strip() for name in raw.speakers)
        speakers = resolve(raw.speakers, self._aliases)
        if not speakers or any(_is_blank(speaker) for speaker in speakers):
            raise CorpusError(f"utterance {show(name)} has no speaker; expected a name", source.path, raw.line)
        _check_encodable("".join((name, raw.text, *speakers)), source, raw.line)
        if len(raw.text) > LONG_UTTERANCE and (words := len(raw.text.split())) > LONG_UTTERANCE:
            self._warned.add(f"utterance of more than {LONG_UTTERANCE:,} words", f"{words:,} in {show(name)} ({place})")
        if _is_blank(raw.text):
            self._warned.add("empty utterance, kept as context and without its label", f"{show(name)} ({place})")
            return Utterance(name, speakers, raw.text, label=None, target=False)
        return Utterance(name, speakers, raw.text, label)

    def _unique(self, name: str, taken: set[str], kind: str, place: str) -> str:
        unique, copy = name, 1
        while unique in taken:
            copy += 1
            unique = f"{name}_{copy}"
        if unique != name:
            self._warned.add(f"duplicate {kind} id, renamed", f"{show(name)} to {show(unique)} ({place})")
        taken.add(unique)
        return unique

    def _in_time_order(self, split: str, dialogues: list[Dialogue]) -> tuple[Dialogue, ...]:
        times = [dialogue.time for dialogue in dialogues if dialogue.time is not None]
        if 0 < len(times) < len(dialogues):
            self._warned.add("some dialogues have no episode, so the order of the file is kept", split)
        if len(times) < len(dialogues):
            return tuple(dialogues)
        return tuple(sorted(dialogues, key=lambda dialogue: dialogue.time or ()))

    def _report_time(self, splits: Mapping[str, list[Dialogue]]) -> None:
        homes: defaultdict[str, dict[str, None]] = defaultdict(dict)
        moments: dict[tuple[int, int, int], str] = {}
        for split, dialogues in splits.items():
            for dialogue in dialogues:
                if dialogue.episode_id is None or dialogue.time is None:
                    continue
                homes[dialogue.episode_id][split] = None
                if dialogue.time in moments:
                    self._warned.add(
                        "two dialogues with the same season, episode and scene",
                        f"{show(moments[dialogue.time])} and {show(dialogue.id)}",
                    )
                moments.setdefault(dialogue.time, dialogue.id)
        for episode, found in sorted(homes.items()):
            if len(found) > 1:
                self._warned.add("episode in more than one split", f"{episode} in {' and '.join(found)}")


def _number_scenes(splits: Mapping[str, list[Dialogue]], path: Path) -> dict[str, list[Dialogue]]:
    """Number the scenes of episodes without scene numbers in the order of the file."""
    seen: defaultdict[str, set[bool]] = defaultdict(set)
    for dialogues in splits.values():
        for dialogue in dialogues:
            if dialogue.episode_id is not None:
                seen[dialogue.episode_id].add(dialogue.scene is None)
    for episode, kinds in seen.items():
        if len(kinds) > 1:
            message = (
                f"episode {episode}: some dialogues have a scene number and some have none; expected one in all or none"
            )
            raise CorpusError(message, path)
    counts: defaultdict[str, int] = defaultdict(int)
    numbered: dict[str, list[Dialogue]] = {}
    for split, dialogues in splits.items():
        numbered[split] = []
        for dialogue in dialogues:
            if dialogue.episode_id is not None and dialogue.scene is None:
                counts[dialogue.episode_id] += 1
                dialogue = replace(dialogue, scene=counts[dialogue.episode_id])
            numbered[split].append(dialogue)
    return numbered


def _is_blank(text: str) -> bool:
    """Whether nothing is visible: empty text, spaces, control characters, invisible marks."""
    return not any(character.isprintable() and not character.isspace() for character in text)


def _check_encodable(text: str, source: Source, line: int | None) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = show(text[error.start : error.end])
        raise CorpusError(
            f"found half of a surrogate pair, {found}; expected valid Unicode text", source.path, line
        ) from None
