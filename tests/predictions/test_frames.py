"""The predictions table as a DataFrame, and back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from erc_llm.errors import PredictionsError
from erc_llm.predictions import Predictions
from tests.evaluation import compared_tables
from tests.predictions.small_tables import FIRST, INFO, SECOND, answers


def tables() -> list[Predictions]:
    """A table with most columns, one with gaps in them, and one with the required columns only."""
    scored = answers(FIRST, SECOND, probabilities=[0.2, 0.5, 0.3], log_likelihoods=[-3, -2, -np.inf], label_mass=0.4)
    gaps = [replace(a, probabilities=None, label_mass=None) if i == 1 else a for i, a in enumerate(scored)]
    whole = Predictions.from_corpus(INFO, [FIRST, SECOND], scored, history=[FIRST, SECOND])
    bare = {name: values for name, values in whole.columns().items() if name.endswith("_id") or name == "predicted"}
    return [
        compared_tables.table(),
        whole,
        Predictions.from_corpus(INFO, [FIRST, SECOND], gaps),
        Predictions.from_columns(INFO, bare),
    ]


@pytest.mark.parametrize("number", range(4))
def test_the_way_back_gives_an_equal_table(number: int) -> None:
    table = tables()[number]
    again = Predictions.from_pandas(table.to_pandas(), table.info)
    assert again.info == table.info
    assert again.columns() == table.columns()
    assert again.missing == table.missing


def test_a_distribution_is_one_column_per_label() -> None:
    table = compared_tables.table()
    assert table.probabilities is not None
    frame = table.to_pandas()
    for k, label in enumerate(table.info.labels):
        assert frame[f"probability of {label}"].tolist() == table.probabilities[:, k].tolist()
    right = (frame["gold"] == frame["predicted"]).groupby(frame["episode"]).mean()
    assert len(right) == 10


def test_rows_can_be_chosen_in_pandas() -> None:
    table = compared_tables.table()
    frame = table.to_pandas()
    sad = Predictions.from_pandas(frame[frame["gold"] == "Sad"], table.info)
    assert set(sad.gold or ()) == {"Sad"}
    assert 0 < len(sad) < len(table)


def test_a_frame_that_lacks_a_label_is_refused() -> None:
    table = compared_tables.table()
    frame = table.to_pandas().drop(columns="probability of Sad")
    with pytest.raises(PredictionsError, match="no column 'probability of Sad'"):
        Predictions.from_pandas(frame, table.info)
    with pytest.raises(PredictionsError, match="no column predicted"):
        Predictions.from_pandas(table.to_pandas().drop(columns="predicted"), table.info)
