"""Killed trainings go on to the very adapter of an uninterrupted one, wherever the kill falls."""

from __future__ import annotations

import json
import random
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file
from transformers import TrainerControl, TrainerState

from erc_llm.config import RunConfig
from erc_llm.errors import RunError
from erc_llm.recipes.train import train
from erc_llm.runs.directory import read_run
from erc_llm.runs.logs import read_lines
from erc_llm.runs.progress import SILENT
from erc_llm.tuning.callbacks import SelectionCallback
from erc_llm.tuning.checkpoints import check_shared, checkpoint_step, latest_checkpoint
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus
from tests.tuning.killed_runs import Kill, train_apart
from tests.tuning.logs import unseen_log

STEPS = 8  # at least; one more where no selection split is cut
DROPOUT = 0.1  # uses up random numbers, so that a wrong random state shows


@dataclass
class Workshop:
    """A corpus, a model, and the runs on them that nobody interrupts."""

    model: TinyModel
    corpus: Path
    folder: Path
    references: dict[str, Path] = field(default_factory=dict)

    def config(self, output: Path, dropout: float, evaluations: int, minutes: float = 0, **sections: Any) -> str:
        training = {"epochs": 1.5, "tokens_per_step": 400, "evaluations": evaluations, "checkpoint_minutes": minutes}
        sections["training"] = training | sections.get("training", {})
        return tiny_config(self.model, self.corpus, output, lora={"dropout": dropout}, **sections).as_yaml()

    def reference(self, dropout: float, evaluations: int) -> Path:
        """The run directory of an uninterrupted training without a checkpoint."""
        name = f"{dropout}-{evaluations}"
        if name not in self.references:
            assert train_apart(self.config(self.folder / name, dropout, evaluations, minutes=1e6)) == 0
            self.references[name] = self.folder / name / "tiny"
            assert len(read_lines(self.references[name] / "training.jsonl")) >= STEPS
        return self.references[name]


@pytest.fixture(scope="module")
def workshop(tiny_llama: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("resume")
    return Workshop(tiny_llama, write_corpus(folder / "corpus", train=12), folder / "references")


def _compare(run: Path, reference: Path) -> None:
    assert read_run(run).manifest.status == "finished"
    name = "adapter/adapter_model.safetensors"
    assert (run / name).read_bytes() == (reference / name).read_bytes()
    for log, ignored in (("training.jsonl", {"tokens_per_second", "loss"}), ("selection.jsonl", {"seconds"})):
        found, expected = (
            [{k: v for k, v in record.items() if k not in ignored} for record in read_lines(folder / log)]
            for folder in (run, reference)
        )
        assert found == expected, f"{log}: each step once, as in an uninterrupted run"
    assert {path.name for path in run.iterdir() if path.name[0] != "."} == {path.name for path in reference.iterdir()}


def _checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))


KILLS = [
    Kill("forward", 1),  # before the first checkpoint: starts anew
    Kill("optimizer step", 3),
    Kill("half state", 4),
]
MORE_KILLS = [Kill("forward", 4), Kill("half optimizer.pt", 3), Kill("half adapter", 3), Kill("half state", 1)]


@pytest.mark.parametrize(
    "kill",
    [*KILLS, *(pytest.param(kill, marks=pytest.mark.slow) for kill in MORE_KILLS)],
    ids=lambda kill: f"{kill.what} {kill.number}",
)
def test_a_killed_training_goes_on_to_the_same_adapter(kill: Kill, workshop: Workshop, tmp_path: Path) -> None:
    config = workshop.config(tmp_path, DROPOUT, evaluations=0)
    assert train_apart(config, kill=kill) == -signal.SIGKILL
    run = tmp_path / "tiny"
    if kill.what.startswith("half"):
        assert checkpoint_step(_checkpoints(run)[-1]) is None, "the kill left a checkpoint that looks complete"
    assert train_apart(config, resume=True) == 0
    _compare(run, workshop.reference(DROPOUT, 0))


