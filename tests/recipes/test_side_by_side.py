"""Jobs side by side: all are done, an error of one ends the others, and every line says whose it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from erc_llm.errors import CorpusError, InternalError, RunError, UserError
from erc_llm.models.devices import usable_cores
from erc_llm.recipes.side_by_side import (
    jobs_at_once,
    prefixed_console,
    run_side_by_side,
    visible_gpus,
)

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


def _write_environment(path: str, met: str, together: int, console: Console) -> None:
    """Write the environment that this process began with, after `together` jobs are there at the same time."""
    inherited = Path("/proc/self/environ").read_bytes().decode().split("\0")
    Path(path).write_text("\n".join(inherited), encoding="utf-8")
    end = time.monotonic() + WAITING
    while len(list(Path(met).iterdir())) < together and time.monotonic() < end:
        time.sleep(0.05)


def _die_once(path: str, console: Console) -> None:
    if not Path(path).is_file():
        Path(path).write_text(str(os.getpid()), encoding="utf-8")
        os.kill(os.getpid(), signal.SIGKILL)
    console.print("done")


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
    threads = max(1, usable_cores() // 2)
    for name in ("a", "b"):
        own = [line.removeprefix(f"{name}: ") for line in lines if line.startswith(f"{name}: ")]
        assert own[:3] == ["one", "two", f"{threads} threads, OMP_NUM_THREADS={threads}"]
        assert "".join(own[3:]) == "x" * 300
    assert all(line.startswith(("a: ", "b: ")) for line in lines), lines


@pytest.mark.parametrize("at_once", [1, 2])
def test_quiet_jobs_print_nothing(at_once: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run_side_by_side(_write, _jobs(tmp_path, 2), at_once, _Done(), quiet=True)
    assert len(list(tmp_path.iterdir())) == 2
    assert capfd.readouterr().out == ""


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


def test_a_killed_job_starts_again_if_the_caller_allows_it(tmp_path: Path) -> None:
    done, killed = _Done(), _Done()
    run_side_by_side(_die_once, {"one": (str(tmp_path / "died"),)}, 2, done, on_killed=killed)
    assert killed.calls == [("one", int((tmp_path / "died").read_text(encoding="utf-8")))]
    assert done.calls == [("one", 0)]


INTERRUPTED = """
import sys
from tests.recipes.test_side_by_side import _Done, _wait, run_side_by_side

if __name__ == "__main__":
    try:
        run_side_by_side(_wait, {name: (f"{sys.argv[1]}/{name}",) for name in "ab"}, 2, _Done(), on_killed=_Done())
    except KeyboardInterrupt:
        sys.exit(130)
"""


def _wait(path: str, console: Console) -> None:
    Path(path).write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(WAITING)


def test_ctrl_c_ends_all_processes(tmp_path: Path) -> None:
    """A terminal sends the signal to all of them."""
    (tmp_path / "interrupted.py").write_text(INTERRUPTED, encoding="utf-8")
    (tmp_path / "met").mkdir()
    command = [sys.executable, str(tmp_path / "interrupted.py"), str(tmp_path / "met")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    written = [tmp_path / "met" / name for name in "ab"]
    while not all(path.is_file() and path.read_text(encoding="utf-8") for path in written):
        assert parent.poll() is None
        time.sleep(0.05)
    os.killpg(parent.pid, signal.SIGINT)
    assert parent.wait(timeout=WAITING) == 130
    for path in written:
        assert not Path("/proc", path.read_text(encoding="utf-8")).exists()


def test_each_process_is_born_with_a_gpu_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its environment before it imports anything; the GPUs are invented."""
    gpus = ["3", "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "MIG-c6f9b0d2-7a15-5ae1-9f4c-bc6a4dbf0f2f"]
    monkeypatch.setattr("erc_llm.recipes.side_by_side.visible_gpus", lambda: gpus)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8932f937,MIG-c6f9b0d2")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (tmp_path / "met").mkdir()
    paths = [tmp_path / "met" / name for name in "abc"]
    run_side_by_side(
        _write_environment, {path.name: (str(path), str(tmp_path / "met"), 3) for path in paths}, 3, _Done()
    )
    found = [path.read_text(encoding="utf-8").splitlines() for path in paths]
    own = [line.partition("=")[2] for lines in found for line in lines if line.startswith("CUDA_VISIBLE_DEVICES=")]
    assert sorted(own) == sorted(gpus)
    assert all(f"OMP_NUM_THREADS={max(1, usable_cores() // 3)}" in lines for lines in found)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,GPU-8932f937,MIG-c6f9b0d2", "of the parent"
    assert "OMP_NUM_THREADS" not in os.environ


@pytest.mark.parametrize(
    ("named", "found", "gpus"),
    [
        (None, 0, []),
        (None, 3, ["0", "1", "2"]),
        ("", 2, ["0", "1"]),
        ("2,5", 2, ["2", "5"]),
        (" 2, 5 ", 2, ["2", "5"]),
        ("1,9,0", 1, ["1"]),
        ("GPU-8932f937,GPU-46ab32c7", 2, ["GPU-8932f937", "GPU-46ab32c7"]),
        ("MIG-c6f9b0d2,MIG-5a0e4d97", 1, ["MIG-c6f9b0d2", "MIG-5a0e4d97"]),
    ],
)
def test_gpus_keep_the_names_that_they_have(
    named: str | None, found: int, gpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`found` is what torch sees: fewer than are named if one is unknown, and one of any number of MIG instances."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: found > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == gpus


def test_an_error_keeps_its_fields() -> None:
    with pytest.raises(CorpusError) as caught:
        run_side_by_side(_fail, {"one": ("corpus", "")}, 2, _Done())
    assert (caught.value.path, caught.value.line) == (Path("train.jsonl"), 7)


def test_there_are_never_more_jobs_at_once_than_jobs_or_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("erc_llm.recipes.side_by_side.visible_gpus", list)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 4, 5}, raising=False)
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
    prefixed_console("inner", console.file).print("a line", highlight=False)
    assert capsys.readouterr().out == "fold-1: inner: a line\n"
