"""Weight averaging: the adapter at the end is the mean of those of the last steps, also after a kill."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainerControl, TrainerState

from erc_llm.errors import RunError
from erc_llm.runs.logs import read_lines
from erc_llm.tuning.averaging import AVERAGE, AdapterAverage
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus
from tests.tuning.fits import fit_tiny, largest_difference
from tests.tuning.killed_runs import Kill, train_apart


@dataclass
class Recorder(TrainerCallback):
    """Keeps the adapter as the optimizer leaves it, and as the evaluation after the step finds it."""

    optimised: list[dict[str, torch.Tensor]] = field(default_factory=list)
    scored: list[dict[str, torch.Tensor]] = field(default_factory=list)

    def on_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
        self.optimised.append(_copied(model))

    def on_step_end(self, *_: Any, model: Any, **__: Any) -> None:
        self.scored.append(_copied(model))


def _copied(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in get_peft_model_state_dict(model).items()}


@pytest.mark.parametrize(("fraction", "steps"), [(0.01, 1), (0.5, 2), (0.67, 2), (0.99, 3)])
def test_the_adapter_is_the_mean_of_those_of_the_last_steps(
    fraction: float, steps: int, tiny_llama: TinyModel, tmp_path: Path
) -> None:
    """Of three; the steps themselves are those of a run without averaging, and so is what is scored before the end."""
    plain, averaged = Recorder(), Recorder()
    fit_tiny(tiny_llama, tmp_path / "plain", callbacks=[plain])
    fitted = fit_tiny(tiny_llama, tmp_path / "averaged", callbacks=[averaged], average_last=fraction)
    for one, other in zip(plain.optimised, averaged.optimised, strict=True):
        assert largest_difference(one, other) == 0
    for one, other in zip(plain.scored[:-1], averaged.scored[:-1], strict=True):
        assert largest_difference(one, other) == 0
    last = averaged.optimised[-steps:]
    for name, weight in fitted.adapter.items():
        assert torch.allclose(weight, torch.stack([adapter[name] for adapter in last]).mean(0), atol=1e-7), name
    assert largest_difference(averaged.scored[-1], fitted.adapter) == 0, "the last evaluation scores the mean"
    assert (largest_difference(plain.scored[-1], fitted.adapter) == 0) == (steps == 1)


@pytest.mark.parametrize(("evaluations", "forward"), [pytest.param(0, 8, marks=pytest.mark.slow), (2, 7)])
def test_a_killed_run_goes_on_to_the_same_mean(
    evaluations: int, forward: int, tiny_llama: TinyModel, tmp_path: Path
) -> None:
    """Killed among the averaged steps, with and without evaluations."""
    corpus = write_corpus(tmp_path / "corpus", train=12)
    training = {"epochs": 1.5, "tokens_per_step": 400, "evaluations": evaluations, "average_last": 0.5}

    def config(name: str, minutes: float) -> str:
        changes: dict[str, Any] = {"training": training | {"checkpoint_minutes": minutes}, "lora": {"dropout": 0.1}}
        return tiny_config(tiny_llama, corpus, tmp_path / name, **changes).as_yaml()

    assert train_apart(config("whole", 1e6)) == 0
    assert train_apart(config("killed", 0), kill=Kill("forward", forward)) == -signal.SIGKILL
    run = tmp_path / "killed" / "tiny"
    assert list((run / "checkpoints").glob(f"*/{AVERAGE}"))
    assert train_apart(config("killed", 0), resume=True) == 0
    whole = tmp_path / "whole" / "tiny"
    name = "adapter/adapter_model.safetensors"
    assert (run / name).read_bytes() == (whole / name).read_bytes()
    assert [path.name for path in run.rglob(AVERAGE)] == []
    scores = [[(r["step"], r["nll"]) for r in read_lines(folder / "selection.jsonl")] for folder in (run, whole)]
    assert scores[0] == scores[1]
    assert len(scores[0]) == evaluations


def _checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in ("adapter_model.safetensors", "adapter_config.json", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (path / name).write_text("", encoding="utf-8")
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}), encoding="utf-8")
    return path


def _step(average: AdapterAverage, model: torch.nn.Module, step: int) -> None:
    state = TrainerState(global_step=step, max_steps=4)
    average.on_step_end(None, state, TrainerControl(), model=model)  # type: ignore[arg-type]


def test_a_checkpoint_holds_trainable_weights_and_only_where_there_is_a_mean(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    model[0].requires_grad_(False)
    average = AdapterAverage(0.5, 4)
    _step(average, model, 2)
    average.save(_checkpoint(tmp_path, 2))
    assert not (tmp_path / "checkpoint-2" / AVERAGE).exists()
    _step(average, model, 3)
    average.save(_checkpoint(tmp_path, 3))
    assert set(load_file(tmp_path / "checkpoint-3" / AVERAGE)) == {"1.weight", "1.bias"}
    again = AdapterAverage(0.5, 4)
    again.restore(tmp_path / "checkpoint-2", model)
    again.restore(tmp_path / "checkpoint-3", model)
    before = model[1].weight.detach().clone()
    with torch.no_grad():
        model[1].weight += 1
    _step(again, model, 4)
    assert torch.allclose(model[1].weight, before + 0.5)


def test_a_mean_that_is_missing_damaged_or_of_another_adapter_is_named(tmp_path: Path) -> None:
    model, checkpoint = torch.nn.Linear(3, 2), _checkpoint(tmp_path, 3)
    average = AdapterAverage(0.5, 4)
    with pytest.raises(RunError, match=rf"{AVERAGE}: cannot be read: .*No such file.*--resume"):
        average.restore(checkpoint, model)
    (checkpoint / AVERAGE).write_bytes(b"half a file")
    with pytest.raises(RunError, match=rf"{AVERAGE}: cannot be read"):
        average.restore(checkpoint, model)
    other = AdapterAverage(0.5, 4)
    _step(other, torch.nn.Linear(3, 5), 3)
    other.save(checkpoint)
    with pytest.raises(RunError, match=rf"{AVERAGE}: is of another adapter"):
        average.restore(checkpoint, model)
