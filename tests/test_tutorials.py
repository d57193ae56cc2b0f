"""The tutorials run as they stand: the blocks after `<!-- run -->`, in order, in an empty folder, by the real commands.

A block without a language is for the shell, a block of Python for `python`. The blocks of a page are one shell session,
so a service that one block starts is there for the next.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from erc_llm.predictions import read_predictions

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
_BLOCK = re.compile(r"^<!-- run -->\n```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_END_WHAT_RUNS = "trap 'kill $(jobs -p) 2> /dev/null || true' EXIT"
RUNNABLE = sorted(
    str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if "<!-- run -->" in page.read_text("utf-8")
)


def script(page: str) -> str:
    """The runnable blocks of a page as one shell script."""
    parts = ["set -euo pipefail", "set -m  # jobs have numbers, as in a terminal", _END_WHAT_RUNS]
    for language, code in _BLOCK.findall((DOCS / page).read_text("utf-8")):
        parts.append(f"python - <<'END OF BLOCK'\n{code}END OF BLOCK" if language == "python" else code.rstrip())
    return "\n".join(parts) + "\n"


def run(page: str, folder: Path) -> str:
    """Run a page in a folder; returns what it printed. The port of a service is one that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "page.sh").write_text(script(page).replace("8000", str(port)), encoding="utf-8")
    paths = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "page.sh"],
        stdin=subprocess.DEVNULL,
        cwd=folder,
        env={**os.environ, **paths, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_every_mark_is_right_before_a_block() -> None:
    for page in RUNNABLE:
        text = (DOCS / page).read_text("utf-8")
        assert text.count("<!-- run -->") == len(_BLOCK.findall(text)), page
        assert {language for language, _ in _BLOCK.findall(text)} <= {"", "python"}, page


def test_the_shell_understands_every_page() -> None:
    assert len(RUNNABLE) >= 5
    for page in RUNNABLE:
        done = subprocess.run(["bash", "-n"], input=script(page), capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), page


@pytest.mark.slow
@pytest.mark.smollm2
def test_own_data(tmp_path: Path) -> None:
    printed = run("tutorials/own-data.md", tmp_path)
    assert "(Mara feels sad)" in printed
    assert "run: runs/talks   adapter: runs/talks/adapter" in printed
    table = read_predictions(tmp_path / "test.parquet")
    assert [len(table), table.info.split] == [7, "test"]
    assert "<html" in (tmp_path / "test.html").read_text("utf-8")
    assert re.search(r"^Mara \w+ \d+%\nTomas \w+ \d+%$", printed, re.MULTILINE)
    export = json.loads((tmp_path / "adapters" / "talks-peft" / "export.json").read_text("utf-8"))
    assert export["form"] == "peft"


@pytest.mark.slow
@pytest.mark.smollm2
def test_compare(tmp_path: Path) -> None:
    printed = run("tutorials/compare.md", tmp_path)
    assert "tuned against zero-shot, emonet" in printed
    report = json.loads((tmp_path / "report" / "comparison.json").read_text("utf-8"))
    assert "emonet" in json.dumps(report)
    assert (tmp_path / "report" / "comparison.html").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.smollm2
def test_serve(tmp_path: Path) -> None:
    printed = run("tutorials/serve.md", tmp_path)
    (answer,) = [json.loads(line) for line in re.findall(r'\{"run":null,"lines".*\}', printed)]
    assert len(answer["lines"]) == 2
    assert sum(answer["lines"][0]["probabilities"].values()) == pytest.approx(1)
    assert 'erc_llm_requests_total{route="/v1/label",status="200"} 1.0' in printed


@pytest.mark.slow
def test_one_gpu(tmp_path: Path) -> None:
    printed = run("tutorials/one-gpu.md", tmp_path)
    assert re.search(r"It fits RTX 4090: 5\.9 GiB of 21\.6 GiB", printed)


@pytest.mark.slow
@pytest.mark.smollm2
def test_exact_probabilities(tmp_path: Path) -> None:
    printed = run("exact-probabilities.md", tmp_path)
    assert re.fullmatch(r"\w+ 0\.\d{3} label mass [01]\.\d{3}\n", printed)
