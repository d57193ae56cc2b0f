"""Jobs side by side: all are done, an error of one ends the others, and every line says whose it is."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from rich.console import Console

from erc_llm.errors import CorpusError, InternalError, RunError, UserError
from erc_llm.recipes.side_by_side import jobs_at_once, prefixed_console, run_side_by_side

WAITING = 60.0  # seconds that a job which is to be ended would take; starting a process takes about two


def _write(path: str, text: str, console: Console) -> None:
    console.print(f"writing {text}", highlight=False)
    Path(path).write_text(f"{text} {os.getpid()}", encoding="utf-8")


def _tell(console: Console) -> None:
    import torch

    console.print("one\ntwo", highlight=False)
    console.print(f"{torch.get_num_threads()} threads, OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}")
    console.print("x" * 300, highlight=False)


def _fail(kind: str, path: str, console: Console) -> None:
    """The first job fails, the other ones write a file after a long while."""
    if kind == "user":
        raise UserError("no such thing; give another")
    if kind == "corpus":
        raise CorpusError("found a hole", "train.jsonl", 7)
    if kind == "bug":
        raise ZeroDivisionError("a mistake of ours")
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(WAITING)
    Path(path).write_text("not ended", encoding="utf-8")


class _Done:
    """Notes which jobs are done, and how many are left."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def __call__(self, name: str, left: int) -> None:
        self.calls.append((name, left))


def _jobs(folder: Path, count: int) -> dict[str, tuple[str, str]]:
    return {f"job-{i}": (str(folder / f"job-{i}"), f"text {i}") for i in range(count)}


def test_one_at_a_time_jobs_run_in_this_process_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = _Done()
    run_side_by_side(_write, _jobs(tmp_path, 3), 1, done)
    assert done.calls == [("job-0", 2), ("job-1", 1), ("job-2", 0)]
    assert [(tmp_path / f"job-{i}").read_text() for i in range(3)] == [f"text {i} {os.getpid()}" for i in range(3)]
    assert capsys.readouterr().out == "".join(f"job-{i}: writing text {i}\n" for i in range(3))


def test_no_jobs_at_all_are_done_at_once() -> None:
    run_side_by_side(_write, {}, 1, _Done())
    run_side_by_side(_write, {}, 2, _Done())


def test_two_at_a_time_jobs_have_processes_of_their_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    done = _Done()
    run_side_by_side(_write, _jobs(tmp_path, 3), 2, done)
    assert {name for name, _ in done.calls} == {f"job-{i}" for i in range(3)}
    assert [left for _, left in done.calls] == [2, 1, 0]
    written = [(tmp_path / f"job-{i}").read_text().rsplit(" ", 1) for i in range(3)]
    assert [text for text, _ in written] == [f"text {i}" for i in range(3)]
    assert len({pid for _, pid in written} | {str(os.getpid())}) == 4, "a process each"
    assert sorted(capfd.readouterr().out.splitlines()) == [f"job-{i}: writing text {i}" for i in range(3)]


def test_every_line_begins_with_the_name_and_the_cores_are_shared(capfd: pytest.CaptureFixture[str]) -> None:
    run_side_by_side(_tell, {"a": (), "b": ()}, 2, _Done())
    lines = capfd.readouterr().out.splitlines()
    threads = max(1, (os.cpu_count() or 1) // 2)
    for name in ("a", "b"):
        own = [line.removeprefix(f"{name}: ") for line in lines if line.startswith(f"{name}: ")]
        assert own[:3] == ["one", "two", f"{threads} threads, OMP_NUM_THREADS={threads}"]
        assert "".join(own[3:]) == "x" * 300
    assert all(line.startswith(("a: ", "b: ")) for line in lines), lines


def test_one_at_a_time_the_first_error_ends_the_rest(tmp_path: Path) -> None:
    done = _Done()
    with pytest.raises(CorpusError, match=r"^train\.jsonl:7: found a hole$"):
        run_side_by_side(_fail, {"one": ("corpus", ""), "two": ("wait", str(tmp_path / "two"))}, 1, done)
    assert done.calls == []


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("user", UserError, r"^no such thing; give another$"),
        ("corpus", CorpusError, r"^train\.jsonl:7: found a hole$"),
        ("bug", InternalError, r"^first: ZeroDivisionError\('a mistake of ours'\)\nTraceback [^§]*in _fail"),
        ("kill", RunError, r"^first: its process was killed, .*--resume continues, with --workers 1 in less memory$"),
    ],
)
def test_an_error_reaches_the_caller_and_stops_the_other_jobs(
    kind: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    done, began = _Done(), time.monotonic()
    jobs = {"first": (kind, ""), "second": ("wait", str(tmp_path / "second")), "third": ("wait", str(tmp_path / "3"))}
    with pytest.raises(error, match=message) as caught:
        run_side_by_side(_fail, jobs, 2, done)
    assert type(caught.value) is error
    assert time.monotonic() - began < WAITING, "the others were ended"
    assert done.calls == []
    assert list(tmp_path.iterdir()) == []


def test_an_error_keeps_its_fields() -> None:
    with pytest.raises(CorpusError) as caught:
        run_side_by_side(_fail, {"one": ("corpus", "")}, 2, _Done())
    assert (caught.value.path, caught.value.line) == (Path("train.jsonl"), 7)


def test_there_are_never_more_jobs_at_once_than_jobs_or_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("erc_llm.recipes.side_by_side.visible_gpus", list)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert [jobs_at_once(jobs) for jobs in (1, 3, 5)] == [1, 3, 4]
    monkeypatch.setattr("erc_llm.recipes.side_by_side.visible_gpus", lambda: ["0", "1"])
    assert [jobs_at_once(jobs) for jobs in (1, 3, 5)] == [1, 2, 2]


def test_a_console_passes_on_whole_lines_with_their_prefix(capsys: pytest.CaptureFixture[str]) -> None:
    console = prefixed_console("fold-1")
    console.print("half a line, ", end="", highlight=False)
    assert capsys.readouterr().out == ""
    console.print("and the rest\n\nafter an empty one", highlight=False)
    assert capsys.readouterr().out == "fold-1: half a line, and the rest\nfold-1: \nfold-1: after an empty one\n"
    assert not console.is_terminal
