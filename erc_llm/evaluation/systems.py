"""Which tables are runs of one system: the same in everything a table states, but for the seed.

Goes in: named tables. Comes out: systems, each with the indices of its tables. Knows no figure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from erc_llm.errors import PredictionsError
from erc_llm.evaluation.matching import Named
from erc_llm.predictions import PredictionsInfo


@dataclass(frozen=True, slots=True)
class System:
    """What is compared.

    Attributes:
        name: What its tables call it, without a run's seed at the end: `lines` for `lines-13` and `lines-14`. With the
            name of its first table where two systems are called the same.
        runs: Indices of its tables, at least one.
        checked: Whether all its tables state a hash of their configuration apart from the seed, and the same one.
    """

    name: str
    runs: tuple[int, ...]
    checked: bool


def group(tables: Sequence[Named]) -> tuple[System, ...]:
    """Systems in the order of their first tables.

    Tables are runs of one system if they have the same context, profile, retrieval, template, base model, training
    corpus, decoding and kinds of correction, each another seed, and the same hash of their configuration apart from the
    seed; where that is not stated, the same name. Or if they are given the same system.

    Raises:
        PredictionsError: Two tables of one system are of the same run.
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
    for _, runs in found:
        _check_other_trainings([tables[run] for run in runs])
    names = [_called([tables[run] for run in runs]) for _, runs in found]
    times = Counter(names)
    return tuple(
        _system(tables, tuple(runs), name, alone=times[name] == 1) for name, (_, runs) in zip(names, found, strict=True)
    )


def short_names(tables: Sequence[Named]) -> tuple[str, ...]:
    """What the tables are called, without the folders that do not tell them apart."""
    parts = [PurePath(named.name).parts for named in tables]
    kept = 1
    while kept < max(map(len, parts)) and len({p[-kept:] for p in parts}) < len(set(parts)):
        kept += 1
    return tuple(str(PurePath(*p[-kept:])) for p in parts)


def _check_other_trainings(runs: Sequence[Named]) -> None:
    first: dict[tuple[str, int | None], str] = {}
    for named in runs:
        info = named.table.info
        if info.run_id is not None and (other := first.setdefault((info.run_id, info.seed), named.name)) != named.name:
            raise PredictionsError(
                f"{other} and {named.name} are of one run, {info.run_id}; runs of a system are several trainings of it"
            )


def _system(tables: Sequence[Named], runs: tuple[int, ...], name: str, alone: bool) -> System:
    unique = name if alone else f"{name} ({short_names(tables)[runs[0]]})"
    recipes = {tables[run].table.info.recipe_sha256 for run in runs}
    return System(unique, runs, len(recipes) == 1 and None not in recipes)


def _called(runs: Sequence[Named]) -> str:
    if runs[0].system is not None:
        return runs[0].system
    names = {
        info.system: info.system.removesuffix(str(info.seed)).rstrip("-_. ") for info in (n.table.info for n in runs)
    }
    shared = set(names.values()) - {""}
    return next(iter(shared if len(names) > 1 and len(shared) == 1 else names))


def _recipe(info: PredictionsInfo) -> tuple[Any, ...]:
    return (
        info.system if info.recipe_sha256 is None else info.recipe_sha256,
        info.run_id is None,
        info.context,
        info.profile,
        info.retrieval,
        info.template_sha256,
        info.base_model,
        info.trained_on_sha256,
        info.decoding,
        info.prior is None,
        info.calibration is None,
        info.decision_weights is None,
    )
