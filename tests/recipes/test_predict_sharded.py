"""`predict --engine ray`: every row once, equal to `predict`, whatever is killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from benchmarks.sharded import workers_of
from erc_llm.corpus import read_corpus
from erc_llm.predictions import read_predictions
from erc_llm.predictor import load
from erc_llm.recipes.predict import predict
from erc_llm.runs.directory import Run
from tests.command_line import Command
from tests.recipes.test_shard_worker import same_rows, write_talks

pytest.importorskip("ray", reason="pip install 'erc-llm[scale]'")


def test_a_job_equals_predict_and_names_what_failed(finished: Run, tmp_path: Path, erc: Command) -> None:
    talks = write_talks(tmp_path / "talks.jsonl", 9)
    whole = talks.read_text("utf-8")
    talks.write_text(whole + '{"id": "cut"')
    out = tmp_path / "out"
    command = ("predict", finished.folder, talks, "--engine", "ray", "--out", out, "--shard-dialogues", 4)
    done = erc(*command)
    assert "10 dialogues in 3 shards" in done.out
    assert (done.code, f"1 dialogues have no predictions; {out}/errors says why" in done.err) == (2, True)
    head, *lines = [json.loads(line) for line in (out / "shards.jsonl").read_text("utf-8").splitlines()]
    assert head["run"] == finished.manifest.run_id
    assert sorted((line["value"]["dialogues"], line["value"]["failed"]) for line in lines) == [(2, 1), (4, 0), (4, 0)]
    (tmp_path / "whole.jsonl").write_text(whole)
    same_rows(read_predictions(out), predict(load(finished.folder), read_corpus(tmp_path / "whole.jsonl"), "all"))

    assert "of which 3 are finished" in erc(*command).out, "and nothing is started"
    other = erc(*command, "--decide", "probable")
    assert (other.code, "holds the predictions of another job" in other.err) == (2, True)
    assert erc("evaluate", out).code == 0


@pytest.mark.slow
def test_the_same_command_goes_on_where_it_was(finished: Run, tmp_path: Path, erc: Command) -> None:
    talks = write_talks(tmp_path / "talks.jsonl", 9)
    out = tmp_path / "out"
    command = ("predict", finished.folder, talks, "--engine", "ray", "--out", out, "--shard-dialogues", 2)
    assert erc(*command).code == 0
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    (out / "part-00002.parquet").unlink()
    again = erc(*command)
    assert (again.code, "of which 4 are finished" in again.out) == (0, True)
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert {name for name in after if after[name] != before[name]} == {"part-00002.parquet"}
    same_rows(read_predictions(out), predict(load(finished.folder), read_corpus(talks), "all"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--split", "dev"), "--split (all dialogues of the files are labelled)"),
        (("--interactive",), "--interactive"),
        (("--adapter", "other"), "--adapter"),
        (("--transductive", "--decide", "macro_f1"), "--transductive (its rule depends on all lines)"),
        (("--heal-from", "other"), "--heal-from"),
        (("--out", "table.parquet"), "--engine ray writes a folder of Parquet files"),
    ],
)
def test_options_that_do_not_fit(
    finished: Run, tmp_path: Path, erc: Command, options: tuple[str, ...], message: str
) -> None:
    done = erc("predict", finished.folder, tmp_path / "talks.jsonl", "--engine", "ray", *options)
    assert done.code == 2
    assert message in done.err


def test_workers_belong_to_the_engine(finished: Run, erc: Command) -> None:
    done = erc("predict", finished.folder, "--workers", 2)
    assert (done.code, "belong to --engine ray" in done.err) == (2, True)


def test_the_engine_needs_its_package(
    finished: Run, tmp_path: Path, erc: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("erc_llm.recipes.predict_sharded.find_spec", lambda _: None)
    done = erc("predict", finished.folder, write_talks(tmp_path / "talks.jsonl"), "--engine", "ray")
    assert (done.code, "pip install 'erc-llm[scale]'" in done.err) == (2, True)


def test_a_folder_with_something_else_is_refused(finished: Run, tmp_path: Path, erc: Command) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "dev.parquet").write_bytes(b"")
    talks = write_talks(tmp_path / "talks.jsonl")
    done = erc("predict", finished.folder, talks, "--engine", "ray", "--out", tmp_path / "out")
    assert (done.code, "holds tables of something else" in done.err) == (2, True)


def test_a_folder_that_another_process_writes_to_is_refused(finished: Run, tmp_path: Path, erc: Command) -> None:
    talks = write_talks(tmp_path / "talks.jsonl")
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):
        done = erc("predict", finished.folder, talks, "--engine", "ray", "--out", tmp_path / "out")
    assert (done.code, "another process predicts into this folder" in done.err) == (2, True)
    (tmp_path / "file").write_text("")
    done = erc("predict", finished.folder, talks, "--engine", "ray", "--out", tmp_path / "file")
    assert (done.code, f"{tmp_path}/file: cannot be written" in done.err) == (2, True)


def test_an_unfinished_folder_is_no_table(tmp_path: Path, erc: Command) -> None:
    (tmp_path / "part-00000.parquet").write_bytes(b"")
    done = erc("evaluate", tmp_path)
    assert (done.code, "is not finished: the same command goes on" in done.err) == (2, True)


@pytest.mark.slow
def test_workers_and_drivers_that_are_killed_cost_no_row(finished: Run, tmp_path: Path) -> None:
    talks = write_talks(tmp_path / "talks.jsonl", 120)
    out, draw = tmp_path / "out", random.Random(3)
    arguments = ("predict", finished.folder, talks, "--engine", "ray", "--out", out, "--workers", 2)
    command = [sys.executable, "-m", "erc_llm", *map(str, arguments), "--shard-dialogues", "2"]

    def finished_shards() -> int:
        journal = out / "shards.jsonl"
        return len(journal.read_text("utf-8").splitlines()) - 1 if journal.exists() else 0

    def wait_for_shards(more: int) -> None:
        wanted, until = finished_shards() + more, time.monotonic() + 300
        while finished_shards() < wanted and time.monotonic() < until:
            time.sleep(0.05)

    for _ in range(2):
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for_shards(draw.randint(1, 4))
        workers = workers_of(driver.pid)
        assert workers, "the workers of this driver are found"
        os.kill(draw.choice(workers), signal.SIGKILL)
        wait_for_shards(draw.randint(2, 6))
        assert driver.poll() is None, "the job goes on without the worker"
        driver.kill()
        driver.wait()
        _wait_until_gone(workers)
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    assert finished_shards() == 60
    same_rows(read_predictions(out), predict(load(finished.folder), read_corpus(talks), "all"))
    assert not [path for path in out.iterdir() if path.name.startswith(".") and path.name != ".lock"]
    shutil.rmtree(out)


def _wait_until_gone(processes: list[int]) -> None:
    until = time.monotonic() + 60
    while any(Path(f"/proc/{process}").exists() for process in processes) and time.monotonic() < until:
        time.sleep(0.1)
