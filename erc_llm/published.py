"""Published results on EmoryNLP, which are shown beside measured results.

The records have a type of their own, so that published and measured results cannot be mixed in one table.

Input: the packaged file `published.yaml`. Output: frozen records.
Does not depend on: models, runs, metrics.
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
    """A published result on EmoryNLP's test set; fields that the source does not state are None.

    Attributes:
        system: Name of the system.
        weighted_f1: Weighted F1 in percent.
        accuracy: Accuracy in percent.
        source: Publication that reports the result.
        base_model: Base model of the system.
        test_version: Corpus version of the test set, `original` or `aligned`.
        test_utterances: Size of the test set: 1,328 or 984.
        context: `past` or `full`.
        caveats: Differences in the setup that limit a comparison.
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
    """All published results, in the order of the file."""
    import yaml
    from pydantic import TypeAdapter

    records = yaml.safe_load(_FILE.read_text("utf-8"))
    return TypeAdapter(tuple[Reported, ...]).validate_python(records)


def reported_system(name: str) -> Reported:
    """The published result of one system.

    Raises:
        KeyError: No record has this name.
    """
    return {record.system: record for record in reported()}[name]


def reported_for(tables: Iterable[PredictionsInfo]) -> tuple[Reported, ...]:
    """Published results to show beside tables: all if every table is of EmoryNLP, otherwise none."""
    about_emorynlp = all(
        info.corpus_version in _EMORYNLP_VERSIONS and set(info.labels) == set(EMORYNLP.names) for info in tables
    )
    return reported() if about_emorynlp else ()
