"""Parsers of the tabular formats: CSV of the MELD repository (`aligned`, `meld`) and CoMPM text (`compm`).

Input: a `Source`. Output: `RawDialogue` records in file order.
Does not depend on: label sets, aliases.
"""

from __future__ import annotations

import ast
import csv
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

from erc_llm.corpus.formats import COLUMNS, MELD_COLUMNS, RawDialogue, RawUtterance, csv_delimiter
from erc_llm.corpus.read_warnings import ReadWarnings, show
from erc_llm.corpus.sources import Source
from erc_llm.errors import CorpusError

# Control characters of Unicode to the characters that Windows-1252 has at the same numbers.
_WINDOWS_1252 = {number: bytes([number]).decode("cp1252", "ignore") or None for number in range(0x80, 0xA0)}


def parse_aligned(source: Source, warned: ReadWarnings) -> Iterator[RawDialogue]:
    """Scenes of a CSV file; the rows of a scene are sorted by `Utterance_ID`.

    Raises:
        CorpusError: A required column is missing, a row has too few or too many fields, or a number is invalid.
    """
    scenes: dict[tuple[int, int, int], list[tuple[int, RawUtterance]]] = {}
    for row, line in _rows(source, COLUMNS):
        season, episode, scene, number = (
            _number(row[column], column, source, line) for column in ("Season", "Episode", "Scene_ID", "Utterance_ID")
        )
        speakers = _speaker_list(row["Speaker"])
        if speakers is None:
            message = f"Speaker is {show(row['Speaker'])}; expected a list of names such as ['Ross Geller']"
            raise CorpusError(message, source.path, line)
        name = f"s{season:02d}_e{episode:02d}_c{scene:02d}_u{number:03d}"
        utterance = RawUtterance(name, speakers, row["Utterance"], row["Emotion"], line)
        rows = scenes.setdefault((season, episode, scene), [])
        if rows and number < rows[-1][0]:
            warned.add("row moved to the order of Utterance_ID", f"{name} ({source.name}:{line})")
        rows.append((number, utterance))
    for (season, episode, scene), rows in scenes.items():
        utterances = tuple(utterance for _, utterance in sorted(rows, key=lambda row: row[0]))
        name = f"s{season:02d}_e{episode:02d}_c{scene:02d}"
        yield RawDialogue(name, utterances, season, episode, scene, line=utterances[0].line)


def parse_meld(source: Source, warned: ReadWarnings) -> Iterator[RawDialogue]:
    """Dialogues of MELD's CSV; the rows of a dialogue are sorted by `Utterance_ID`.

    A dialogue's scene number is the second of its episode at which it begins, which gives the order in time over all
    files. Bytes of Windows-1252 that became control characters are restored.

    Raises:
        CorpusError: A required column is missing, a row has too few or too many fields, or a number is invalid.
    """
    dialogues: dict[int, list[tuple[int, float, int, int, RawUtterance]]] = {}
    for row, line in _rows(source, MELD_COLUMNS):
        dialogue, number, season, episode = (
            _number(row[column], column, source, line)
            for column in ("Dialogue_ID", "Utterance_ID", "Season", "Episode")
        )
        said = RawUtterance(None, (row["Speaker"],), row["Utterance"].translate(_WINDOWS_1252), row["Emotion"], line)
        rows = dialogues.setdefault(dialogue, [])
        if rows and number < rows[-1][0]:
            warned.add("row moved to the order of Utterance_ID", f"dialogue {dialogue} ({source.name}:{line})")
        rows.append((number, _seconds(row["StartTime"], source, line), season, episode, said))
    for dialogue, rows in dialogues.items():
        rows.sort(key=lambda row: row[0])
        _, begins, season, episode, first = rows[0]
        name = f"{source.split or source.path.stem}_{dialogue:04d}"
        utterances = tuple(replace(said, id=f"{name}_u{number:03d}") for number, *_, said in rows)
        yield RawDialogue(name, utterances, season, episode, int(begins), line=first.line)


