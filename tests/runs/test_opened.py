"""A run or a configuration, opened once."""

from __future__ import annotations

import pytest

from erc_llm.config import RunConfig
from erc_llm.errors import ConfigError, RunError
from erc_llm.runs.opened import open_run, override_for_prediction


def test_how_a_run_answers_and_where_its_model_is_may_be_changed_and_nothing_else() -> None:
    run = RunConfig.model_validate({"lora": {"rank": 4}})
    assert override_for_prediction(run, []) is run
    changed = override_for_prediction(run, ["scoring.decode=generate", "scoring.answer=reason_then_label"])
    assert (changed.scoring.decode, changed.scoring.answer, changed.lora.rank) == ("generate", "reason_then_label", 4)
    assert changed.sha256 != run.sha256
    moved = override_for_prediction(run, ["model.base=/elsewhere/llama", "model.device=cpu", "model.precision=fp32"])
    assert (moved.model.base, moved.model.device, moved.model.precision) == ("/elsewhere/llama", "cpu", "fp32")
    with pytest.raises(ConfigError, match=r"model\.quantisation=nf4.*cannot be overridden"):
        override_for_prediction(run, ["model.quantisation=nf4"])
    with pytest.raises(ConfigError, match=r"lora\.rank=8.*only scoring\.FIELD, model\.base"):
        override_for_prediction(run, ["scoring.decode=free", "lora.rank=8"])
    with pytest.raises(ConfigError, match=r"overrides: 1 mistake\n.*scoring\.decode.*'beam'"):
        override_for_prediction(run, ["scoring.decode=beam"])
    with pytest.raises(ConfigError, match=r"scoring\.decod: no such field; expected one of tokens_per_forest, decode"):
        override_for_prediction(run, ["scoring.decod=free"])


def test_a_configuration_is_opened_by_its_name() -> None:
    opened = open_run("smollm2-135m", ["scoring.label_orders=2"])
    assert (opened.run, opened.template, opened.config.scoring.label_orders) == (None, None, 2)
    assert open_run(opened, ["scoring.label_orders=3"]).config.scoring.label_orders == 3


def test_what_is_neither_run_nor_configuration_is_refused() -> None:
    with pytest.raises(RunError, match="no such run directory"):
        open_run("runs/nothing-here")
    with pytest.raises(ConfigError, match="no such configuration file"):
        open_run("nothing-here")
