"""The launch files: launchers read them, and the commands in them start the processes that they promise.

Training through the files for `accelerate` is in tests/tuning/test_processes.py.

Input: configs/launch, and stand-ins for the commands of Slurm. Output: none.
Does not depend on: Slurm, SkyPilot, GPUs.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from erc_llm.config_files import find_config
from erc_llm.errors import ConfigError
from erc_llm.resources import configs_dir

LAUNCH = configs_dir() / "launch"
SLURM = LAUNCH / "slurm.sh"

# Runs what a task runs, as on the second node. It can take longer, so that a signal meets it.
SRUN = """#!/bin/bash
while [ "$1" != bash ]; do echo "srun $1"; shift; done
SLURM_NODEID=1 "$@"
exec sleep "${SRUN_SLEEPS:-0}"
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then printf 'n7\\nn8\\n'; else echo "scontrol $*"; fi
"""
ACCELERATE = """#!/bin/bash
echo "OMP_NUM_THREADS=${OMP_NUM_THREADS:-}"
printf '%s\\n' "$@"
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment with stand-ins for `srun`, `scontrol` and `accelerate`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    python = f'#!/bin/bash\nexec "{sys.executable}" "$@"\n'
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "accelerate": ACCELERATE, "python": python}.items():
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o755)
    root = str(configs_dir().parent)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "OMP_"))}
    return kept | {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": root, "HOME": str(tmp_path)}


def allocation(nodes: int, gpus: int, cores: int) -> dict[str, str]:
    """What Slurm tells a batch script of its nodes."""
    given = {"SLURM_NNODES": nodes, "SLURM_CPUS_PER_TASK": cores, "SLURM_JOB_ID": 123456}
    with_gpus = {"SLURM_GPUS_ON_NODE": gpus} if gpus else {}
    return {name: str(value) for name, value in (given | with_gpus).items()} | {"SLURM_JOB_NODELIST": "n[7-8]"}


def options_of(lines: list[str]) -> dict[str, str]:
    """The options of `accelerate launch`, by name."""
    before = lines[: lines.index("--no_python")]
    return {name: value for name, value in itertools.pairwise(before) if name.startswith("--")}


@pytest.mark.parametrize(("name", "machines"), [("one-node", 1), ("two-nodes", 2)])
def test_accelerate_reads_its_files(name: str, machines: int) -> None:
    """The numbers that a command line gives are left out: accelerate's mark for that is -1."""
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(LAUNCH / f"{name}.yaml"))
    assert config.num_machines == machines
    assert config.num_processes == -1
    assert config.distributed_type == "MULTI_GPU"
    assert config.mixed_precision == "no"
    assert not config.fsdp_config
    assert not config.deepspeed_config


def test_launch_files_are_no_configurations_of_runs() -> None:
    with pytest.raises(ConfigError, match="no such configuration file") as error:
        find_config("one-node")
    assert "two-nodes" not in str(error.value)


def test_slurm_reads_the_options_of_the_script() -> None:
    """Each is an option of sbatch with a value that sbatch takes; they end before the first command."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("--job-name", "--nodes", "--ntasks-per-node", "--gpus-per-node", "--cpus-per-task", "--time"):
        parser.add_argument(name, required=True)
    parser.add_argument("--signal", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--open-mode", choices=["append", "truncate"], required=True)
    parser.add_argument("--requeue", action="store_true")
    lines = SLURM.read_text("utf-8").splitlines()
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    given = [line.removeprefix("#SBATCH ") for line in lines[:first_command] if line.startswith("#SBATCH")]
    assert not [line for line in lines[first_command:] if line.startswith("#SBATCH")]
    options = parser.parse_args(given)
    assert options.requeue
    assert options.open_mode == "append"
    assert re.fullmatch(r"\d+:\d\d:\d\d", options.time)
    assert re.fullmatch(r"B:USR1@\d+", options.signal)
    assert all(int(options.__dict__[name]) >= 1 for name in ("nodes", "ntasks_per_node", "gpus_per_node"))


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing_in_the_script() -> None:
    done = subprocess.run(["shellcheck", SLURM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("nodes", "gpus", "cores", "processes", "threads"), [(1, 1, 8, 1, 8), (2, 4, 8, 8, 2), (2, 0, 6, 2, 6)]
)
def test_each_node_launches_a_process_for_each_gpu(
    nodes: int, gpus: int, cores: int, processes: int, threads: int, environment: dict[str, str]
) -> None:
    """Without GPUs it is one process a node."""
    command = ["bash", str(SLURM), "smollm2-135m", "corpus.path=my talks"]
    printed = subprocess.check_output(command, env=environment | allocation(nodes, gpus, cores), text=True)
    lines = printed.splitlines()
    assert f"srun --cpus-per-task={cores}" in lines
    assert options_of(lines) == {
        "--machine_rank": "1",
        "--config_file": str(LAUNCH / "two-nodes.yaml"),
        "--num_machines": str(nodes),
        "--num_processes": str(processes),
        "--main_process_ip": "n7",
        "--main_process_port": "13456",
    }
    assert f"OMP_NUM_THREADS={threads}" in lines
    assert lines[lines.index("--no_python") + 1 :] == [
        "erc-llm",
        "train",
        "smollm2-135m",
        "corpus.path=my talks",
        "--resume",
    ]


def test_a_job_near_its_time_limit_is_queued_again(environment: dict[str, str]) -> None:
    given = environment | allocation(1, 1, 1) | {"SRUN_SLEEPS": "1"}
    with subprocess.Popen(["bash", str(SLURM), "sample"], env=given, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        printed = [job.stdout.readline() for _ in range(3)]  # srun has begun
        time.sleep(0.2)
        job.send_signal(signal.SIGUSR1)
        printed += job.stdout.readlines()
    assert "scontrol requeue 123456\n" in printed


def test_a_step_that_fails_fails_the_job(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bin" / "srun").write_text("#!/bin/bash\nexit 7\n", encoding="utf-8")
    given = environment | allocation(1, 1, 1)
    assert subprocess.run(["bash", str(SLURM), "sample"], env=given, check=False).returncode == 7


@pytest.mark.parametrize(("nodes", "gpus", "processes"), [(1, 0, 1), (2, 4, 8)])
def test_skypilot_launches_a_process_for_each_gpu(
    nodes: int, gpus: int, processes: int, environment: dict[str, str]
) -> None:
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text("utf-8"))
    activate = Path(environment["HOME"]) / "erc-llm" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.touch()
    given = {
        "SKYPILOT_NUM_NODES": str(nodes),
        "SKYPILOT_NUM_GPUS_PER_NODE": str(gpus),
        "SKYPILOT_NODE_RANK": "1",
        "SKYPILOT_NODE_IPS": "10.0.0.7\n10.0.0.8",
        **task["envs"],
        "OVERRIDES": "name=talks training.epochs=5",
    }
    printed = subprocess.check_output(["bash", "-euc", task["run"]], env=environment | given, text=True)
    lines = printed.splitlines()
    assert options_of(lines) == {
        "--config_file": "configs/launch/two-nodes.yaml",
        "--num_machines": str(nodes),
        "--num_processes": str(processes),
        "--machine_rank": "1",
        "--main_process_ip": "10.0.0.7",
    }
    home = environment["HOME"]
    assert lines[lines.index("--no_python") + 1 :] == [
        *("erc-llm", "train", "llama2-7b-qlora", f"corpus.path={home}/corpus", f"output={home}/runs"),
        *("name=talks", "training.epochs=5", "--resume"),
    ]
