"""Settings that add noise to training: off by default, unknown to earlier hashes, and refused where they do nothing."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from erc_llm.config import RunConfig
from erc_llm.tuning.trainer import FitSettings

CLOSED: dict[str, Any] = {"objective": "closed_set"}
OFF = {"neftune": 0, "label_smoothing": 0, "smoothing_toward": "uniform", "average_last": 0, "r_drop": 0}


def _config(training: dict[str, Any], dropout: float = 0.0) -> RunConfig:
    return RunConfig.model_validate({"training": training, "lora": {"dropout": dropout}})


def test_they_are_off_and_earlier_hashes_stay() -> None:
    base = RunConfig()
    assert {name: getattr(base.training, name) for name in OFF} == OFF
    assert not OFF.keys() & base.result_fields()["training"].keys()
    assert _config(OFF).sha256 == base.sha256
    for name in ("neftune", "average_last", "r_drop"):
        assert FitSettings.__dataclass_fields__[name].default == 0
    assert FitSettings.__dataclass_fields__["smoothed"].default is None


@pytest.mark.parametrize("training", [
    {"neftune": 5},
    {"average_last": 0.25},
    CLOSED | {"label_smoothing": 0.1},
    CLOSED | {"label_smoothing": 0.1, "smoothing_toward": "shares"},
    CLOSED | {"label_smoothing": 0.1, "smoothing_toward": "confusions"},
    CLOSED | {"r_drop": 0.5},
], ids=str)  # fmt: skip
def test_each_is_part_of_the_recipe(training: dict[str, Any]) -> None:
    plain = {name: value for name, value in training.items() if name not in OFF}
    with_it, without = _config(training, 0.1), _config(plain, 0.1)
    assert with_it.sha256 != without.sha256
    assert RunConfig.model_validate(with_it.model_dump()).sha256 == with_it.sha256


@pytest.mark.parametrize(("training", "message"), [
    ({"label_smoothing": 0.1}, "label_smoothing=0.1 needs the distribution over all labels; set objective=closed_set"),
    ({"r_drop": 0.5}, "r_drop=0.5 needs the distribution over all labels; set objective=closed_set"),
    (CLOSED | {"r_drop": 0.5}, r"training\.r_drop=0\.5 compares .* lora\.dropout is 0; set lora\.dropout=0\.1"),
    (CLOSED | {"smoothing_toward": "shares"}, "smoothing_toward=shares is about label_smoothing, which is 0"),
    ({"neftune": -1}, "neftune"),
    (CLOSED | {"label_smoothing": 1}, "label_smoothing"),
    ({"average_last": 1}, "average_last"),
    (CLOSED | {"r_drop": -0.1}, "r_drop"),
    (CLOSED | {"label_smoothing": 0.1, "smoothing_toward": "neighbours"}, "smoothing_toward"),
], ids=str)  # fmt: skip
def test_what_does_nothing_or_cannot_be_is_refused(training: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        _config(training)
    assert caught.value.error_count() == 1


def test_what_reads_the_confusion_table_is_named() -> None:
    smoothing = CLOSED | {"label_smoothing": 0.1, "smoothing_toward": "confusions"}
    assert RunConfig().confusion_reader is None
    assert _config(smoothing).confusion_reader == "training.smoothing_toward=confusions"
    both = RunConfig.model_validate({"training": smoothing, "state": {"source": "predicted"}})
    assert both.confusion_reader == "state.source=predicted"
