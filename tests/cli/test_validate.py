"""`erc-llm validate`: what it prints, and its exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line import Command


def test_a_good_configuration(erc: Command, config: Path) -> None:
    done = erc("validate", config)
    assert done.code == 0, done
    assert done.out.endswith("0 errors, 0 warnings\n")
    assert "feels<|im_end|>⏎<|im_start|>assistant⏎[" in done.out
    assert done.out.count("[<|im_end|>]") == 3
    assert done.err == ""


def test_every_error_has_its_remedy_and_the_exit_code_is_2(erc: Command, config: Path, tmp_path: Path) -> None:
    faults = ["lora.rank=0", "lora.target_modules=[nothing]", f"corpus.heal_from={tmp_path / 'no'}", "seed=x"]
    done = erc("validate", config, *faults)
    assert done.code == 2
    lines = done.out.splitlines()
    errors = [line.split()[1] for line in lines if line.startswith("error ")]
    assert errors == ["seed:", "lora.rank:", "corpus.heal_from:", "lora.target_modules:"]
    assert all(lines[i + 1].startswith("        remedy: ") for i, line in enumerate(lines) if line.startswith("error "))
    assert lines[-1] == "4 errors, 0 warnings"
    assert "Traceback" not in done.out + done.err


def test_warnings_do_not_fail(erc: Command, config: Path) -> None:
    done = erc("validate", config, "lora.rank=1024")
    assert done.code == 0
    assert "warning lora.rank: rank 1024 is above 512" in done.out
    assert done.out.endswith("0 errors, 1 warning\n")


@pytest.mark.parametrize("source", ["no-such", "emonet"])
def test_what_is_no_configuration_of_a_training_run(source: str, erc: Command) -> None:
    done = erc("validate", source)
    assert done.code == 2
    assert "error   configuration: " in done.out
    assert "Traceback" not in done.out + done.err


def test_a_run_that_is_to_be_continued(erc: Command, config: Path, finished: Path) -> None:
    output = f"output={finished.parent}"
    done = erc("validate", config, output)
    assert done.code == 2
    assert "this run exists (finished)" in done.out
    assert erc("validate", config, output, "--resume").code == 0
