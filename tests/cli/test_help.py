"""The help: instant, for every command; and a wrong call is the user's mistake."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from rich.text import Text

from erc_llm.cli.app import app
from tests.command_line import Command

ROOT = Path(__file__).parents[2]
COMMANDS = [
    *(
        "demo",
        "data",
        "config",
        "profile",
        "render",
        "plan",
        "validate",
        "train",
        "crossfit",
        "sweep",
        "average",
        "predict",
        "calibrate",
    ),
    *("evaluate", "compare", "baseline", "benchmark", "export", "export-prompts", "adapters", "serve", "ui"),
]


def _python(*command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = (sys.executable, *command)
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


HELP = """
import sys, time
started = time.process_time()
sys.argv = ["erc-llm", *sys.argv[1:]]
from erc_llm.cli import main
try:
    main()
except SystemExit as end:
    code = end.code or 0
heavy = {"torch", "transformers", "peft", "trl", "datasets", "sklearn", "scipy", "pandas", "pyarrow", "matplotlib",
         "numpy", "bitsandbytes"}
print("HEAVY", sorted(heavy & set(sys.modules)))
print("SECONDS", time.process_time() - started)
sys.exit(code)
"""


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    """Half a second on a warm disk; processor time, so that a busy machine does not fail the test."""
    done = _python("-c", HELP, "--help")
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout
    assert float(done.stdout.rpartition("SECONDS ")[2]) < 0.5
    for command in COMMANDS:
        assert command in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_help(command: str, erc: Command) -> None:
    done = erc(command, "--help")
    assert done.code == 0
    assert f" {command} [OPTIONS]" in done.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_keeps_its_square_brackets(command: str) -> None:
    """Help is rich markup: `[extra]` would be swallowed as a style unless it is escaped."""
    parsed = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    helps = [parsed.help, *(getattr(parameter, "help", None) for parameter in parsed.params)]
    for text in filter(None, helps):
        assert Text.from_markup(text).plain == text.replace("\\[", "[")


def test_the_version(erc: Command) -> None:
    from erc_llm import __version__

    assert erc("--version").out.strip() == __version__


@pytest.mark.parametrize("start", [("-c", "from erc_llm.cli.app import main; main()"), ("-m", "erc_llm")])
def test_an_error_from_the_shell_has_no_traceback_and_exit_code_2(start: tuple[str, str]) -> None:
    done = _python(*start, "train", "no-such-config")
    assert done.returncode == 2
    assert done.stderr.startswith("erc-llm: no-such-config: no such configuration file")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("arguments", [("fly",), ("train",), ("data",), ("train", "sample", "--fast")])
def test_a_wrong_call_is_the_users_mistake(arguments: tuple[str, ...], erc: Command) -> None:
    done = erc(*arguments)
    assert done.code == 2
    assert "Usage" in done.err
    assert "Traceback" not in done.err


def test_the_configuration_reference_is_current(erc: Command) -> None:
    done = erc("config")
    assert done.code == 0
    page = ROOT / "docs" / "configuration.md"
    assert done.out == page.read_text(encoding="utf-8"), "run: erc-llm config > docs/configuration.md"
    for field in ("`lora.rank`", "`speaker.behaviour`", "`systems.trained_on`", "`corpus.labels.names`"):
        assert field in done.out
