"""The table of all ingredients: whole and stopped arms, costs and notes, an arm a row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import ingredient_costs, ingredient_table
from benchmarks.ablation import read_arms
from benchmarks.measure import Ratio
from erc_llm.errors import ConfigError
from erc_llm.predictions import write_predictions
from tests.benchmarks.test_decided_tables import cross_fitted, rows_of
from tests.benchmarks.test_ingredients import without_episode
from tests.predictions.scored_tables import CORPUS

ARMS = """\
config: sample
budget: []
base: plain
arms: {whole: [lora.rank=4], plain: [], stopped: [], missing: []}
notes: {whole: {what: fewer parameters, literature: "a paper: +1"}}
"""


@pytest.fixture
def arms(tmp_path: Path) -> Path:
    """A file of arms, of which `whole` has all folds, and `stopped` the first two of them."""
    plain, other = cross_fitted(0, CORPUS), cross_fitted(1, CORPUS)
    write_predictions(plain, tmp_path / "plain" / "crossfit.parquet")
    write_predictions(other, tmp_path / "whole" / "crossfit.parquet")
    episodes = sorted(set(plain.columns()["episode"]))
    for number in (1, 2):
        left_out = plain
        for episode in episodes:
            if episodes.index(episode) % 3 != number - 1:
                left_out = without_episode(left_out, episode)
        left_out = replace(left_out, info=replace(left_out.info, folds=None))
        write_predictions(left_out, tmp_path / "stopped-folds" / f"fold-{number}" / "left_out.parquet")
    (tmp_path / "arms.yaml").write_text(ARMS)
    return tmp_path / "arms.yaml"


def test_every_arm_is_compared_on_its_own_rows(arms: Path, capsys: pytest.CaptureFixture[str]) -> None:
    costs = {"whole": ingredient_costs.Cost(30.0, 1.5, 3.3, Ratio((2.0, 3.0, 2.5)))}
    ingredient_costs.write_costs(arms.parent / "costs.json", costs)
    assert ingredient_table.main([str(arms), "--out", str(arms.parent)]) == 0
    whole, stopped = rows_of(capsys.readouterr().out)
    assert whole[:5] == ["`whole`", "fewer parameters (`lora.rank=4`)", "1.50", "2.50 (2.00 to 3.00)", "600"]
    assert whole[-1] == "a paper: +1"
    assert whole[5] != whole[7]
    assert stopped[:4] == ["`stopped`", "", "", ""]
    assert int(stopped[4]) < 600
    assert stopped[5:9] == ["+0.00 (+0.00 to +0.00)"] * 4, "calibrated on the same rows"
    assert stopped[9:11] == ["+0.0000 (+0.0000 to +0.0000)"] * 2, "and divided into the same episodes"


def test_costs_that_were_asked_for_must_exist(arms: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ingredient_table.main([str(arms), "--out", str(arms.parent), "--costs", str(arms.parent / "no.json")]) == 2
    assert "expected the costs of arms" in " ".join(capsys.readouterr().err.split())


def test_a_missing_base_arm_is_the_users_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "arms.yaml").write_text(ARMS)
    assert ingredient_table.main([str(tmp_path / "arms.yaml"), "--out", str(tmp_path)]) == 2
    assert "the other arms are compared with it" in capsys.readouterr().err


def test_a_note_belongs_to_an_arm(tmp_path: Path) -> None:
    (tmp_path / "arms.yaml").write_text(ARMS.replace("notes: {whole", "notes: {whloe"))
    with pytest.raises(ConfigError, match="notes: 'whloe' is not among the arms"):
        read_arms(tmp_path / "arms.yaml")