def _seconds(field: str, source: Source, line: int) -> float:
    """Seconds of a time such as 00:20:57,256."""
    match = re.fullmatch(r"\s*(\d+):(\d\d):(\d\d)[,.](\d+)\s*", field)
    if match is None:
        raise CorpusError(f"StartTime is {show(field)}; expected a time such as 00:20:57,256", source.path, line)
    hours, minutes, seconds = map(int, match.groups()[:3])
    return 3600 * hours + 60 * minutes + seconds + float(f"0.{match[4]}")


def parse_compm(source: Source, warned: ReadWarnings) -> Iterator[RawDialogue]:
    """Scenes of a CoMPM text file, which has no episodes and no ids.

    Raises:
        CorpusError: A line does not have three fields.
    """
    scene: list[RawUtterance] = []
    for number, line in enumerate([*source.text.split("\n"), ""], start=1):
        if not line.strip():
            if scene:
                yield RawDialogue(None, tuple(scene), line=scene[0].line)
            scene = []
            continue
        fields = line.split("\t")
        if len(fields) != 3:
            message = f"found {len(fields)} fields separated by tabs; expected three: speaker, utterance, emotion"
            raise CorpusError(message, source.path, number)
        scene.append(RawUtterance(None, (fields[0],), fields[1], fields[2], number))


def _rows(source: Source, columns: Sequence[str]) -> Iterator[tuple[dict[str, str], int]]:
    records = _records(source)
    header = _header(*records[0], source, columns)
    for fields, line in records[1:]:
        if len(fields) != len(header):
            message = f"found a row of {len(fields)} fields; the header has {len(header)}. Is a quote left open?"
            raise CorpusError(message, source.path, line)
        yield dict(zip(header, fields, strict=True)), line


def _records(source: Source) -> list[tuple[list[str], int]]:
    """(fields, first line) of every row that is not blank."""
    delimiter = csv_delimiter(source.text.lstrip().partition("\n")[0]) or ","
    reader = csv.reader(io.StringIO(source.text, newline=""), delimiter=delimiter, strict=True)
    records, line = [], 1
    limit = csv.field_size_limit(len(source.text) + 1)  # the default, 128 KB, is too small for a very long utterance
    try:
        for fields in reader:
            if fields:
                records.append((fields, line))
            line = reader.line_num + 1
    except csv.Error as error:
        raise CorpusError(f"not valid CSV: {error}; is a quote left open?", source.path, line) from None
    finally:
        csv.field_size_limit(limit)
    return records


def _header(fields: list[str], line: int, source: Source, columns: Sequence[str]) -> list[str]:
    ours = {column.casefold(): column for column in columns}
    names = [ours.get(field.strip().casefold(), field) for field in fields]
    missing = [column for column in columns if column not in names]
    if missing:
        found = ", ".join(show(name) for name in names[:12])
        message = (
            f"CSV without the column {', '.join(missing)}; found {found}. To use a table with other columns, convert "
            "it to this project's JSONL: see docs/own-corpus.md"
        )
        raise CorpusError(message, source.path, line)
    return names


def _number(field: str, column: str, source: Source, line: int) -> int:
    match = re.fullmatch(r"\s*([0-9]{1,6})(?:\.0+)?\s*", field)  # pandas writes 3 as 3.0 in a column with gaps
    if match is None:
        raise CorpusError(f"{column} is {show(field)}; expected a whole number", source.path, line)
    return int(match[1])


@lru_cache(maxsize=8192)
def _speaker_list(field: str) -> tuple[str, ...] | None:
    """Names of a Python-style list, or of a plain name; None if the field is neither."""
    if not field.lstrip().startswith("["):
        return (field,)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns about a stray backslash in a name
            value = ast.literal_eval(field.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        return None
    return tuple(value)
