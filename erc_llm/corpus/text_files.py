"""The two tabular formats taken to pieces: CSV of the MELD repository (`aligned`) and CoMPM text (`compm`).

In: a `Source`. Out: `RawDialogue` records, in the order of the file. Deliberately unknown here: label sets and aliases.
"""

from __future__ import annotations

import ast
import csv
import io
import re
import warnings
from collections.abc import Iterator
from functools import lru_cache

from erc_llm.corpus.formats import COLUMNS, RawDialogue, RawUtterance, csv_delimiter
from erc_llm.corpus.read_warnings import ReadWarnings, show
from erc_llm.corpus.sources import Source
from erc_llm.errors import CorpusError


def parse_aligned(source: Source, warned: ReadWarnings) -> Iterator[RawDialogue]:
    """Scenes of a CSV file, rows of a scene in the order of `Utterance_ID`.

    Raises:
        CorpusError: A needed column is missing, a row has too few or too many fields, a number is none.
    """
    scenes: dict[tuple[int, int, int], list[tuple[int, RawUtterance]]] = {}
    for row, line in _rows(source):
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
            warned.add("row put back into the order of Utterance_ID", f"{name} ({source.name}:{line})")
        rows.append((number, utterance))
    for (season, episode, scene), rows in scenes.items():
        utterances = tuple(utterance for _, utterance in sorted(rows, key=lambda row: row[0]))
        name = f"s{season:02d}_e{episode:02d}_c{scene:02d}"
        yield RawDialogue(name, utterances, season, episode, scene, line=utterances[0].line)


def parse_compm(source: Source, warned: ReadWarnings) -> Iterator[RawDialogue]:
    """Scenes of a CoMPM text file. It names no episodes and no ids.

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
            message = f"{len(fields)} fields between tabs; expected three: speaker, utterance, emotion"
            raise CorpusError(message, source.path, number)
        scene.append(RawUtterance(None, (fields[0],), fields[1], fields[2], number))


def _rows(source: Source) -> Iterator[tuple[dict[str, str], int]]:
    records = _records(source)
    header = _header(*records[0], source)
    for fields, line in records[1:]:
        if len(fields) != len(header):
            message = f"a row of {len(fields)} fields; the header has {len(header)}. Is a quote left open?"
            raise CorpusError(message, source.path, line)
        yield dict(zip(header, fields, strict=True)), line


def _records(source: Source) -> list[tuple[list[str], int]]:
    """Rows with the line each begins in; blank rows left out."""
    delimiter = csv_delimiter(source.text.lstrip().partition("\n")[0]) or ","
    reader = csv.reader(io.StringIO(source.text, newline=""), delimiter=delimiter, strict=True)
    records, line = [], 1
    limit = csv.field_size_limit(len(source.text) + 1)  # the default, 128 KB, is less than a very long utterance needs
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


def _header(fields: list[str], line: int, source: Source) -> list[str]:
    ours = {column.casefold(): column for column in COLUMNS}
    names = [ours.get(field.strip().casefold(), field) for field in fields]
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        found = ", ".join(show(name) for name in names[:12])
        message = (
            f"CSV without the column {', '.join(missing)}; found {found}. A table with other columns becomes our JSONL "
            "with a converter of a few lines: see docs/own-corpus.md"
        )
        raise CorpusError(message, source.path, line)
    return names


def _number(field: str, column: str, source: Source, line: int) -> int:
    match = re.fullmatch(r"\s*([0-9]{1,6})(?:\.0+)?\s*", field)  # 3.0 is what pandas makes of 3 in a column with gaps
    if match is None:
        raise CorpusError(f"{column} is {show(field)}; expected a whole number", source.path, line)
    return int(match[1])


@lru_cache(maxsize=8192)
def _speaker_list(field: str) -> tuple[str, ...] | None:
    """Names of a Python-style list, or a plain name; None for what is neither."""
    if not field.lstrip().startswith("["):
        return (field,)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a stray backslash in a name is none of the user's business
            value = ast.literal_eval(field.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        return None
    return tuple(value)
