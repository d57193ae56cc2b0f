"""Which tables are runs of one system: the same in everything a table states, but for the seed.

Goes in: named tables. Comes out: systems, each with the indices of its tables. Knows no figure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from erc_llm.evaluation.matching import Named
from erc_llm.predictions import PredictionsInfo


@dataclass(frozen=True, slots=True)
class System:
    """What is compared.

    Attributes:
        name: What the tables call it; with the name of its first table where two systems are called the same.
        runs: Indices of its tables, at least one.
        checked: Whether all its tables state a hash of their configuration apart from the seed, and the same one.
    """

    name: str
    runs: tuple[int, ...]
    checked: bool


def group(tables: Sequence[Named]) -> tuple[System, ...]:
    """Systems in the order of their first tables.

    Tables are runs of one system if they have the same name of the system, the same context, profile, retrieval,
    template, base model, decoding and kinds of correction, the same hash of their configuration apart from the seed
    (where it is stated), and each another seed; or if they are given the same system.
    """
    found: list[tuple[Any, list[int]]] = []
    for i, named in enumerate(tables):
        info = named.table.info
        own = _recipe(info) if named.system is None else named.system
        for recipe, runs in found:
            seeds = [tables[run].table.info.seed for run in runs]
            other_seed = None not in (info.seed, *seeds) and info.seed not in seeds
            if recipe == own and (named.system is not None or other_seed):
                runs.append(i)
                break
        else:
            found.append((own, [i]))
    times = Counter(_called(tables[runs[0]]) for _, runs in found)
    return tuple(_system(tables, tuple(runs), times) for _, runs in found)


def short_names(tables: Sequence[Named]) -> tuple[str, ...]:
    """What the tables are called, without the folders that do not tell them apart."""
    parts = [PurePath(named.name).parts for named in tables]
    kept = 1
    while kept < max(map(len, parts)) and len({p[-kept:] for p in parts}) < len(set(parts)):
        kept += 1
    return tuple(str(PurePath(*p[-kept:])) for p in parts)


def _system(tables: Sequence[Named], runs: tuple[int, ...], times: Counter[str]) -> System:
    name = _called(tables[runs[0]])
    unique = name if times[name] == 1 else f"{name} ({short_names(tables)[runs[0]]})"
    recipes = {tables[run].table.info.recipe_sha256 for run in runs}
    return System(unique, runs, len(recipes) == 1 and None not in recipes)


def _called(named: Named) -> str:
    return named.table.info.system if named.system is None else named.system


def _recipe(info: PredictionsInfo) -> tuple[Any, ...]:
    return (
        info.system,
        info.context,
        info.profile,
        info.retrieval,
        info.template_sha256,
        info.base_model,
        info.decoding,
        info.prior is None,
        info.calibration is None,
        info.decision_weights is None,
        info.recipe_sha256,
    )
