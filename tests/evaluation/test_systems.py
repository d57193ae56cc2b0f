"""Which tables are runs of one system."""

from __future__ import annotations

from typing import Any

import pytest

from erc_llm.errors import PredictionsError
from erc_llm.evaluation.matching import NamedTable
from erc_llm.evaluation.systems import apart, group, short_names
from erc_llm.predictions import Predictions
from tests.evaluation.compared_tables import named, table


def test_seeds_of_one_recipe_are_runs_of_one_system() -> None:
    tables = named(table(seed=1), table(system="other"), table(seed=2), table(seed=5))
    first, second = group(tables)
    assert (first.name, first.runs, first.checked) == ("tuned", (0, 2, 3), True)
    assert (second.name, second.runs) == ("other", (1,))


def test_runs_named_after_their_seeds_are_one_system_named_without() -> None:
    tables = named(*(table(system=f"lines-{seed}", seed=seed) for seed in (13, 14)), table(system="b", seed=15))
    (found,) = group(tables)
    assert (found.name, found.runs) == ("lines-13", (0, 1, 2))
    assert [system.name for system in group(tables[:2])] == ["lines"]
    unstated = named(*(table(system=f"lines-{seed}", seed=seed, recipe_sha256=None) for seed in (13, 14)))
    assert [system.name for system in group(unstated)] == ["lines-13", "lines-14"]


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"seed": None},
        {"seed": 2, "recipe_sha256": "ee" * 32},
        {"seed": 2, "context": "full"},
        {"seed": 2, "profile": "lines in the trunk"},
        {"seed": 2, "decoding": "free text"},
        {"seed": 2, "run_id": None},
        {"seed": 2, "trained_on_sha256": "ee" * 32},
        {"seed": 2, "calibration": "temperature 2"},
        {"seed": 2, "base_model_sha256": "ee" * 32},
        {"seed": 2, "corpus_sha256": "ee" * 32},
        {"seed": 2, "selection": "dev"},
        {"seed": 2, "training_precision": "bfloat16"},
    ],
)
def test_whatever_else_differs_makes_another_system_and_both_get_names(other: dict[str, Any]) -> None:
    found = group(named(table(), table(**other)))
    assert [system.name for system in found] == ["tuned (0.parquet)", "tuned (1.parquet)"]


def test_old_tables_without_a_recipe_are_grouped_by_what_they_state() -> None:
    (found,) = group(named(table(seed=1, recipe_sha256=None), table(seed=2, recipe_sha256=None)))
    assert (found.runs, found.checked) == ((0, 1), False)


def test_tables_of_versions_that_hash_recipes_otherwise_are_kept_apart_with_a_sentence() -> None:
    """An earlier version hashed what bounds memory, too; its tables are runs of one system among each other."""
    old, new = ({"recipe_sha256": digest * 32} for digest in ("0a", "0b"))
    tables = named(*(table(system=f"lines-{seed}", seed=seed, **(old if seed < 3 else new)) for seed in (1, 2, 3, 4)))
    systems = group(tables)
    assert [system.runs for system in systems] == [(0, 1), (2, 3)]
    (said,) = apart(tables, systems)
    assert said.endswith("are no runs of one system: they differ in configuration.")


def test_one_run_is_not_two_runs_of_a_system() -> None:
    """A copy of a table, or the same run with another correction, says nothing of other trainings."""
    tables = [
        NamedTable("a.parquet", table(), "A"),
        NamedTable("copy.parquet", table(), "A"),
        NamedTable("b.parquet", table(), "B"),
    ]
    with pytest.raises(PredictionsError, match=r"a\.parquet and copy\.parquet are of one run, run-1"):
        group(tables)


def test_one_table_twice_is_not_two_runs_either() -> None:
    twice = [
        NamedTable("a.parquet", table(), "A"),
        NamedTable("a.parquet", table(), "A"),
        NamedTable("b.parquet", table(), "B"),
    ]
    with pytest.raises(PredictionsError, match=r"a\.parquet and a\.parquet are of one run, run-1"):
        group(twice)


def test_what_keeps_runs_of_one_name_apart_is_told() -> None:
    def said(*tables: Predictions) -> list[str]:
        return list(apart(named(*tables), group(named(*tables))))

    first, other = table(system="lines-13", seed=13), table(system="other", seed=14)
    changed = table(system="lines-14", seed=14, recipe_sha256="ee" * 32, selection="dev")
    assert said(first, changed, other) == [
        "lines-13 and lines-14 are no runs of one system: they differ in configuration, the split that choices were "
        "made on."
    ]
    assert not said(first, table(system="lines-14", seed=14), other), "they are grouped"
    assert not said(first, table(system="lines-13", seed=13, calibration="temperature 2")), "one run, corrected"


def test_names_are_as_short_as_they_can_be() -> None:
    names = ["runs/a/dev.parquet", "runs/b/dev.parquet", "zero.parquet"]
    assert short_names([NamedTable(name, table(dialogues=1)) for name in names]) == (
        "a/dev.parquet",
        "b/dev.parquet",
        "zero.parquet",
    )