@pytest.mark.slow
def test_a_killed_training_on_drawn_targets_and_all_labels_goes_on_to_the_same_adapter(
    workshop: Workshop, tmp_path: Path
) -> None:
    drawn = {"scheme": "square_root", "allow_absent": True}
    changes: dict[str, Any] = {"sampling": drawn, "training": {"objective": "closed_set", "tokens_per_step": 900}}
    whole = workshop.config(tmp_path / "whole", DROPOUT, 0, minutes=1e6, **changes)
    config = workshop.config(tmp_path / "killed", DROPOUT, 0, **changes)
    assert train_apart(whole) == 0
    assert train_apart(config, kill=Kill("forward", 4)) == -signal.SIGKILL
    assert train_apart(config, resume=True) == 0
    _compare(tmp_path / "killed" / "tiny", tmp_path / "whole" / "tiny")


@pytest.mark.slow
@pytest.mark.parametrize("number", random.Random(5).sample(range(4, 100), 5))
def test_a_kill_at_any_file_operation(number: int, workshop: Workshop, tmp_path: Path) -> None:
    """With selection scores: logs, best adapter and checkpoints are written and old checkpoints removed in turn."""
    config = workshop.config(tmp_path, DROPOUT, evaluations=3)
    assert train_apart(config, kill=Kill("file operation", number)) == -signal.SIGKILL
    assert train_apart(config, resume=True) == 0
    _compare(tmp_path / "tiny", workshop.reference(DROPOUT, 3))


@pytest.mark.slow
def test_kills_at_random_moments_one_after_the_other(workshop: Workshop, tmp_path: Path) -> None:
    config = workshop.config(tmp_path, 0.0, evaluations=0)
    draw = random.Random(11)
    run, codes = tmp_path / "tiny", []
    while not (run / "manifest.json").exists():
        codes.append(train_apart(config, after=draw.uniform(0.5, 2.0)))
        if not (run / "manifest.json").exists() and run.exists():
            shutil.rmtree(run)  # killed before it became a run
    for _ in range(3):
        codes.append(train_apart(config, resume=True, after=draw.uniform(0.5, 2.0)))
    assert set(codes) <= {0, -signal.SIGKILL}
    assert train_apart(config, resume=True) == 0
    _compare(run, workshop.reference(0.0, 0))


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_report_gets_it(workshop: Workshop, tmp_path: Path) -> None:
    config = workshop.config(tmp_path, 0.0, evaluations=0)
    assert train_apart(config) == 0
    run = tmp_path / "tiny"
    (run / "report.html").unlink()
    (run / "checkpoints").mkdir()
    assert train_apart(config, resume=True) == 0
    _compare(run, workshop.reference(0.0, 0))


def test_a_kill_while_the_best_adapter_is_saved_leaves_no_litter(workshop: Workshop, tmp_path: Path) -> None:
    config = workshop.config(tmp_path, DROPOUT, evaluations=3, minutes=1e6)
    assert train_apart(config, kill=Kill("half adapter", 1)) == -signal.SIGKILL
    assert train_apart(config, resume=True) == 0
    _compare(tmp_path / "tiny", workshop.reference(DROPOUT, 3))
    assert [path.name for path in (tmp_path / "tiny").iterdir() if path.name[0] == "."] == []


@pytest.mark.parametrize("number", [3, pytest.param(5, marks=pytest.mark.slow)])
def test_a_kill_while_the_run_directory_is_begun(number: int, workshop: Workshop, tmp_path: Path) -> None:
    """Before config.yaml has its name, and before manifest.json has."""
    config = workshop.config(tmp_path, DROPOUT, evaluations=0)
    assert train_apart(config, kill=Kill("file operation", number)) == -signal.SIGKILL
    assert (tmp_path / "tiny").is_dir()
    assert train_apart(config, resume=True) == 0
    _compare(tmp_path / "tiny", workshop.reference(DROPOUT, 0))


