"""Systems: groups tables that are runs of one system: equal in recipe and inputs, different in seed.

Input: named tables. Output: systems, each with the indices of its tables.
Does not depend on: metrics, the tables' rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from erc_llm.errors import PredictionsError
from erc_llm.evaluation.matching import NamedTable
from erc_llm.predictions import PredictionsInfo


@dataclass(frozen=True, slots=True)
class System:
    """A system that is compared.

    Attributes:
        name: Its name in the tables, without a run's seed at the end: `lines` for `lines-13` and `lines-14`. With the
            name of its first table where two systems have the same name.
        runs: Indices of its tables, at least one.
        checked: Whether all its tables state a hash of their configuration apart from the seed, and the same one.
    """

    name: str
    runs: tuple[int, ...]
    checked: bool


def group(tables: Sequence[NamedTable]) -> tuple[System, ...]:
    """Systems in the order of their first tables.

    Tables are runs of one system if they are about the same corpus and have the same context, profile, retrieval,
    template, base model, training corpus, precision of training, split that choices were made on, decoding and kinds of
    correction, each another seed, and the same hash of their configuration apart from the seed; where that is not
    stated, the same name.
    Or if they are given the same system.

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


def apart(tables: Sequence[NamedTable], systems: Sequence[System]) -> Iterator[str]:
    """Sentences on systems with the same name but for their seeds: how their metadata differ."""
    for number, system in enumerate(systems):
        named = tables[system.runs[0]]
        for other in systems[:number]:
            first = tables[other.runs[0]]
            if not _alike([first, named]):
                continue
            one, two = _recipe(first.table.info), _recipe(named.table.info)
            if differing := ", ".join(name for name in one if one[name] != two[name]):
                yield f"{other.name} and {system.name} are no runs of one system: they differ in {differing}."
            break


def _alike(tables: Sequence[NamedTable]) -> bool:
    """Whether tables have one name but for their seeds, which differ."""
    infos = [named.table.info for named in tables if named.system is None]
    seeds = {info.seed for info in infos} - {None}
    names = {_without_seed(info) for info in infos}
    return len(seeds) == len(tables) and len(names) == 1 and names != {""}


def short_names(tables: Sequence[NamedTable]) -> tuple[str, ...]:
    """Names of the tables, without folders that are not needed to distinguish them."""
    parts = [PurePath(named.name).parts for named in tables]
    kept = 1
    while kept < max(map(len, parts)) and len({p[-kept:] for p in parts}) < len(set(parts)):
        kept += 1
    return tuple(str(PurePath(*p[-kept:])) for p in parts)


def _check_other_trainings(runs: Sequence[NamedTable]) -> None:
    first: dict[tuple[str, int | None], str] = {}
    for named in runs:
        info = named.table.info
        if info.run_id is None:
            continue
        if (other := first.get((info.run_id, info.seed))) is not None:
            raise PredictionsError(
                f"{other} and {named.name} are of one run, {info.run_id}; runs of a system are several trainings of it"
            )
        first[info.run_id, info.seed] = named.name


def _system(tables: Sequence[NamedTable], runs: tuple[int, ...], name: str, alone: bool) -> System:
    unique = name if alone else f"{name} ({short_names(tables)[runs[0]]})"
    recipes = {tables[run].table.info.recipe_sha256 for run in runs}
    return System(unique, runs, len(recipes) == 1 and None not in recipes)


def _called(runs: Sequence[NamedTable]) -> str:
    if runs[0].system is not None:
        return runs[0].system
    names = {info.system: _without_seed(info) for info in (named.table.info for named in runs)}
    shared = set(names.values()) - {""}
    return next(iter(shared if len(names) > 1 and len(shared) == 1 else names))


def _without_seed(info: PredictionsInfo) -> str:
    return info.system.removesuffix(str(info.seed)).rstrip("-_. ")


def _recipe(info: PredictionsInfo) -> dict[str, Any]:
    """Name to value of everything that runs of one system have in common."""
    return {
        "configuration": info.system if info.recipe_sha256 is None else info.recipe_sha256,
        "whether a run answered": info.run_id is None,
        "context": info.context,
        "profile": info.profile,
        "retrieval": info.retrieval,
        "template": info.template_sha256,
        "base model": (info.base_model, info.base_model_sha256),
        "training corpus": info.trained_on_sha256,
        "precision of training": info.training_precision,
        "corpus": info.corpus_sha256,
        "the split that choices were made on": info.selection,
        "decoding": info.decoding,
        "prior": info.prior is None,
        "calibration": info.calibration is None,
        "neighbours": info.neighbours_weight is None,
        "decision rule": (info.decision or "weights", info.decision_way) if info.decided else None,
    }
