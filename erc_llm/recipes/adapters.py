"""The exports in a folder, with what their records say.

Input: a folder. Output: one `ListedExport` for each export in it.
Does not depend on: models; weights are not read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from erc_llm.errors import RunError
from erc_llm.runs.exported import read_record
from erc_llm.runs.manifest import read_manifest

_SCORE = re.compile(r"^\| (?P<split>[^|]+) \| weighted f1 \| (?P<value>[\d.]+) \|", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ListedExport:
    """An export as it is listed; all but `megabytes` in words.

    Attributes:
        name: Name of its folder.
        form: Its form and the type of its weights.
        base: Hub id of its base model.
        trained_on: Corpus and version.
        score: The first weighted F1 of its card, in percent, with the split; empty if there is none.
        megabytes: Size of its weight files.
        date: Date on which it was made.
        verified: The program that reloaded it, and the largest difference of a probability.
    """

    name: str
    form: str
    base: str
    trained_on: str
    score: str
    megabytes: float
    date: str
    verified: str


def list_exports(folder: Path) -> list[ListedExport]:
    """The exports in a folder, by name; damaged ones are listed as such.

    Raises:
        RunError: There is no such folder.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder; `erc-llm export RUN` makes one under adapters/")
    found = []
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            continue
        try:
            listed = _listed(path)
        except RunError as error:
            listed = ListedExport(path.name, "damaged", "", "", "", 0.0, "", str(error))
        if listed is not None:
            found.append(listed)
    return found


def _listed(path: Path) -> ListedExport | None:
    record = read_record(path)
    if record is None:
        return None
    manifest = read_manifest(path)
    missing = [name for name in record.weights if not (path / name).is_file()]
    size = sum((path / name).stat().st_size for name in record.weights if name not in missing)
    verified = f"{record.verified_by}: {record.largest_difference:.4f}"
    if missing:
        verified = f"no: {missing[0]} is missing"
    return ListedExport(
        name=path.name,
        form=f"{record.form}, {record.stored}",
        base=record.base,
        trained_on=f"{manifest.corpus_name} ({manifest.corpus_version})",
        score=_score(path),
        megabytes=size / 1e6,
        date=record.created,
        verified=verified,
    )


def _score(path: Path) -> str:
    try:
        match = _SCORE.search((path / "README.md").read_text("utf-8"))
    except OSError:
        return ""
    return "" if match is None else f"{match['value']} ({match['split']})"