@pytest.mark.parametrize(
    "knobs",
    [{"accumulation": 2}, pytest.param({"gradient_checkpointing": True}, marks=pytest.mark.slow)],
    ids=lambda k: next(iter(k)),
)
def test_a_killed_training_run_goes_on_with_less_memory_to_the_same_adapter(
    knobs: dict[str, Any], workshop: Workshop, tmp_path: Path
) -> None:
    """To within the rounding of another order of sums, each step once, where steps have several scenes."""
    wide = {"tokens_per_step": 800, "epochs": 3}
    assert train_apart(workshop.config(tmp_path / "whole", 0.0, 0, minutes=1e6, training=wide)) == 0
    assert train_apart(workshop.config(tmp_path, 0.0, 0, training=wide), kill=Kill("forward", 5)) == -signal.SIGKILL
    run, reference = tmp_path / "tiny", tmp_path / "whole" / "tiny"
    assert [checkpoint_step(path) for path in _checkpoints(run)] == [3, 4]
    assert train_apart(workshop.config(tmp_path, 0.0, 0, training=wide | knobs), resume=True) == 0
    found, expected = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (run, reference))
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, rtol=0, atol=2e-5), name
    steps, wanted = (read_lines(folder / "training.jsonl") for folder in (run, reference))
    assert [line["step"] for line in steps] == [line["step"] for line in wanted]
    assert [line["grad_norm"] for line in steps] == pytest.approx([line["grad_norm"] for line in wanted], rel=1e-3)


def test_an_accumulation_that_would_change_the_steps_is_refused(workshop: Workshop, tmp_path: Path) -> None:
    """Steps of two scenes cannot be split into four forests, and a checkpoint's steps stand for their scenes."""
    assert train_apart(workshop.config(tmp_path, 0.0, evaluations=0), kill=Kill("forward", 5)) == -signal.SIGKILL
    run = tmp_path / "tiny"
    many = workshop.config(tmp_path, 0.0, evaluations=0, training={"accumulation": 4})
    config = RunConfig.model_validate(yaml.safe_load(many))
    with pytest.raises(RunError, match=r"cannot resume with 4 forests per step .*; resume with 1 "):
        train(config, resume=True, console=Console(quiet=True))
    assert train_apart(workshop.config(tmp_path, 0.0, evaluations=0), resume=True) == 0
    _compare(run, workshop.reference(0.0, 0))


@pytest.mark.slow
def test_without_a_checkpoint_any_accumulation_will_do(workshop: Workshop, tmp_path: Path) -> None:
    assert train_apart(workshop.config(tmp_path, 0.0, evaluations=0), kill=Kill("forward", 1)) == -signal.SIGKILL
    assert latest_checkpoint(tmp_path / "tiny") is None
    many = workshop.config(tmp_path, 0.0, evaluations=0, training={"accumulation": 4})
    assert train_apart(many, resume=True, kill=Kill("forward", 10)) == -signal.SIGKILL
    assert train_apart(many, resume=True) == 0


def test_dropout_makes_the_comparison_sharp(workshop: Workshop) -> None:
    name = "adapter/adapter_model.safetensors"
    one, other = (workshop.reference(dropout, 0) / name for dropout in (0.0, DROPOUT))
    assert one.read_bytes() != other.read_bytes()


