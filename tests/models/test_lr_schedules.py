"""Every learning-rate schedule warms up, in the loop of adapters and in that of baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from erc_llm.baselines.baseline_config import BaselineTraining
from erc_llm.baselines.build import build
from erc_llm.baselines.loop import Fitting
from erc_llm.baselines.training import loop_settings
from erc_llm.config import TrainingConfig
from erc_llm.models.lr_schedules import LrSchedule
from erc_llm.runs.logs import read_lines
from erc_llm.runs.progress import SILENT
from tests.baselines.small import baseline_config, small_corpus, writer_of
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus

PEAK = 1e-3


def _adapter_rates(model: TinyModel, folder: Path, schedule: str) -> list[float]:
    from rich.console import Console

    from erc_llm.recipes.train import train

    training = {"learning_rate": PEAK, "schedule": schedule, "warmup": 0.5, "evaluations": 0}
    config = tiny_config(model, write_corpus(folder / "corpus"), folder, training=training)
    run = train(config, console=Console(quiet=True))
    return [record["learning_rate"] for record in read_lines(run.folder / "training.jsonl")]


def _baseline_rates(model: TinyModel, folder: Path, schedule: str) -> list[float]:
    training: Any = {"learning_rate": PEAK, "schedule": schedule, "warmup": 0.5}
    config, corpus = baseline_config(model, folder, kind="encoder", training=training), small_corpus()
    examples = writer_of(config, model, corpus).examples(corpus.split("train"))
    fitting = Fitting(build(config, 7), examples, examples, loop_settings(config, (1.0,) * 7), folder, SILENT)
    rates = []
    for _ in range(fitting.total):
        rates.append(fitting.optimizer.param_groups[0]["lr"])
        fitting.optimizer.step()
        fitting.scheduler.step()
    return rates


@pytest.mark.parametrize("schedule", get_args(LrSchedule))
def test_every_schedule_warms_up_in_both_loops(
    schedule: str, tiny_llama: TinyModel, tiny_bert: TinyModel, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    for rates in (_adapter_rates(tiny_llama, tmp_path, schedule), _baseline_rates(tiny_bert, tmp_path, schedule)):
        assert len(rates) >= 5
        assert rates[0] == pytest.approx(0, abs=PEAK / 100)
        top = max(range(len(rates)), key=rates.__getitem__)
        assert 0.4 * len(rates) <= top <= 0.6 * len(rates) + 1, "half of the steps warm up"
        assert rates[: top + 1] == sorted(rates[: top + 1])
        assert rates[top] == pytest.approx(PEAK)
        after = rates[top:]
        if schedule == "constant":
            assert after == pytest.approx([PEAK] * len(after))
        else:
            assert after == sorted(after, reverse=True)
            assert after[-1] < PEAK


@pytest.mark.parametrize("section", [TrainingConfig, BaselineTraining])
def test_the_configurations_take_these_schedules(section: type[TrainingConfig] | type[BaselineTraining]) -> None:
    assert set(get_args(section.model_fields["schedule"].annotation)) == set(get_args(LrSchedule))
