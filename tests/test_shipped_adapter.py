"""The adapter that comes with the repository: small, verified, and ready to label a conversation."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import erc_llm
from erc_llm.runs.exported import read_record
from tests.command_line import Command

FOLDER = Path(__file__).parents[1] / "adapters" / "smollm2-135m-emorynlp"
TALK = (
    ("Mara", "I got the job! I can't believe it, I got the job!"),
    ("Tomas", "Leave me alone. I hate you, get out of my house!"),
    ("Ines", "What was that noise? Is somebody in there? I'm so afraid."),
)


def test_it_is_small_and_was_verified() -> None:
    record = read_record(FOLDER)
    assert record is not None
    assert (record.form, record.stored) == ("peft", "f16")
    assert record.largest_difference <= record.tolerance
    assert (FOLDER / "adapter_model.safetensors").stat().st_size <= 15_000_000
    assert "EmoryNLP: Emory University" in (FOLDER / "README.md").read_text("utf-8")


def test_it_labels_a_conversation() -> None:
    live = erc_llm.load(FOLDER).live()
    found = [live.say(who, text) for who, text in TALK]
    assert [line.label for line in found] == ["Joyful", "Mad", "Scared"]
    for line in found:
        assert sum(line.probabilities.values()) == pytest.approx(1)


@pytest.mark.slow
def test_libraries_say_nothing_when_it_is_loaded_from_python() -> None:
    script = f"import erc_llm; erc_llm.load({str(FOLDER)!r})"
    done = subprocess.run([sys.executable, "-c", script], cwd=FOLDER.parents[1], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_it_verifies_again_elsewhere(erc: Command, tmp_path: Path) -> None:
    done = erc("export", shutil.copytree(FOLDER, tmp_path / "elsewhere"), "--verify")
    assert done.code == 0, done.err
