"""The exports in a folder, with what their records say.

Input: a folder. Output: one `ListedExport` for each export in it.
Does not depend on: models; of the weights only the hash is read, which is stored once computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from erc_llm.errors import RunError
from erc_llm.runs.exported import check_weights, read_record
from erc_llm.runs.manifest import read_manifest


@dataclass(frozen=True, slots=True)
class ListedExport:
    """An export as it is listed.

    Attributes:
        name: Name of its folder.
        lines: Form, type of the weights, size and date; base, data and weighted F1; who reloaded it and the largest
            difference of a probability then. Or what is wrong with it.
    """

    name: str
    lines: tuple[str, ...]


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
            listed = ListedExport(path.name, (str(error),))
        if listed is not None:
            found.append(listed)
    return found


def _listed(path: Path) -> ListedExport | None:
    record = read_record(path)
    if record is None:
        return None
    manifest = read_manifest(path)
    check_weights(path, record)
    megabytes = sum((path / name).stat().st_size for name in record.weights) / 1e6
    score = next((m for m in record.measured if m.metric == "weighted f1"), None)
    data = f"{record.base}, trained on {manifest.corpus_name} ({manifest.corpus_version})"
    if score is not None:
        data += f", weighted F1 {100 * score.value:.2f} % on {score.split}"
    return ListedExport(
        path.name,
        (
            f"{record.form}, {record.stored}, {megabytes:,.1f} MB, {record.created}",
            data,
            f"verified by {record.verified_by}: probabilities differ by {record.largest_difference:.4f} at most",
        ),
    )
