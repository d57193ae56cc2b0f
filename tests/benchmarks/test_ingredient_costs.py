"""Costs of ingredients: one job for each arm, and ratios to the base arm within each round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import ingredient_costs
from benchmarks.ablation import read_arms
from benchmarks.measure import Ratio
from erc_llm.errors import ConfigError

ARMS = read_arms(Path(__file__).parents[2] / "benchmarks" / "ingredients.yaml")


def test_the_base_arm_comes_first_and_no_arm_needs_another_run() -> None:
    jobs = ingredient_costs.jobs(ARMS, ["meld", "words"], "sample", 4)
    assert [job.name for job in jobs] == ["none", "meld", "words"]
    assert all(job.arguments["settings"]["overrides"][-1] == "lora.start=null" for job in jobs)
    assert "training.auxiliary.words=0.3" in jobs[2].arguments["settings"]["overrides"]
    with pytest.raises(ConfigError, match="wrods: is no arm"):
        ingredient_costs.jobs(ARMS, ["wrods"], "sample", 4)


def test_a_ratio_is_that_of_the_same_round() -> None:
    def run(seconds: float, tokens: int) -> dict[str, Any]:
        return {"tokens": tokens, "utterances": 10, "seconds": seconds}

    results = {"none": [run(1, 200), run(2, 200)], "words": [run(3, 300), run(4, 300)]}
    costs = ingredient_costs.costs_of(results, "none")
    assert [*ingredient_costs.rows(costs)] == [
        "| none | 20.0 | 1.00 | 10.00 | 1.00 (1.00 to 1.00) |",
        "| words | 30.0 | 1.50 | 3.33 | 2.50 (2.00 to 3.00) |",
    ]


def test_written_costs_are_read_again(tmp_path: Path) -> None:
    costs = {"words": ingredient_costs.Cost(30.0, 1.5, 3.3, Ratio((2.0, 3.0)))}
    ingredient_costs.write_costs(tmp_path / "costs.json", costs)
    assert ingredient_costs.read_costs(tmp_path / "costs.json") == costs
    for text in ("{", "[]", '{"words": {"tokens": 1}}'):
        (tmp_path / "costs.json").write_text(text)
        with pytest.raises(ConfigError, match="expected the costs of arms"):
            ingredient_costs.read_costs(tmp_path / "costs.json")
