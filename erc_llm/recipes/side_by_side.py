"""Independent jobs in processes of their own, some at a time; each process gets a part of the cores, or a GPU.

Input: a function and its arguments for every job. Output: the jobs are done, or the first error is raised.
Does not depend on: what the jobs do.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import IO, Any, TextIO, cast

from rich.console import Console

from erc_llm.errors import ErcError, InternalError, RunError
from erc_llm.recipes.console import prepare_scoring

Job = Callable[..., None]


def run_side_by_side(
    job: Job, arguments: Mapping[str, Sequence[Any]], at_once: int, on_done: Callable[[str, int], None]
) -> None:
    """Run `job(*arguments[name], console)` for every name, at most `at_once` of them at a time.

    With one at a time the jobs run in this process. Otherwise each has a new process, with an equal part of this
    machine's cores, or one of the visible GPUs; a process ends with its parent. The lines of a job begin with its name.

    Args:
        job: A function of a module, with a console as its last argument.
        arguments: Arguments of each job by its name; they can be pickled.
        at_once: Number of jobs at a time.
        on_done: Called with the name of a job that is done and the number of those that are left.

    Raises:
        ErcError, OSError: A job raised it; the other processes are stopped.
        InternalError: A job in a process of its own raised another exception.
        RunError: A process was killed from outside.
    """
    if at_once == 1:
        for i, (name, values) in enumerate(arguments.items()):
            job(*values, prefixed_console(name))
            on_done(name, len(arguments) - i - 1)
        return
    _Pool(job, at_once, on_done).run(arguments)


class _Pool:
    """The processes that run now, and those that are still to come."""

    def __init__(self, job: Job, at_once: int, on_done: Callable[[str, int], None]) -> None:
        self._job = job
        self._places = list(range(at_once))  # free places; a place keeps its GPU
        self._gpus = visible_gpus()
        self._threads = max(1, (os.cpu_count() or 1) // at_once)
        self._on_done = on_done
        self._running: dict[Connection, tuple[str, int, BaseProcess]] = {}

    def run(self, arguments: Mapping[str, Sequence[Any]]) -> None:
        waiting = list(arguments.items())
        try:
            while waiting or self._running:
                while waiting and self._places:
                    self._start(*waiting.pop(0))
                for pipe in wait(list(self._running)):
                    name = self._finish(cast(Connection, pipe))
                    self._on_done(name, len(waiting) + len(self._running))
        finally:
            for _, _, process in self._running.values():
                process.terminate()
            for _, _, process in self._running.values():
                process.join()

    def _start(self, name: str, values: Sequence[Any]) -> None:
        place = self._places.pop(0)
        gpu = self._gpus[place % len(self._gpus)] if self._gpus else None
        context = multiprocessing.get_context("spawn")
        pipe, other_end = context.Pipe(duplex=False)
        process = context.Process(
            target=_run_in_process, args=(self._job, name, values, gpu, self._threads, other_end), name=name
        )
        process.start()
        other_end.close()  # so that the pipe ends with the process
        self._running[pipe] = (name, place, process)

    def _finish(self, pipe: Connection) -> str:
        """Take the result of a process that has ended or is about to, and free its place."""
        try:
            error = pipe.recv()
        except EOFError:
            error = RunError(
                f"{self._running[pipe][0]}: its process was killed, perhaps for lack of memory; the same command with "
                "--resume continues, with --workers 1 in less memory"
            )
        name, place, process = self._running.pop(pipe)
        process.join()
        pipe.close()
        if error is not None:
            raise error
        self._places.append(place)
        return name


def visible_gpus() -> list[str]:
    """The GPUs of this process, as `CUDA_VISIBLE_DEVICES` names them."""
    import torch

    named = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    return (named or [str(i) for i in range(torch.cuda.device_count())]) if torch.cuda.is_available() else []


def jobs_at_once(jobs: int) -> int:
    """How many jobs to run at a time by default: one per GPU, without any one per core."""
    return min(jobs, len(visible_gpus()) or os.cpu_count() or 1)


def _run_in_process(
    job: Job, name: str, values: Sequence[Any], gpu: str | None, threads: int, pipe: Connection
) -> None:
    """The main function of a process: run the job, and send None or its error."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    import torch

    torch.set_num_threads(threads)
    prepare_scoring()
    try:
        job(*values, prefixed_console(name))
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


def prefixed_console(name: str) -> Console:
    """A console on standard output whose lines begin with the name of a job."""
    import sys

    return Console(file=cast(IO[str], _Prefixed(sys.stdout, f"{name}: ")), width=120)


class _Prefixed:
    """A text file that begins every line with a prefix, and passes on whole lines only."""

    def __init__(self, file: TextIO, prefix: str) -> None:
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
