"""Sharded prediction: throughput and memory with one and two workers, beside two plain processes; and with kills.

The dialogues are synthetic (lines of the sample corpus in random order) and the model is random and tiny, so what is
measured is everything around the model: reading, prompts, packing, writing, and Ray. Times are of whole commands, and
of the part after the first shard, when the workers have started.

Input: a number of dialogues. Output: a Markdown table.
Does not depend on: what is answered; `tests/recipes/test_predict_sharded.py` compares that with `predict`.

    python -m benchmarks.sharded --dialogues 20000
    python -m benchmarks.sharded --dialogues 20000 --kills 2    # kills a worker and the driver twice each, then checks
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.outcome import CannotDo, exit_code
from benchmarks.random_llama import Shape, write_base

HEADER = (
    "| | seconds | lines/s | after the first shard: lines/s | MB, first half | MB, second half |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: |"
)
_FILES, _SHARD = 4, 256
_TINY = Shape(hidden=32, inner=64, layers=1, heads=2, vocabulary=4000, file_gb=0.01)
_WORKER = b"_RayWorker"  # in the name of a worker's process


class Measured(NamedTuple):
    """One prediction.

    Attributes:
        seconds: Of the whole command.
        lines: Number of lines.
        steady: Lines per second after the first shard; None where there are no shards.
        memory: Largest resident memory of all its labelling processes together, in MB, in each half of the time.
    """

    seconds: float
    lines: int
    steady: float | None
    memory: tuple[float, float]


def write_input(folder: Path, dialogues: int) -> int:
    """Write synthetic dialogues as JSONL files; returns the number of lines."""
    from erc_llm.corpus import read_sample

    said = [u for d in read_sample().dialogues() for u in d.utterances if u.text.strip()]
    draw = random.Random(0)
    folder.mkdir()
    lines = 0
    for file in range(_FILES):
        with open(folder / f"talks-{file}.jsonl", "w", encoding="utf-8") as opened:
            for number in range(file * dialogues // _FILES, (file + 1) * dialogues // _FILES):
                scene = [draw.choice(said) for _ in range(draw.randint(5, 15))]
                utterances = [{"speaker": list(u.speakers), "text": u.text} for u in scene]
                opened.write(json.dumps({"id": f"talk-{number}", "utterances": utterances}) + "\n")
                lines += len(scene)
    return lines


def write_model(folder: Path) -> Path:
    """Write a tiny random model and a configuration that names it; returns the configuration."""
    from erc_llm.corpus import read_sample

    write_base(_TINY, folder / "base", [u.text for d in read_sample().dialogues() for u in d.utterances])
    config = folder / "tiny.yaml"
    base = f"model: {{base: {folder / 'base'}, device: cpu, precision: fp32}}\n"
    config.write_text(base + "prompt: {template: plain}\n", "utf-8")
    return config


def predict_command(config: Path, source: str, out: Path, workers: int | None) -> list[str]:
    """`erc-llm predict`, with so many workers of Ray, or without Ray."""
    command = [sys.executable, "-m", "erc_llm", "predict", str(config), source, "--out", str(out), "--without-text"]
    if workers is None:
        return [*command, "--split", "all"]
    return [*command, "--engine", "ray", "--workers", str(workers), "--shard-dialogues", str(_SHARD)]


def measure(commands: Sequence[Sequence[str]], lines: int, out: Path | None) -> Measured:
    """Run commands side by side.

    Args:
        commands: The commands, each on one thread.
        lines: Lines that they label together.
        out: Folder of a sharded prediction; None for others.

    Raises:
        CannotDo: One of them failed.
    """
    began = time.monotonic()
    environment = os.environ | ({} if out else {"OMP_NUM_THREADS": "1"})
    running = [subprocess.Popen(c, stdout=subprocess.DEVNULL, env=environment) for c in commands]
    with sampled_memory([process.pid for process in running], out is not None) as samples:
        codes = [process.wait() for process in running]
    seconds = time.monotonic() - began
    if any(codes):
        raise CannotDo(f"`{' '.join(commands[0][2:])}` ended with {codes}")
    half = began + seconds / 2
    halves = [max((mb for at, mb in samples if (at < half) == first), default=0.0) for first in (True, False)]
    return Measured(seconds, lines, None if out is None else _steady(out), (halves[0], halves[1]))


def _steady(out: Path) -> float:
    """Lines per second after the first shard, which the times of the files tell."""
    from erc_llm.predictions import read_predictions

    parts = sorted(out.glob("part-*.parquet"), key=lambda part: part.stat().st_mtime)
    times = [part.stat().st_mtime for part in parts]
    rows = len(read_predictions(out)) - len(read_predictions(parts[0]))
    return rows / (times[-1] - times[0])


@contextmanager
def sampled_memory(roots: Sequence[int], workers_only: bool) -> Iterator[list[tuple[float, float]]]:
    """(time, MB) of the processes that label, once a second while the block runs."""
    samples: list[tuple[float, float]] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(1):
            processes = [p for root in roots for p in workers_of(root)] if workers_only else list(roots)
            samples.append((time.monotonic(), sum(map(_resident_mb, processes))))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def workers_of(driver: int) -> list[int]:
    """Processes of Ray that label shards, of one driver."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if _WORKER in (path / "cmdline").read_bytes() and driver in _ancestors(int(path.name)):
                found.append(int(path.name))
        except OSError:  # it has ended
            continue
    return found


