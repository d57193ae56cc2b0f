"""File formats: recognises the five formats by their content, and defines the records that their parsers return.

    original   the JSON of EmoryNLP's release 1.0: episodes > scenes > utterances
    aligned    EmoryNLP's CSV in the MELD repository: one utterance per row, Speaker is a Python-style list in a string
    meld       MELD's own CSV: dialogues are numbered in each file, and lines have times but scenes have no number
    compm      the text files of CoMPM: speaker, utterance, emotion, separated by tabs; a blank line ends a scene
    own        JSONL of this project: one dialogue per line (docs/own-corpus.md)

Input: a `Source`. Output: the name of its format.
Does not depend on: the parsers (`json_files`, `text_files`), label sets, aliases.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from erc_llm.corpus.read_warnings import show
from erc_llm.corpus.sources import Source
from erc_llm.errors import CorpusError

DESCRIPTIONS = {
    "original": "EmoryNLP JSON",
    "aligned": "CSV of EmoryNLP, as in the MELD repository",
    "meld": "MELD's CSV",
    "compm": "CoMPM text",
    "own": "JSONL, one dialogue per line",
}
COLUMNS = ("Utterance", "Speaker", "Emotion", "Scene_ID", "Utterance_ID", "Season", "Episode")
MELD_COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID", "Season", "Episode", "StartTime")
DELIMITERS = ",\t;"
NUMBER_LIMIT = 999_999  # larger season, episode, scene or utterance numbers are treated as damaged data


@dataclass(frozen=True, slots=True)
class RawUtterance:
    """An utterance as read from its file; `line` is the line of its label, or its first line if it has no label."""

    id: str | None
    speakers: tuple[str, ...]
    text: str
    label: str | None
    line: int | None


@dataclass(frozen=True, slots=True)
class RawDialogue:
    """A dialogue as read from its file; `split` is None unless the record itself names one."""

    id: str | None
    utterances: tuple[RawUtterance, ...]
    season: int | None = None
    episode: int | None = None
    scene: int | None = None
    split: str | None = None
    line: int | None = None


def recognise(source: Source) -> str:
    """Name of the format, a key of `DESCRIPTIONS`, decided by the content alone.

    Raises:
        CorpusError: The file is empty, or its format is none of the five.
    """
    text = source.text.lstrip()
    first = text.partition("\n")[0]
    if not text:
        raise CorpusError("the file is empty", source.path)
    if text.startswith("{"):
        try:
            return "original" if "episodes" in json.loads(first) else "own"
        except (ValueError, RecursionError):
            return "original" if re.search(r'"episodes"\s*:', text) else "own"
    if (delimiter := csv_delimiter(first)) is not None:
        names = _names(first, delimiter)
        return "meld" if "dialogue_id" in names and "scene_id" not in names else "aligned"
    if "\t" in first:
        return "compm"
    known = "; ".join(f"{name}: {what}" for name, what in DESCRIPTIONS.items())
    raise CorpusError(f"unknown file format; the file begins with {show(first)}. Expected one of {known}", source.path)


def csv_delimiter(header: str) -> str | None:
    """Delimiter of a header line that contains at least two of `COLUMNS`; None for any other line."""
    for delimiter in DELIMITERS:
        if len(_names(header, delimiter) & {column.casefold() for column in COLUMNS}) >= 2:
            return delimiter
    return None


def _names(header: str, delimiter: str) -> set[str]:
    return {name.strip(' "').casefold() for name in header[:4096].split(delimiter)}
