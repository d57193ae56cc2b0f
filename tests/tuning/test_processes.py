"""Several processes, as on several GPUs but with gloo: `accelerate launch` with each of the shipped files."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from erc_llm.config import RunConfig
from erc_llm.recipes.train import train
from erc_llm.runs.logs import read_lines
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus

# In fp32 sums over other numbers of forests and processes differ in the order of additions only.
LOSS_TOLERANCE = 2e-4

LAUNCHED = """
import sys
from erc_llm.cli import main
sys.argv = ["erc-llm", "train", *sys.argv[1:]]
main()
"""

# The processes see other scores: the first one's fall, the second one's rise. Each writes where it stopped.
DISAGREEING = (
    """
import json, os
import erc_llm.tuning.selection
from erc_llm.tuning.trainer import TreeTrainer

rank, scored, original = os.environ["RANK"], [], TreeTrainer.train

def score_metrics(*_, **__):
    scored.append(1)
    return {"weighted_f1": 1 / (1 + len(scored)) if rank == "0" else 0.1 * len(scored)}

def train(self, **options):
    original(self, **options)
    with open(f"stopped-{rank}.json", "w") as file:
        json.dump([self.state.global_step, len(scored)], file)

erc_llm.tuning.selection.score_metrics, TreeTrainer.train = score_metrics, train
"""
    + LAUNCHED
)

# Each process writes the scenes that it scores, and the second one dies in its third step if `die` is an argument.
WATCHED = (
    """
import json, os, signal, sys
import erc_llm.models.loading as loading
import erc_llm.tuning.selection as selection
from erc_llm.tuning.trainer import TreeTrainer

rank, scored, forwards, loss, score = os.environ["RANK"], [], [], TreeTrainer.compute_loss, selection.score_scenes
dies = rank == "1" and "die" in sys.argv
sys.argv = [argument for argument in sys.argv if argument != "die"]

hashes = loading.weights_sha256

def weights_sha256(folder):
    open(f"hashed-{rank}", "w").close()
    return hashes(folder)

loading.weights_sha256 = weights_sha256

def score_scenes(model, prompter, dialogues, *rest, **options):
    scored.append([dialogue.id for dialogue in dialogues])
    with open(f"scored-{rank}.json", "w") as file:
        json.dump(scored, file)
    return score(model, prompter, dialogues, *rest, **options)

def compute_loss(*arguments, **options):
    forwards.append(1)
    if dies and len(forwards) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return loss(*arguments, **options)

selection.score_scenes, TreeTrainer.compute_loss = score_scenes, compute_loss
"""
    + LAUNCHED
)


ROOT = Path(__file__).parents[2]
TOP_LEVEL = [["--config_file", "accelerate_config.yaml", "--multi_gpu", "--num_processes", "2"]]
ONE_NODE = [["--config_file", "configs/launch/one-node.yaml", "--num_processes", "2"]]


def _two_nodes() -> list[list[str]]:
    """The arguments of two machines, which are this one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = ["--main_process_ip", "127.0.0.1", "--main_process_port", str(free.getsockname()[1])]
    shared = ["--config_file", "configs/launch/two-nodes.yaml", "--num_processes", "2", *place]
    return [[*shared, "--machine_rank", str(rank)] for rank in (0, 1)]


