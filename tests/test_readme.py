"""The README: its Python example runs as printed, and no line is too long to read."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from erc_llm.corpus import EMORYNLP
from erc_llm.recipes.train import train
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs_as_printed(
    tiny_llama: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a corpus `talks` and a run `runs/talks`, which the quick start above it makes."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(
        ROOT / "erc_llm" / "corpus" / "sample", "talks", ignore=shutil.ignore_patterns("*.py", "__pycache__")
    )
    training = {"max_scenes": 4, "evaluations": 0}
    profile = {"writer": "statistics"}
    config = tiny_config(tiny_llama, Path("talks"), Path("runs"), name="talks", training=training, profile=profile)
    train(config, console=Console(quiet=True))
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert examples
    capsys.readouterr()
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 3
    assert all(line.split()[0] in EMORYNLP.names for line in lines)


def test_no_line_is_longer_than_120_characters() -> None:
    assert [line for line in README.splitlines() if len(line) > 120] == []
