"""`erc-llm predict --endpoint`, through the entry point the shell calls."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from erc_llm.config import RunConfig
from erc_llm.corpus import Corpus
from erc_llm.predictions import read_predictions
from erc_llm.runs.journal import Journal
from tests.command_line import Command, refused
from tests.model_server import Reply, Server, said
from tests.recipes.predict_served.asking import TARGETS, ask, by_prompt, open_model

ROOT = Path(__file__).parents[3]


def arguments(server: Server, config: RunConfig, folder: Path, tmp_path: Path) -> list[str]:
    path = tmp_path / "tiny.yaml"
    path.write_text(config.as_yaml(), encoding="utf-8")
    out = ["--out", str(tmp_path / "t.parquet")]
    return ["predict", str(path), str(folder), *out, "--endpoint", server.url, "--model", "m"]


def test_the_command_writes_the_table_and_removes_the_journal(
    server: Server, config: RunConfig, folder: Path, tmp_path: Path, erc: Command
) -> None:
    server.reply = lambda request, number: said("Sad" if number > 2 else "who knows")
    code, out, err = erc(*arguments(server, config, folder, tmp_path))
    assert (code, err) == (0, "")
    assert f"{TARGETS} predictions of dev" in out
    assert "kind of answers: free text" in out
    assert f"2 of {TARGETS} answers name no label" in out
    assert {p.name for p in tmp_path.iterdir()} == {"t.parquet", "tiny.yaml"}
    assert len(read_predictions(tmp_path / "t.parquet")) == TARGETS


def test_without_text_nothing_of_what_the_model_wrote_is_kept(
    server: Server, config: RunConfig, folder: Path, tmp_path: Path, erc: Command
) -> None:
    server.reply = lambda *_: said("Sad")
    assert erc(*arguments(server, config, folder, tmp_path), "--without-text").code == 0
    table = read_predictions(tmp_path / "t.parquet")
    assert (table.text, table.raw_answer, set(table.predicted)) == (None, None, {"Sad"})


def test_a_stop_of_the_server_is_exit_code_2_and_the_same_command_goes_on(
    server: Server, config: RunConfig, folder: Path, tmp_path: Path, erc: Command
) -> None:
    server.reply = lambda request, number: by_prompt(request, number) if number <= 3 else (400, "too long")
    command = arguments(server, config, folder, tmp_path)
    done = erc(*command)
    refused(done, "no usable answer from model 'm' about dialogue s2_", ", utterance u", "status 400", "too long")
    assert "what was answered before is kept, but the server would refuse this again" in done.err
    assert not (tmp_path / "t.parquet").exists()
    server.reply = by_prompt
    _, out, _ = erc(*command)
    assert "continuing with the 3 answers" in out
    assert len(read_predictions(tmp_path / "t.parquet")) == TARGETS
    assert {p.name for p in tmp_path.iterdir()} == {"t.parquet", "tiny.yaml"}


@pytest.mark.slow
def test_a_killed_run_goes_on_without_a_lost_or_doubled_row(
    server: Server, config: RunConfig, folder: Path, corpus: Corpus, tmp_path: Path, erc: Command
) -> None:
    def slowly(request: dict[str, Any], number: int) -> Reply:
        time.sleep(0.2 if number <= TARGETS else 0)
        return by_prompt(request, number)

    server.reply = slowly
    command = arguments(server, config, folder, tmp_path)
    code = "from erc_llm.cli.app import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command, "--concurrency", "2"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    journal = open_model(server, config).journal(tmp_path / "t.parquet", corpus, "dev").path
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") >= 4):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept, before = len(Journal(journal)), len(server.requests)
    assert 4 <= kept < TARGETS
    assert not (tmp_path / "t.parquet").exists()
    assert erc(*command)[0] == 0
    assert len(server.requests) - before == TARGETS - kept
    table = read_predictions(tmp_path / "t.parquet")
    assert table.keys == tuple((d.id, d.utterances[k].id) for d in corpus.split("dev") for k in d.targets)
    assert table.columns() == ask(server, config, corpus, tmp_path / "whole").columns()
    assert not journal.exists()


def test_text_goes_to_another_machine_only_where_allowed(
    server: Server, config: RunConfig, folder: Path, tmp_path: Path, erc: Command
) -> None:
    command = arguments(server, config, folder, tmp_path)
    command[command.index("--endpoint") + 1] = "http://example.org/v1"
    refused(erc(*command), "another machine", "--allow-remote")
    command[command.index("--endpoint") + 1] = "http://me:hunter2@127.0.0.1/v1"
    done = erc(*command)
    refused(done, "ERC_LLM_API_KEY")
    assert "hunter2" not in done[2]


@pytest.mark.parametrize("missing", ["--endpoint", "--model"])
def test_a_served_model_needs_both_its_address_and_its_name(
    server: Server, config: RunConfig, folder: Path, tmp_path: Path, erc: Command, missing: str
) -> None:
    command = arguments(server, config, folder, tmp_path)
    at = command.index(missing)
    refused(erc(*command[:at], *command[at + 2 :]), "needs both --endpoint and --model")
    refused(erc(*command, "--interactive"), "does not support --interactive")
    refused(erc(*command[:5], "--label-scores"), "needs both --endpoint and --model")


def test_a_wrong_split_is_told_before_anything_is_asked(
    server: Server, config: RunConfig, folder: Path, tmp_path: Path, erc: Command
) -> None:
    refused(erc(*arguments(server, config, folder, tmp_path), "--split", "tset"), "tset")
    assert server.requests == server.looked == []
