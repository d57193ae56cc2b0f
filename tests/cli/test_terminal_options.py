"""What every command has on a terminal: `--quiet`, `--json` for machines, examples, groups, completion, colours."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer.main
from rich.console import Console

from erc_llm.baselines.baseline_config import BaselineConfig
from erc_llm.cli.app import COMMANDS, app
from erc_llm.cli.config_reference import field_names
from erc_llm.config import RunConfig, load_config
from erc_llm.models.wheels import BAR_DELAY
from erc_llm.predictions import write_predictions
from erc_llm.recipes.console import ConsoleProgress, silence_libraries
from tests.command_line import Command
from tests.evaluation.compared_tables import table

ROOT = Path(__file__).parents[2]
FIELDS = list(field_names(RunConfig))
EXAMPLES = {example.split()[1]: example for commands in COMMANDS.values() for _, example in commands}


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "one.parquet", tmp_path / "two.parquet"
    for path in paths:
        write_predictions(table(), path)
    return paths


def test_json_is_alone_on_standard_output(
    tables: tuple[Path, Path], corpus: Path, erc: Command, tmp_path: Path
) -> None:
    one, two = tables
    report = tmp_path / "report.html"
    evaluated = erc("evaluate", one, "--against", "all-neutral", "--draws", 100, "--json", "--report", report)
    compared = erc("compare", one, two, "--draws", 100, "--json", "--out", tmp_path / "out")
    described = erc("data", corpus, "--json")
    planned = erc("plan", "llama2-7b-qlora", "--gpu", "RTX 4090", "--json")
    for done in (evaluated, compared, described, planned):
        assert done.code == 0, done.err
    assert report.is_file()
    assert len(json.loads(evaluated.out)["differences"]) == 1
    assert json.loads(compared.out) == json.loads((tmp_path / "out" / "comparison.json").read_text("utf-8"))
    assert [split["name"] for split in json.loads(described.out)["splits"]] == ["train", "dev"]
    assert json.loads(planned.out)["fit"]["fits"]


def test_quiet_shows_the_result_alone(tables: tuple[Path, Path], erc: Command, tmp_path: Path) -> None:
    loud = erc("evaluate", tables[0], "--draws", 100, "--report", tmp_path / "report.html")
    silent = erc("evaluate", tables[0], "--draws", 100, "--report", tmp_path / "report.html", "--quiet")
    assert loud.out == silent.out + f"report: {tmp_path / 'report.html'}\n"
    assert "macro f1" in silent.out.lower()


def test_quiet_work_prints_nothing_and_still_fails_loudly(config: Path, erc: Command, tmp_path: Path) -> None:
    done = erc("train", config, "training.evaluations=1", "-q")
    assert (done.code, done.out, done.err) == (0, "", "")
    run = tmp_path / "runs" / "tiny"
    assert (run / "adapter").is_dir()
    done = erc("predict", run, "--out", tmp_path / "dev.parquet", "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert (tmp_path / "dev.parquet").is_file()
    again = erc("train", config, "training.evaluations=1", "--quiet")
    assert again.code == 2
    assert "--resume" in again.err
    loud = erc("predict", run, "--out", tmp_path / "dev.parquet")
    assert "predictions of dev" in loud.out


def test_a_warning_is_never_silent(capsys: pytest.CaptureFixture[str]) -> None:
    for is_quiet in (False, True):
        ConsoleProgress(Console(quiet=is_quiet)).line("the report was not written", warning=True)
        ConsoleProgress(Console(quiet=is_quiet)).line("written")
    shown = capsys.readouterr()
    assert shown.out.splitlines() == ["the report was not written", "written"]
    assert shown.err.splitlines() == ["the report was not written"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_of_a_command_is_one_of_its_calls(name: str, erc: Command) -> None:
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    program, first, *arguments = shlex.split(EXAMPLES[name])
    assert (program, first) == ("erc-llm", name)
    with command.make_context(name, arguments) as context:
        assert context.args == []
    shown = erc(name, "--help").out
    assert f"Example: {EXAMPLES[name]}" in shown
    assert ("--quiet" in shown) == (name != "demo")


def test_overrides_of_the_examples_are_fields() -> None:
    known = {*FIELDS, *field_names(BaselineConfig)}
    for example in EXAMPLES.values():
        for word in shlex.split(example):
            if "=" in word and ".parquet" not in word:
                assert word.partition("=")[0] in known, example


def test_every_command_is_in_a_group() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert set(commands) == set(EXAMPLES)
    assert all(command.rich_help_panel in COMMANDS for command in commands.values())


def _completed(*words: str) -> list[str]:
    environment = {
        "_ERC_LLM_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    code = "import sys; sys.argv = ['erc-llm']; from erc_llm.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | environment | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    return done.stdout.split()


def test_a_shell_completes_commands_configurations_and_fields() -> None:
    assert _completed("erc-llm", "cal") == ["calibrate"]
    assert _completed("erc-llm", "train", "llama2-7b-q")[0] == "llama2-7b-qlora"
    assert _completed("erc-llm", "train", "smollm2-135m", "lora.ra") == ["lora.rank="]
    assert _completed("erc-llm", "baseline", "emonet", "ki") == ["kind="]
    assert _completed("erc-llm", "data", "sa") == ["sample"]
    assert _completed("erc-llm", "train", "smollm2-135m", "name", "=", "tr") == [], "bash splits name=tr at the sign"
    assert _completed("erc-llm", "train", "smollm2-135m", "name=tr") == []


def test_every_completed_field_can_be_set() -> None:
    config = load_config("smollm2-135m")
    for field in FIELDS:
        value: object = config
        for part in field.split("."):
            value = None if value is None else getattr(value, part)
    assert len(FIELDS) > len(RunConfig.model_fields)


@pytest.mark.parametrize("colours", [True, False])
def test_colours_are_left_out_on_request(colours: bool, erc: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not colours:
        monkeypatch.setenv("NO_COLOR", "1")
    done = erc("plan", "llama2-7b-qlora", "--gpu", "RTX 4090")
    assert bool(re.search(r"\x1b\[(?:\d+;)*3[0-7]", done.out)) == colours


class _Terminal:
    def __init__(self, is_terminal: bool) -> None:
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.mark.parametrize("is_terminal", [True, False])
def test_bars_of_libraries_wait_on_a_terminal_and_are_off_elsewhere(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import logging

    environment = {key: value for key, value in os.environ.items() if "PROGRESS_BARS" not in key and key != BAR_DELAY}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(sys, "stderr", _Terminal(is_terminal))
    monkeypatch.setattr(logging.getLogger("erc_llm.models"), "handlers", [])
    silence_libraries()
    assert environment.get(BAR_DELAY) == ("3" if is_terminal else None)
    assert environment.get("HF_HUB_DISABLE_PROGRESS_BARS") == (None if is_terminal else "1")
    assert bool(logging.getLogger("erc_llm.models").handlers) == is_terminal


LOADING = """
import sys, time
from erc_llm.recipes.console import ConsoleProgress, silence_libraries
silence_libraries()
from erc_llm.models.wheels import quiet_loading
from transformers.utils.logging import tqdm
with quiet_loading(gguf=True):
    for _ in tqdm(range(4), desc="short"):
        time.sleep(0.1)
    for _ in tqdm(range(8), desc="long"):
        time.sleep(0.5)
"""


@pytest.mark.slow
def test_a_bar_of_a_library_shows_once_it_takes_longer() -> None:
    """In a terminal of its own (a pty), with transformers' own bars."""
    import fcntl
    import pty
    import struct
    import termios

    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_DISABLE_PROGRESS_BARS"}
    child, terminal = pty.fork()
    if child == 0:
        os.execve(sys.executable, [sys.executable, "-c", LOADING], environment | {"PYTHONPATH": str(ROOT)})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    shown, until = b"", time.monotonic() + 120
    while time.monotonic() < until:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # the terminal is closed
            break
        if not part:
            break
        shown += part
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, shown
    assert b"long" in shown
    assert b"short" not in shown
