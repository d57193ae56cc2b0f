"""Parsers of the two JSON formats: EmoryNLP's own (`original`) and this project's JSONL (`own`).

Input: a `Source`. Output: `RawDialogue` records in file order.
Does not depend on: label sets, aliases.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from pathlib import Path

from erc_llm.corpus.formats import NUMBER_LIMIT, RawDialogue, RawUtterance
from erc_llm.corpus.read_warnings import ReadWarnings, show
from erc_llm.corpus.sources import SPLIT_OF_WORD, Source
from erc_llm.errors import CorpusError

DIALOGUE_FIELDS = ("id", "season", "episode", "scene", "split", "utterances")
UTTERANCE_FIELDS = ("id", "speaker", "text", "label")


def parse_original(source: Source, warned: ReadWarnings) -> Iterator[RawDialogue]:
    """Scenes of an EmoryNLP JSON file.

    Raises:
        CorpusError: Not JSON (for example truncated), or a field is missing or of the wrong type.
    """
    place = _Place(source.path)
    root = _parse(source.text, source.path, 1, "EmoryNLP JSON")
    lines = _UtteranceLines(source.text)
    for e, episode in enumerate(place.items(root, "episodes", "the file")):
        for s, scene in enumerate(place.items(episode, "scenes", f"episodes[{e}]")):
            yield _scene(place, scene, f"episodes[{e}].scenes[{s}]", lines)


def parse_own(source: Source, warned: ReadWarnings) -> Iterator[RawDialogue]:
    """Dialogues of a JSONL file, one per line; blank lines are skipped.

    Raises:
        CorpusError: A line is not a JSON object, or a field is missing or of the wrong type.
    """
    for number, line in enumerate(source.text.split("\n"), start=1):
        if line.strip():
            yield parse_line(line, number, source, warned)


def parse_line(line: str, number: int, source: Source, warned: ReadWarnings) -> RawDialogue:
    """The dialogue in one line of JSONL.

    Args:
        line: The line, which is not blank.
        number: Its number in the file, from 1.
        source: The file, of which only the name is used.
        warned: Collects the fields that were not read.

    Raises:
        CorpusError: The line is not a JSON object, or a field is missing or of the wrong type.
    """
    place = _Place(source.path, number)
    record = _parse(line, source.path, number, "one dialogue per line, as a JSON object", ", a dialogue on each line")
    where = "the dialogue"
    utterances = place.items(record, "utterances", where)
    place.report_unread(record, DIALOGUE_FIELDS, warned, source.name)
    return RawDialogue(
        id=place.identifier(record, "id", where),
        utterances=tuple(_own_utterance(place, u, i, warned, source.name) for i, u in enumerate(utterances)),
        season=place.number(record, "season", where),
        episode=place.number(record, "episode", where),
        scene=place.number(record, "scene", where),
        split=_split(place, record),
        line=number,
    )


def _scene(place: _Place, scene: object, where: str, lines: _UtteranceLines) -> RawDialogue:
    name = place.string(scene, "scene_id", where).strip()
    time = re.fullmatch(r"s([0-9]{1,6})_e([0-9]{1,6})_c([0-9]{1,6})", name)
    if time is None:
        raise place.error(f"{where}.scene_id is {show(name)}; expected the form 's01_e15_c01'")
    utterances = []
    for u, utterance in enumerate(place.items(scene, "utterances", where)):
        here = f"{where}.utterances[{u}]"
        place.line = lines.next(utterance)
        raw = RawUtterance(
            id=place.identifier(utterance, "utterance_id", here),
            speakers=place.names(utterance, "speakers", here),
            text=place.string(utterance, "transcript", here),
            label=place.string(utterance, "emotion", here),
            line=place.line,
        )
        utterances.append(raw)
    first = utterances[0].line if utterances else place.line
    return RawDialogue(name, tuple(utterances), int(time[1]), int(time[2]), int(time[3]), line=first)


def _own_utterance(place: _Place, record: object, index: int, warned: ReadWarnings, file: str) -> RawUtterance:
    where = f"utterances[{index}]"
    text = place.string(record, "text", where)
    place.report_unread(record, UTTERANCE_FIELDS, warned, file)
    label = place.optional(record, "label", where)
    if label is not None and not isinstance(label, str):
        raise place.error(f"{where}.label is {show(label)}; expected a string, or null for a line without a label")
    name = None if place.optional(record, "id", where) is None else place.identifier(record, "id", where)
    return RawUtterance(name, place.names(record, "speaker", where), text, label, place.line)


def _split(place: _Place, record: object) -> str | None:
    value = place.optional(record, "split", "the dialogue")
    if value is None:
        return None
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", value):
        raise place.error(f"split is {show(value)}; expected a name such as 'train', 'dev' or 'test'")
    return SPLIT_OF_WORD.get(value.casefold(), value)


def _parse(text: str, path: Path, first_line: int, expected: str, whole: str = "") -> object:
    try:
        value: object = json.loads(text)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        hint = f"the text is cut off: is the file complete{whole}?" if cut else f"expected {expected}"
        message = f"not valid JSON: {error.msg.removesuffix(' at')} at column {error.colno}; {hint}"
        raise CorpusError(message, path, first_line + error.lineno - 1) from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of nested lists
        raise CorpusError(f"not usable JSON: {error}", path, first_line) from None
    return value


class _UtteranceLines:
    """Finds the line of each utterance's label, which the JSON parser does not keep.

    Unescaped, the text `"emotion":` is always a key and never part of a string, so its n-th occurrence belongs to the
    n-th utterance that has this key. For an utterance without a label, the line of another of its keys is used.
    """

    def __init__(self, text: str) -> None:
        self._breaks = [match.start() for match in re.finditer("\n", text)]
        keys = ("utterance_id", "speakers", "transcript", "emotion")
        self._keys = {key: re.finditer(rf'"{key}"\s*:', text) for key in keys}

    def next(self, utterance: object) -> int | None:
        """Line of the next utterance in file order; None if none of its keys is found."""
        line = None
        if isinstance(utterance, Mapping):
            for key, matches in self._keys.items():
                match = next(matches, None) if key in utterance else None
                line = bisect_right(self._breaks, match.start()) + 1 if match else line
        return line


class _Place:
    """Checked access to parsed JSON. Errors name the file, the current line and the field."""

    def __init__(self, path: Path, line: int | None = None) -> None:
        self._path = path
        self.line = line

    def error(self, message: str) -> CorpusError:
        return CorpusError(message, self._path, self.line)

    def optional(self, record: object, key: str, where: str) -> object:
        if not isinstance(record, Mapping):
            raise self.error(f"{where} is {show(record)}; expected a JSON object")
        return record.get(key)

    def required(self, record: object, key: str, where: str) -> object:
        value = self.optional(record, key, where)
        if isinstance(record, Mapping) and key in record and value is None:
            raise self.error(f"{where}: '{key}' is null; expected a value")
        if value is None:
            found = ", ".join(show(name) for name in list(record)[:8]) if isinstance(record, Mapping) else ""
            raise self.error(f"{where} has no '{key}'; it has {found or 'no fields'}")
        return value

    def items(self, record: object, key: str, where: str) -> list[object]:
        value = self.required(record, key, where)
        if not isinstance(value, list):
            raise self.error(f"{where}: '{key}' is {show(value)}; expected a list")
        return value

    def string(self, record: object, key: str, where: str) -> str:
        value = self.required(record, key, where)
        if not isinstance(value, str):
            raise self.error(f"{where}: '{key}' is {show(value)}; expected a string")
        return value

    def names(self, record: object, key: str, where: str) -> tuple[str, ...]:
        value = self.required(record, key, where)
        names = value if isinstance(value, list) else [value]
        if not all(isinstance(name, str) for name in names):
            raise self.error(f"{where}: '{key}' is {show(value)}; expected a name or a list of names")
        return tuple(names)

    def identifier(self, record: object, key: str, where: str) -> str:
        value = self.required(record, key, where)
        if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
            raise self.error(f"{where}: '{key}' is {show(value)}; expected a string")
        return str(value).strip()

    def number(self, record: object, key: str, where: str) -> int | None:
        value = self.optional(record, key, where)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= NUMBER_LIMIT:
            raise self.error(f"{where}: '{key}' is {show(value)}; expected a whole number or null")
        return value

    def report_unread(self, record: object, known: tuple[str, ...], warned: ReadWarnings, file: str) -> None:
        for key in record if isinstance(record, Mapping) else ():
            if key not in known:
                warned.add(
                    f"field {show(key)} is not one of {', '.join(known)} and was not read", f"{file}:{self.line}"
                )