def _ancestors(process: int) -> list[int]:
    found = []
    while process > 1:
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        found.append(process)
    return found


def _resident_mb(process: int) -> float:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def row(name: str, found: Measured) -> str:
    """A row of the table."""
    steady = "" if found.steady is None else f"{found.steady:,.0f}"
    first, second = found.memory
    return (
        f"| {name} | {found.seconds:.0f} | {found.lines / found.seconds:,.0f} | {steady} | {first:.0f} | {second:.0f} |"
    )


def compare(config: Path, talks: Path, folder: Path, lines: int) -> None:
    """Print the table of one and two workers and two plain processes."""
    print(HEADER)
    for workers in (1, 2):
        out = folder / f"workers-{workers}"
        command = predict_command(config, str(talks), out, workers)
        print(row(f"Ray, {workers} worker{'s' * (workers > 1)}", measure([command], lines, out)), flush=True)
    halves = []
    for half in range(2):
        joined = folder / f"half-{half}.jsonl"
        parts = sorted(talks.glob("*.jsonl"))[half * _FILES // 2 : (half + 1) * _FILES // 2]
        joined.write_text("".join(part.read_text("utf-8") for part in parts), "utf-8")
        halves.append(predict_command(config, str(joined), folder / f"half-{half}.parquet", None))
    print(row("two processes of `predict`, on halves", measure(halves, lines, None)), flush=True)


def kill_and_resume(config: Path, talks: Path, folder: Path, kills: int) -> None:
    """Kill a worker and the driver so often, at random times, finish, and compare with `predict`."""
    out, draw = folder / "killed", random.Random(1)
    command = predict_command(config, str(talks), out, 2)
    journal = out / "shards.jsonl"

    def finished() -> int:
        return max(len(journal.read_text("utf-8").splitlines()) - 1, 0) if journal.exists() else 0

    def wait_for(more: int, driver: subprocess.Popen[bytes]) -> None:
        wanted = finished() + more
        while finished() < wanted and driver.poll() is None:
            time.sleep(0.05)

    for _ in range(kills):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as driver:
            wait_for(draw.randint(1, 8), driver)
            os.kill(draw.choice(workers_of(driver.pid)), signal.SIGKILL)
            wait_for(draw.randint(2, 8), driver)
            driver.kill()
        print(f"killed a worker, then the driver after {finished()} shards", flush=True)
        time.sleep(5)  # Ray ends its processes when the driver is gone
    subprocess.run(command, check=True)
    whole = folder / "whole.jsonl"
    whole.write_text("".join(part.read_text("utf-8") for part in sorted(talks.glob("*.jsonl"))), "utf-8")
    subprocess.run(predict_command(config, str(whole), folder / "whole.parquet", None), check=True)
    print(_difference(out, folder / "whole.parquet"))


def _difference(sharded: Path, whole: Path) -> str:
    """How the tables of the same dialogues differ."""
    import numpy as np

    from erc_llm.predictions import read_predictions

    first, second = read_predictions(sharded), read_predictions(whole)
    assert first.probabilities is not None, "a scored table has them"
    assert second.probabilities is not None, "a scored table has them"
    largest = float(np.abs(first.probabilities - second.probabilities).max()) if first.keys == second.keys else np.nan
    others = sum(a != b for a, b in zip(first.predicted, second.predicted, strict=False))
    return (
        f"rows: {len(first):,} and {len(second):,}, the same keys in the same order: {first.keys == second.keys}; "
        f"largest difference of a probability {largest:.1e}; other answers: {others}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns exit code 3 if a prediction fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sharded", description=__doc__)
    parser.add_argument("--dialogues", type=int, default=20_000, help="synthetic dialogues; default: 20000")
    parser.add_argument("--kills", type=int, default=0, help="kill a worker and the driver so often instead")
    options = parser.parse_args(arguments)

    def work() -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            config, talks = write_model(folder), folder / "talks"
            lines = write_input(talks, options.dialogues)
            print(f"{options.dialogues:,} dialogues, {lines:,} lines; a shard has {_SHARD} dialogues\n")
            if options.kills:
                kill_and_resume(config, talks, folder, options.kills)
            else:
                compare(config, talks, folder, lines)

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
