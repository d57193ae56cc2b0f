"""The predictions table as a pandas DataFrame, and back.

A column of distributions becomes one column per label: `probabilities` becomes `probability of Joyful` and so on, so
that a frame can be grouped and averaged. The way back gives an equal table.

Input: a `Predictions`, or a frame. Output: the other one. pandas is imported only here.
Does not depend on: files, models, metrics.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from erc_llm.errors import PredictionsError
from erc_llm.predictions.columns import KINDS
from erc_llm.predictions.info import PredictionsInfo

if TYPE_CHECKING:
    import pandas as pd

    from erc_llm.predictions.table import Predictions

_PER_LABEL = {
    "log_likelihoods": "log-likelihood of ",
    "probabilities": "probability of ",
    "neighbours": "neighbours labelled ",
}


def to_frame(table: Predictions) -> pd.DataFrame:
    """One row per target, without the metadata of the table."""
    import pandas as pd

    columns: dict[str, Any] = {}
    for name, values in table.columns().items():
        if name in _PER_LABEL:
            matrix = getattr(table, name)
            columns |= {f"{_PER_LABEL[name]}{label}": matrix[:, k] for k, label in enumerate(table.info.labels)}
        else:
            columns[name] = values
    return pd.DataFrame(columns)


def columns_of(frame: pd.DataFrame, info: PredictionsInfo) -> Mapping[str, Any]:
    """The columns of a frame as `Predictions.from_columns` takes them; unknown columns are left out.

    Raises:
        PredictionsError: Some labels have a column and others have none.
    """
    columns: dict[str, Any] = {}
    for name in KINDS:
        if name in frame.columns:
            columns[name] = [_plain(value) for value in frame[name].tolist()]
            continue
        per_label = [f"{_PER_LABEL[name]}{label}" for label in info.labels] if name in _PER_LABEL else []
        lacking = [each for each in per_label if each not in frame.columns]
        if lacking and len(lacking) < len(per_label):
            raise PredictionsError(f"the frame has no column '{lacking[0]}', but one for other labels")
        if per_label and not lacking:
            columns[name] = np.array(frame[per_label].to_numpy(dtype=np.float64))
    return columns


def _plain(value: Any) -> Any:
    """None for the NaN by which pandas marks a missing value."""
    return None if isinstance(value, float) and np.isnan(value) else value
