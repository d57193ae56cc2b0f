"""Costs of ingredients: one job for each arm, and ratios to the base arm within each round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import ingredient_costs
from benchmarks.ablation import read_arms
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
    assert [*ingredient_costs.rows(results, "none")] == [
        "| none | 20.0 | 1.00 | 10.00 | 1.00 (1.00 to 1.00) |",
        "| words | 30.0 | 1.50 | 3.33 | 2.50 (2.00 to 3.00) |",
    ]