@pytest.fixture(scope="module")
def checkpoints(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory killed in its fifth step, with two whole checkpoints."""
    output = tmp_path_factory.mktemp("killed")
    assert train_apart(workshop.config(output, DROPOUT, evaluations=0), kill=Kill("forward", 5)) == -signal.SIGKILL
    run = output / "tiny"
    assert [checkpoint_step(path) for path in _checkpoints(run)] == [3, 4]
    return run


NEEDED = ("adapter_model.safetensors", "adapter_config.json", "optimizer.pt", "scheduler.pt", "trainer_state.json")


@pytest.mark.parametrize("name", NEEDED)
def test_a_checkpoint_without_one_of_its_files_is_passed_over(name: str, checkpoints: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(checkpoints, tmp_path / "tiny"))
    (run / "checkpoints" / "checkpoint-4" / name).unlink()
    found = latest_checkpoint(run)
    assert found is not None
    assert found.name == "checkpoint-3"
    assert [path.name for path in _checkpoints(run)] == ["checkpoint-3"]


def test_a_checkpoint_without_its_random_state_is_passed_over(checkpoints: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(checkpoints, tmp_path / "tiny"))
    (run / "checkpoints" / "checkpoint-4" / "rng_state.pth").unlink()
    found = latest_checkpoint(run)
    assert found is not None
    assert found.name == "checkpoint-3"


@pytest.mark.parametrize("text", ["", '{"global_step": 4', "null", "{}", "[4]"])
def test_a_state_that_is_cut_or_empty_marks_an_incomplete_checkpoint(
    text: str, checkpoints: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(checkpoints, tmp_path / "tiny"))
    (run / "checkpoints" / "checkpoint-4" / "trainer_state.json").write_text(text, encoding="utf-8")
    found = latest_checkpoint(run)
    assert found is not None
    assert found.name == "checkpoint-3"


def test_without_any_whole_checkpoint_the_training_starts_anew(
    checkpoints: Path, workshop: Workshop, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(checkpoints, tmp_path / "tiny"))
    for path in _checkpoints(run):
        state = path / "trainer_state.json"
        state.write_text(state.read_text(encoding="utf-8")[:-40], encoding="utf-8")
    assert train_apart(workshop.config(tmp_path, DROPOUT, 0), resume=True) == 0
    _compare(run, workshop.reference(DROPOUT, 0))


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None


def test_steps_are_compared_as_numbers(checkpoints: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(checkpoints, tmp_path / "tiny"))
    (run / "checkpoints" / "checkpoint-4").rename(run / "checkpoints" / "checkpoint-10")
    state = run / "checkpoints" / "checkpoint-10" / "trainer_state.json"
    content = json.loads(state.read_text(encoding="utf-8")) | {"global_step": 10}
    state.write_text(json.dumps(content), encoding="utf-8")
    found = latest_checkpoint(run)
    assert found is not None
    assert found.name == "checkpoint-10"


def test_patience_that_had_run_out_stops_a_resumed_training(tmp_path: Path) -> None:
    """The kill came after the last evaluation and its checkpoint; an uninterrupted run would have ended there."""
    records = [{"step": 1, "weighted_f1": 0.5}, {"step": 2, "weighted_f1": 0.4}]
    (tmp_path / "selection.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    steps, scored = frozenset({1, 2, 3}), []

    def evaluate(_: Any) -> dict[str, float]:
        scored.append(1)
        return {"weighted_f1": 0.6}

    callback = SelectionCallback(tmp_path, steps, evaluate, lambda _: None, 1, True, SILENT, unseen_log(tmp_path))
    state, control = TrainerState(global_step=2, max_steps=6), TrainerControl()
    callback.on_train_begin(None, state, control)  # type: ignore[arg-type]
    state.global_step = 3
    callback.on_step_end(None, state, control)  # type: ignore[arg-type]
    assert control.should_training_stop
    assert not scored


def test_processes_that_find_other_checkpoints_do_not_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on machines that do not share the run directory: all processes end, and none waits for another."""
    check_shared(tmp_path, tmp_path / "checkpoint-4")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("accelerate.utils.gather_object", lambda mine: [*mine, None])
    check_shared(tmp_path, None)
    with pytest.raises(RunError, match=r"process 0 checkpoint-4, process 1 none\); put the run directory on a file"):
        check_shared(tmp_path, tmp_path / "checkpoint-4")
