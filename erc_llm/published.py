"""What others report on EmoryNLP: shown beside measured figures, and never among them.

Goes in: the packaged file `published.yaml`. Comes out: frozen records. They are of another type than anything measured,
so that no table can hold both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from erc_llm.corpus.labels import EMORYNLP
from erc_llm.predictions import PredictionsInfo

HEADING = "reported elsewhere, not rerun"
_FILE = Path(__file__).with_name("published.yaml")
_EMORYNLP_VERSIONS = ("original", "aligned", "compm")


@dataclass(frozen=True, slots=True)
class Reported:
    """A result of others on EmoryNLP's test set. What a source does not state is None.

    Attributes:
        system: Its name.
        weighted_f1: In percent.
        accuracy: In percent.
        source: Where it is reported.
        base_model: What it stands on.
        test_version: `original` or `aligned`.
        test_utterances: Size of the test set: 1,328 or 984.
        context: `past` or `full`.
        caveats: What to keep in mind.
    """

    system: str
    weighted_f1: float
    accuracy: float | None
    source: str
    base_model: str | None
    test_version: Literal["original", "aligned"] | None
    test_utterances: int | None
    context: Literal["past", "full"] | None
    caveats: str


@cache
def reported() -> tuple[Reported, ...]:
    """All of them, in the order of the file."""
    import yaml
    from pydantic import TypeAdapter

    records = yaml.safe_load(_FILE.read_text("utf-8"))
    return TypeAdapter(tuple[Reported, ...]).validate_python(records)


def reported_system(name: str) -> Reported:
    """The record of one system.

    Raises:
        KeyError: There is none of that name.
    """
    return {record.system: record for record in reported()}[name]


def reported_for(tables: Iterable[PredictionsInfo]) -> tuple[Reported, ...]:
    """Those that belong beside figures of such tables: all where they are about EmoryNLP, else none."""
    about_emorynlp = all(
        info.corpus_version in _EMORYNLP_VERSIONS and set(info.labels) == set(EMORYNLP.names) for info in tables
    )
    return reported() if about_emorynlp else ()
