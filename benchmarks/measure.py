"""Fair comparison of two ways to do the same work: alternating runs, each in a process of its own.

A fresh process inherits neither the other side's memory nor its patched model or warm caches. Rounds alternate (A B,
B A, A B), so that a machine that slows down slows both; results are medians over rounds of the ratio within a round.
The process that starts the jobs must stay small: Linux hands a parent's peak memory on to its children. However that
process ends, the one that it measures ends with it.

Input: jobs, each a function of this package and its arguments. Output: their results.
Does not depend on: models, corpora.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.outcome import CannotDo
from erc_llm.errors import UserError

if TYPE_CHECKING:
    import torch

Result = dict[str, Any]  # crosses processes as JSON


class JobError(UserError):
    """A job's process ended without a result.

    As its exit code says, by a mistake of the user's (2), of ours (1), or because it cannot be done here (3).
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code if code in (UserError.exit_code, CannotDo.exit_code) else 1


@dataclass(frozen=True, slots=True)
class Job:
    """One side of a comparison.

    Attributes:
        name: Name in tables.
        function: The function as `module:function`; it returns a dict that JSON can represent.
        arguments: Keyword arguments of the function, which JSON can represent.
    """

    name: str
    function: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ratio:
    """A measured value of one side divided by that of another, round by round.

    Attributes:
        values: One ratio per round.
    """

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle round's ratio."""
        return median(self.values)

    def __str__(self) -> str:
        return f"{self.median:.2f}" + (
            f" ({min(self.values):.2f} to {max(self.values):.2f})" if self.values[1:] else ""
        )


def run_job(job: Job) -> Result:
    """Run a job in a fresh process.

    Raises:
        JobError: The job failed; the message ends with the last lines of its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        request, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
        request.write_text(json.dumps({"function": job.function, "arguments": dict(job.arguments)}), "utf-8")
        code, output = _run_to_the_end([sys.executable, "-m", "benchmarks.measure", str(request), str(answer)])
        if code != 0 or not answer.is_file():
            tail = "\n".join(output.strip().splitlines()[-8:])
            raise JobError(f"{job.name}: ended with exit code {code}:\n{tail}", code)
        result: Result = json.loads(answer.read_text("utf-8"))
        return result


def _run_to_the_end(command: Sequence[str]) -> tuple[int, str]:
    """Exit code and output of a command, which dies together with this process.

    The command inherits the read end of a pipe of which this process alone holds the other end. The system closes that
    end whichever way this process ends, SIGKILL included. The command leads a process group of its own, so that what it
    started itself can be ended with it.
    """
    reads, writes = os.pipe()
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    try:
        process = subprocess.Popen(
            [*command, str(reads)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=(reads,),
            process_group=0,
        )
        try:
            output, errors = process.communicate()
        except BaseException:  # Ctrl-C reaches this process's group only
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        return process.returncode, errors or output
    finally:
        os.close(reads)
        os.close(writes)


def _die_with(pipe: int) -> None:
    """End this process and all that it started once the other end of a pipe is closed; waits in a thread."""

    def wait() -> None:
        os.read(pipe, 1)  # nothing is ever written: it returns when the other end is closed
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def run_alternating(
    jobs: Sequence[Job], rounds: int, on_run: Callable[[int, Job, Result], None] | None = None
) -> dict[str, list[Result]]:
    """Run every job once per round, in reverse order every other round; returns name to results, in round order."""
    results: dict[str, list[Result]] = {job.name: [] for job in jobs}
    for number in range(rounds):
        for job in jobs if number % 2 == 0 else jobs[::-1]:
            result = run_job(job)
            results[job.name].append(result)
            if on_run:
                on_run(number, job, result)
    return results


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Ours over theirs, within each round."""
    return Ratio(tuple(a / b for a, b in zip(ours, theirs, strict=True)))


def speeds(results: Sequence[Result], count: str) -> list[float]:
    """`count` per second of each run."""
    return [result[count] / result["seconds"] for result in results]


def summary(results: Sequence[Result], count: str) -> Result:
    """Medians of one side over its runs; `count` names the unit of work, such as `utterances`."""
    return {
        f"{count}_per_second": median(speeds(results, count)),
        "tokens_per_second": median(speeds(results, "tokens")),
        "seconds": median(result["seconds"] for result in results),
        "tokens": median(result["tokens"] for result in results),
        "peak_mb": max(result["peak_mb"] for result in results),
        "before_mb": max(result["before_mb"] for result in results),
    }


class Meter:
    """Measures one piece of work on a model: seconds, tokens that the model embeds (padding too), peak memory.

    Use as a context manager, or call `start` and `stop`.
    """

    def __init__(self, model: Any) -> None:
        self._device: torch.device = model.device
        self._embeddings = model.get_input_embeddings()
        self._tokens = 0
        self._began = 0.0
        self._result: Result = {}

    def __enter__(self) -> Meter:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start; everything before is warm-up."""
        self._tokens, self._result = 0, {"before_mb": peak_mb(self._device)}
        self._hook = self._embeddings.register_forward_pre_hook(self._count)
        self._wait()
        self._began = time.perf_counter()

    def stop(self) -> None:
        """Stop."""
        self._wait()
        self._result["seconds"] = time.perf_counter() - self._began
        self._hook.remove()
        self._result |= {"tokens": self._tokens, "peak_mb": peak_mb(self._device)}

    def result(self, **further: Any) -> Result:
        """The measured values, and further values of the same run."""
        return self._result | further

    def _count(self, _: Any, inputs: tuple[Any, ...]) -> None:
        self._tokens += inputs[0].numel()

    def _wait(self) -> None:
        import torch

        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def peak_mb(device: torch.device) -> float:
    """Peak memory so far, in MB: a GPU's allocations, or this process's resident set."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resident_mb(resource.getrusage(resource.RUSAGE_SELF))


def resident_mb(usage: resource.struct_rusage) -> float:
    """The largest resident set of a resource usage, in MB."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def main(request: str, answer: str, pipe: str) -> int:
    """What the fresh process does; `pipe` is the number of an open file, see `_run_to_the_end`."""
    _die_with(int(pipe))
    job = json.loads(Path(request).read_text("utf-8"))
    module, _, name = job["function"].partition(":")
    try:
        result = getattr(import_module(module), name)(**job["arguments"])
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    Path(answer).write_text(json.dumps(result), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
