"""Columns of the predictions table: their kinds, and the conversion between plain values and checked final types.

Input: plain values of one column. Output: a tuple of texts or a read-only array; or plain values again.
Does not depend on: the table, files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from erc_llm.errors import PredictionsError

Texts = tuple[str, ...]
NullableTexts = tuple[str | None, ...]

KINDS: Mapping[str, str] = {
    "dialogue_id": "text",
    "utterance_id": "text",
    "position": "integer",
    "episode": "text",
    "scene_order": "integer",
    "speakers": "texts",
    "text": "text",
    "gold": "text",
    "previous_gold_same_speaker": "text",
    "history_length": "integer",
    "first_seen": "flag",
    "predicted": "text",
    "invalid": "flag",
    "raw_answer": "text",
    "log_likelihoods": "numbers",
    "probabilities": "numbers",
    "label_mass": "number",
    "neighbours": "numbers",
}
NULLABLE = ("episode", "gold", "previous_gold_same_speaker", "predicted", "raw_answer")  # text that may be null


def column(name: str, values: Sequence[Any], n_labels: int) -> Any:
    """Check plain values of one column and convert them to their final type.

    An array that has the final type already is used without conversion, which is fast for files with a million rows.

    Raises:
        PredictionsError: A value breaks the rules of its column; the message names column and row.
    """
    kind = KINDS[name]
    if isinstance(values, np.ndarray):
        if (kind, values.dtype, values.shape[1:]) in (("integer", np.int64, ()), ("numbers", np.float64, (n_labels,))):
            return _sealed(values)
        values = values.tolist()
    if kind == "text" and _are_texts(values, name in NULLABLE):
        return tuple(values)
    convert: Callable[[Any], Any] = {
        "text": _as_text,
        "texts": _as_texts,
        "integer": _as_integer,
        "flag": _as_flag,
        "number": _as_number,
        "numbers": lambda v: _as_numbers(v, n_labels),
    }[kind]
    null = {"number": np.nan, "numbers": [np.nan] * n_labels}.get(kind)
    converted = []
    for i, value in enumerate(values):
        if value is None and (null is not None or name in NULLABLE):
            converted.append(null)
            continue
        try:
            converted.append(convert(value))
        except (TypeError, ValueError, OverflowError) as error:
            raise PredictionsError(f"column '{name}', row {i + 1}: {error}") from None
    if kind in ("text", "texts"):
        return tuple(converted)
    dtype: type = {"integer": np.int64, "flag": np.bool_}.get(kind, np.float64)
    shape = (-1, n_labels) if kind == "numbers" else (-1,)
    return _sealed(np.array(converted, dtype=dtype).reshape(shape))


def _sealed(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array


def _are_texts(values: Sequence[Any], nullable: bool) -> bool:
    """Whether all values are valid texts; fast, because it does not determine which row is not."""
    if not {str, type(None)}.issuperset(map(type, values)) or (not nullable and None in values):
        return False
    try:
        "".join(filter(None, values)).encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected text, found {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{value!r} is not valid Unicode") from None
    return value


def _as_texts(values: object) -> Texts:
    if not isinstance(values, list | tuple):
        raise ValueError(f"expected a list of texts, found {values!r}")
    return tuple(_as_text(value) for value in values)


def _as_integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not -(2**63) <= value < 2**63:
        raise ValueError(f"expected a whole number of 64 bits, found {value!r}")
    return int(value)


def _as_flag(value: object) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"expected true or false, found {value!r}")
    return bool(value)


def _as_number(value: object) -> float:
    number = float(value) if isinstance(value, int | float | np.integer | np.floating) else np.nan
    if isinstance(value, bool) or not number < np.inf:  # minus infinity is ln 0
        raise ValueError(f"expected a number, found {value!r}")
    return number


def _as_numbers(values: object, n_labels: int) -> list[float]:
    if not isinstance(values, Sequence | np.ndarray) or isinstance(values, str):
        raise ValueError(f"expected a list of {n_labels} numbers, found {values!r}")
    if len(values) != n_labels:
        raise ValueError(f"expected {n_labels} numbers, one per label, found {len(values)}")
    return [_as_number(value) for value in values]


def plain(kind: str, values: Any) -> list[Any]:
    """A column as JSON-compatible values, with None for null."""
    if kind == "number":
        return [None if np.isnan(v) else float(v) for v in values]
    if kind == "numbers":
        return [None if np.isnan(row).all() else row.tolist() for row in values]
    if kind == "texts":
        return [list(row) for row in values]
    if kind in ("integer", "flag"):
        return [value.item() for value in values]
    return list(values)