def _launch(
    script: str, config: RunConfig, folder: Path, *arguments: str, machines: list[list[str]] = ONE_NODE
) -> subprocess.CompletedProcess[str]:
    """What the first machine's launcher printed, and its exit code, or the first that is not 0."""
    (folder / "run.yaml").write_text(config.as_yaml(), encoding="utf-8")
    (folder / "launched.py").write_text(script, encoding="utf-8")
    launched = [str(folder / "launched.py"), str(folder / "run.yaml"), *arguments]
    commands = [
        [sys.executable, "-m", "accelerate.commands.launch", option, str(ROOT / file), *options, *launched]
        for option, file, *options in machines
    ]
    launchers = [
        subprocess.Popen(
            command,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    printed = [launcher.communicate(timeout=300) for launcher in launchers]
    code = next((launcher.returncode for launcher in launchers if launcher.returncode), 0)
    return subprocess.CompletedProcess(commands[0], code, printed[0][0], "".join(errors for _, errors in printed))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampling", "objective", "machines"),
    [
        ({}, "label", lambda: ONE_NODE),
        ({}, "label", _two_nodes),
        ({"scheme": "square_root", "allow_absent": True}, "label", lambda: TOP_LEVEL),
        ({"scheme": "square_root", "allow_absent": True}, "closed_set", lambda: ONE_NODE),
        ({}, "closed_set, with noise", lambda: ONE_NODE),
    ],
    ids=["all", "two machines", "drawn", "drawn, closed set", "noise"],
)
def test_two_processes_train_the_same_adapter_as_one(
    sampling: dict[str, Any],
    objective: str,
    machines: Callable[[], list[list[str]]],
    tiny_llama: TinyModel,
    tmp_path: Path,
) -> None:
    """The noise is two passes with a dropout that drops nothing, smoothed labels, and the mean of the last steps."""
    corpus = write_corpus(tmp_path / "corpus", train=12)
    tokens = 900 if objective == "label" else 1400  # no step of one scene, which two processes could not split
    training = {"tokens_per_step": tokens, "evaluations": 1, "objective": objective.partition(",")[0]}
    changes: dict[str, Any] = {"training": training, "sampling": sampling}
    if "noise" in objective:
        training |= {"r_drop": 0.5, "label_smoothing": 0.1, "average_last": 0.7}
        changes["lora"] = {"dropout": 1e-9}
    alone = train(tiny_config(tiny_llama, corpus, tmp_path / "alone", **changes), console=Console(quiet=True))
    config = tiny_config(tiny_llama, corpus, tmp_path / "two", **changes)
    done = _launch(LAUNCHED, config, tmp_path, machines=machines())
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (
        load_file(folder / "adapter_model.safetensors") for folder in (alone.adapter, tmp_path / "two/tiny/adapter")
    )
    for name, weight in one.items():
        assert torch.allclose(two[name], weight, atol=1e-5), name
    curves = [_losses(folder) for folder in (alone.folder, tmp_path / "two/tiny")]
    assert len(curves[0]) >= 2
    assert curves[1] == pytest.approx(curves[0], abs=LOSS_TOLERANCE)
    [alone_score], [score] = (read_lines(f / "selection.jsonl") for f in (alone.folder, tmp_path / "two/tiny"))
    assert score["weighted_f1"] == alone_score["weighted_f1"]
    assert score["nll"] == pytest.approx(alone_score["nll"], abs=LOSS_TOLERANCE)


@pytest.mark.slow
def test_a_run_goes_on_as_if_one_of_its_processes_had_not_been_killed(tiny_llama: TinyModel, tmp_path: Path) -> None:
    """By the same losses and the same adapter; each process scored a share of the selection split."""
    corpus = write_corpus(tmp_path / "corpus", train=12)
    training = {"tokens_per_step": 900, "epochs": 2, "evaluations": 1, "checkpoint_minutes": 0}
    runs = {}
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        config = tiny_config(tiny_llama, corpus, tmp_path / name, training=training)
        if name == "killed":
            assert _launch(WATCHED, config, tmp_path / name, "die").returncode != 0
            assert 0 < len(_losses(tmp_path / name / "tiny")) < 4
        done = _launch(WATCHED, config, tmp_path / name, *(["--resume"] if name == "killed" else []))
        assert done.returncode == 0, done.stderr[-3000:]
        runs[name] = tmp_path / name / "tiny"
    assert "continues after step 2" in done.stdout
    whole, killed = (_losses(folder) for folder in runs.values())
    assert len(whole) >= 4
    assert killed == pytest.approx(whole, abs=1e-6)
    adapters = [load_file(folder / "adapter/adapter_model.safetensors") for folder in runs.values()]
    assert all(torch.allclose(adapters[1][name], weight, atol=1e-6) for name, weight in adapters[0].items())
    scored = [json.loads((tmp_path / "whole" / f"scored-{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]
    assert [path.name for path in (tmp_path / "whole").glob("hashed-*")] == ["hashed-0"]
    [first], [second] = scored
    assert first
    assert second
    assert not set(first) & set(second)
    assert abs(len(first) - len(second)) <= 1


def _losses(folder: Path) -> list[float]:
    return [record["loss"] for record in read_lines(folder / "training.jsonl")]


@pytest.mark.slow
def test_processes_that_see_other_scores_stop_at_the_same_step(tiny_llama: TinyModel, tmp_path: Path) -> None:
    """The main process's patience runs out at its second score, the other one's never would."""
    training = {"tokens_per_step": 900, "epochs": 3, "evaluations": 4, "patience": 1}
    config = tiny_config(tiny_llama, write_corpus(tmp_path / "corpus", train=12), tmp_path, training=training)
    done = _launch(DISAGREEING, config, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    stopped = [json.loads((tmp_path / f"stopped-{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]
    assert stopped[0] == stopped[1]
    records = read_lines(tmp_path / "tiny" / "selection.jsonl")
    assert [(record["weighted_f1"], record["best"]) for record in records] == [(1 / 2, True), (1 / 3, False)]
    assert stopped[0] == [records[-1]["step"], 2]
    assert done.stdout.count("training scenes, ") == done.stdout.count("run: ") == 1, "one process prints"
