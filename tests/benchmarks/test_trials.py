"""The table of trials: of adapters and of baselines."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.trials import main, row
from tests.baselines.small import baseline_config, trained
from tests.tiny_models import TinyModel

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("trials", "page"), [("trials", "results.md"), ("baselines/trials", "baselines.md")])
def test_the_kept_trials_make_the_table_of_the_documentation(
    trials: str, page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(DOCS / "results" / trials)])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    found = (DOCS / page).read_text("utf-8")
    assert len(rows) > 6
    assert all(line in found for line in rows)


def test_a_baseline_is_told_against_the_packaged_one(tiny_bert: TinyModel, tmp_path: Path) -> None:
    config = baseline_config(tiny_bert, tmp_path, kind="encoder", training={"epochs": 1, "learning_rate": 3e-5})
    cells = row(trained(config).folder).split(" | ")
    assert "kind=encoder" in cells[1]
    assert "training.learning_rate=3e-05" in cells[1]
    assert cells[2] == "all scenes, 1 epochs"
