"""Independent jobs in processes of their own, some at a time; each process gets a part of the cores, or a GPU.

Input: a function and its arguments for every job. Output: the jobs are done, or the first error is raised.
Does not depend on: what the jobs do.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import IO, Any, cast

from rich.console import Console

from erc_llm.errors import ConfigError, ErcError, InternalError, RunError
from erc_llm.models.devices import process_count, usable_cores
from erc_llm.recipes.console import prepare_scoring

Job = Callable[..., None]


def run_side_by_side(
    job: Job,
    arguments: Mapping[str, Sequence[Any]],
    at_once: int,
    on_done: Callable[[str, int], None],
    *,
    on_killed: Callable[[str, int], None] | None = None,
    file: IO[str] | None = None,
    quiet: bool = False,
) -> None:
    """Run `job(*arguments[name], console)` for every name, at most `at_once` of them at a time.

    With one at a time the jobs run in this process. Otherwise each has a new process, with an equal part of the cores
    and one of the visible GPUs; a process ends with its parent. The lines of a job begin with its name.

    Args:
        job: A function of a module, with a console as its last argument.
        arguments: Arguments of each job by its name; they can be pickled.
        at_once: Number of jobs at a time.
        on_done: Called with the name of a job that is done and the number of those that are left.
        on_killed: Called with the name and the process id of a job whose process was killed from outside; after it the
            job starts again. None: such a job is an error.
        file: Where jobs in this process print; None: on standard output, as those in processes of their own do.
        quiet: Whether the consoles of the jobs show nothing.

    Raises:
        ErcError, OSError: A job raised it; the other processes are stopped.
        InternalError: A job in a process of its own raised another exception.
        RunError: A process was killed from outside, and there is no `on_killed`.
    """
    if at_once == 1:
        for i, (name, values) in enumerate(arguments.items()):
            job(*values, prefixed_console(name, file, quiet=quiet))
            on_done(name, len(arguments) - i - 1)
        return
    _Pool(job, at_once, on_done, on_killed, quiet).run(arguments)


@dataclass(frozen=True, slots=True)
class _Running:
    """A job in a process of its own."""

    name: str
    values: Sequence[Any]
    place: int
    process: BaseProcess


class _Pool:
    """The processes that run now, and those that are still to come."""

    def __init__(
        self,
        job: Job,
        at_once: int,
        on_done: Callable[[str, int], None],
        on_killed: Callable[[str, int], None] | None,
        quiet: bool,
    ) -> None:
        self._job = job
        self._quiet = quiet
        self._places = list(range(at_once))  # free places; a place keeps its GPU
        self._gpus = visible_gpus()
        self._threads = max(1, usable_cores() // at_once)
        self._on_done = on_done
        self._on_killed = on_killed
        self._running: dict[Connection, _Running] = {}

    def run(self, arguments: Mapping[str, Sequence[Any]]) -> None:
        waiting = list(arguments.items())
        try:
            while waiting or self._running:
                while waiting and self._places:
                    self._start(*waiting.pop(0))
                for pipe in wait(list(self._running)):
                    ended, killed = self._finish(cast(Connection, pipe))
                    if killed:
                        waiting.insert(0, (ended.name, ended.values))
                    else:
                        self._on_done(ended.name, len(waiting) + len(self._running))
        finally:
            for running in self._running.values():
                running.process.terminate()
            for running in self._running.values():
                running.process.join()

    def _start(self, name: str, values: Sequence[Any]) -> None:
        place = self._places.pop(0)
        environment = {"OMP_NUM_THREADS": str(self._threads)}
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[place % len(self._gpus)]
        context = multiprocessing.get_context("spawn")
        pipe, other_end = context.Pipe(duplex=False)
        process = context.Process(
            target=_run_in_process, args=(self._job, name, values, self._threads, self._quiet, other_end), name=name
        )
        with _changed_environment(environment):  # what the process inherits counts before anything is imported there
            process.start()
        other_end.close()  # so that the pipe ends with the process
        self._running[pipe] = _Running(name, values, place, process)

    def _finish(self, pipe: Connection) -> tuple[_Running, bool]:
        """Take the result of a process that has ended or is about to, free its place; and whether it was killed."""
        error, killed = None, False
        try:
            error = pipe.recv()
        except EOFError:
            killed = True
        ended = self._running.pop(pipe)
        ended.process.join()
        pipe.close()
        if killed and self._on_killed is None:
            error = RunError(
                f"{ended.name}: its process was killed, perhaps for lack of memory; the same command with --resume "
                "continues, with --workers 1 in less memory"
            )
        if error is not None:
            raise error
        if killed and self._on_killed is not None:
            self._on_killed(ended.name, ended.process.pid or 0)
        self._places.append(ended.place)
        return ended, killed


def visible_gpus() -> list[str]:
    """The GPUs of this process, each by a value of `CUDA_VISIBLE_DEVICES` that gives it to a process alone.

    Names that the variable holds already are kept: numbers, UUIDs or MIG instances. CUDA stops at the first name that
    it does not know, so only as many count as it finds. Of MIG instances it shows a process one, however many are
    named (NVIDIA's MIG user guide, "CUDA device enumeration"), so these count all.
    """
    import torch

    if not torch.cuda.is_available():
        return []
    found = torch.cuda.device_count()
    names = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if not names:
        return [str(i) for i in range(found)]
    return names if names[0].startswith("MIG-") else names[:found]


def jobs_at_once(jobs: int) -> int:
    """How many jobs to run at a time by default: one per GPU, without any one per core."""
    return min(jobs, len(visible_gpus()) or usable_cores())


def refuse_launcher(command: str, job: str) -> None:
    """Refuse several processes of a launcher for a command that starts its own.

    Raises:
        ConfigError: A launcher started several processes.
    """
    if process_count() > 1:
        raise ConfigError(
            f"{process_count()} processes of a launcher were found; start `erc-llm {command}` directly, it runs a "
            f"{job} on each GPU itself"
        )


@contextmanager
def _changed_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _run_in_process(job: Job, name: str, values: Sequence[Any], threads: int, quiet: bool, pipe: Connection) -> None:
    """The main function of a process: run the job, and send None or its error."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(threads)
    prepare_scoring()
    try:
        job(*values, prefixed_console(name, quiet=quiet))
    except KeyboardInterrupt:
        os._exit(130)  # the parent has it too, and tells the user
    except (ErcError, OSError) as error:
        pipe.send(error)
    except BaseException as error:
        import traceback

        pipe.send(InternalError(f"{name}: {error!r}\n{traceback.format_exc()}"))
    else:
        pipe.send(None)


def _end_with_parent() -> None:
    """End this process when its parent ends, so that no other process writes to the files of a resumed run."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "this process was started by `_Pool`"
    parent.join()
    os._exit(1)


def prefixed_console(name: str, file: IO[str] | None = None, *, quiet: bool = False) -> Console:
    """A console on a file, by default standard output, whose lines begin with the name of a job."""
    import sys

    return Console(file=cast(IO[str], _Prefixed(file or sys.stdout, f"{name}: ")), width=120, quiet=quiet)


class _Prefixed:
    """A text file that begins every line with a prefix, and passes on whole lines only."""

    def __init__(self, file: IO[str], prefix: str) -> None:
        self._file = file
        self._prefix = prefix
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        if lines:
            self._file.write("".join(f"{self._prefix}{line}\n" for line in lines))
            self._file.flush()
        return len(text)

    def flush(self) -> None:
        self._file.flush()

    def isatty(self) -> bool:
        return False
