"""Times of the page's server: a new line in a scene of 20, a table of 10,000 rows, ten people at once.

`erc-llm ui` runs in a process of its own, and is asked as the page asks it. Times end when the answer is there; drawing
it takes a browser some milliseconds more. Processor time is that of the server's process, all threads together.

Input: a run, an export or a configuration. Output: a Markdown table.
Does not depend on: what is answered; `tests/ui` compares that with batch prediction.

    python -m benchmarks.ui_latency adapters/smollm2-135m-emorynlp
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.outcome import CannotDo, exit_code
from benchmarks.started import started

HEADER = "| what | times | median ms | smallest | largest | processor |\n| --- | ---: | ---: | ---: | ---: | ---: |"
SCENE, NEW, SCENES, PEOPLE, EACH, ROWS = 20, 10, 5, 10, 10, 10_000

Spoken = list[dict[str, Any]]


class Server(NamedTuple):
    """A page's server: its port and its process."""

    port: int
    pid: int

    def ask(self, path: str, body: Any = None) -> tuple[float, Any]:
        """Seconds until the answer, and the answer.

        Raises:
            CannotDo: The server refused.
        """
        began = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            sent = None if body is None else json.dumps(body)
            connection.request("GET" if body is None else "POST", path, sent, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = json.loads(answer.read())
        finally:
            connection.close()
        if answer.status != 200:
            raise CannotDo(f"{path}: {content['error']}")
        return time.perf_counter() - began, content

    def label(self, lines: Spoken) -> float:
        """Seconds until the labels of a conversation are there."""
        return self.ask("/api/labels", {"system": 0, "lines": lines})[0]

    @property
    def processor_seconds(self) -> float:
        """Processor time of the server so far; NaN where the system does not tell."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return float("nan")
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def served(run: str, table: Path) -> Iterator[Server]:
    """The page's server, with its model loaded, while the block runs.

    Raises:
        CannotDo: It did not start.
    """
    with started(["ui", run, "--port", "0", "--table", str(table)]) as found:
        server = Server(found.port, found.process.pid)
        server.label(scene(0, 2))
        yield server


def scene(number: int, lines: int) -> Spoken:
    """A made-up conversation of that many lines, different for each number."""
    said = (
        "I got the job, can you believe it?",
        "Great. And who pays the rent until then?",
        "Why do you always do this?",
    )
    return [
        {
            "speakers": [f"{('Mara', 'Tomas', 'Ines')[k % 3]} {number}"],
            "text": f"{said[k % 3]} That is what I said {k}.",
        }
        for k in range(lines)
    ]


def write_table(path: Path) -> None:
    """A predictions table of 10,000 rows."""
    import numpy as np

    from erc_llm.corpus import EMORYNLP
    from erc_llm.predictions import Predictions, PredictionsInfo, write_predictions

    draw, names = np.random.default_rng(1), EMORYNLP.names
    probabilities = draw.dirichlet(np.ones(7), size=ROWS)
    columns: dict[str, Any] = {
        "dialogue_id": [f"d{i // 12}" for i in range(ROWS)],
        "utterance_id": [str(i) for i in range(ROWS)],
        "position": [i % 12 for i in range(ROWS)],
        "speakers": [[f"Speaker {i % 40}"] for i in range(ROWS)],
        "text": [f"Line {i} of a table, about as long as lines are in a series." for i in range(ROWS)],
        "gold": [names[i] for i in draw.integers(7, size=ROWS)],
        "predicted": [names[i] for i in probabilities.argmax(axis=1)],
        "probabilities": probabilities,
    }
    info = PredictionsInfo(
        system="random",
        labels=names,
        corpus_sha256="0" * 64,
        corpus_name="made up",
        corpus_version="own",
        split="dev",
        selection=None,
        context="past",
        invalid_policy="an invalid answer counts as wrong",
    )
    write_predictions(Predictions.from_columns(info, columns), path)


def new_lines(server: Server) -> tuple[list[float], list[float], float]:
    """Seconds of the first new line after pasting a scene, and of each line after that one; processor time of those."""
    first, after, processor = [], [], 0.0
    for number in range(1, SCENES + 1):
        lines = scene(number, SCENE + NEW)
        server.label(lines[: SCENE - 1])
        first.append(server.label(lines[:SCENE]))
        processor -= server.processor_seconds
        after += [server.label(lines[:count]) for count in range(SCENE + 1, SCENE + NEW + 1)]
        processor += server.processor_seconds
    return first, after, processor


def tables(server: Server, path: Path) -> list[float]:
    """Seconds to open a table and show its most confident errors: fresh from disk each time."""
    found = []
    for number in range(10):
        os.utime(path, ns=(number, number))
        found.append(server.ask("/api/tables/0")[0] + server.ask("/api/tables/0/rows?count=25")[0])
    return found


def crowd(server: Server) -> list[float]:
    """Seconds of each line while ten people type at once, a conversation of ten lines each."""

    def type_all(number: int) -> list[float]:
        lines = scene(100 + number, EACH)
        return [server.label(lines[:count]) for count in range(1, EACH + 1)]

    with ThreadPoolExecutor(PEOPLE) as pool:
        return [seconds for found in pool.map(type_all, range(PEOPLE)) for seconds in found]


def row(what: str, seconds: Sequence[float], processor: float | None = None) -> str:
    """A row of the table: median, smallest, largest and, if known, mean processor time, in ms."""
    times = [f"{1000 * value:.0f}" for value in (median(seconds), min(seconds), max(seconds))]
    own = "" if processor is None else f"{1000 * processor / len(seconds):.0f}"
    return f"| {what} | {' | '.join([str(len(seconds)), *times, own])} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns exit code 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ui_latency", description=__doc__)
    parser.add_argument("run", help="run directory, export or configuration")
    options = parser.parse_args(arguments)

    def show() -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "dev.parquet"
            write_table(path)
            with served(options.run, path) as server:
                first, after, lines = new_lines(server)
                before = server.processor_seconds
                opened = tables(server, path)
                between = server.processor_seconds
                typed = crowd(server)
                people = server.processor_seconds - between
        busy = os.getloadavg()[0]
        print(f"load of the machine: {busy:.1f} on {os.cpu_count()} cores (1 to 2 is this benchmark alone)\n")
        print(HEADER)
        print(row(f"a new line in a scene of {SCENE} to {SCENE + NEW} lines", after, lines))
        print(row(f"the first line after pasting {SCENE - 1}", first))
        print(row(f"a table of {ROWS:,} rows, opened", opened, between - before))
        print(row(f"a new line while {PEOPLE} people type, {EACH} lines each", typed, people))

    return exit_code(show)


if __name__ == "__main__":
    sys.exit(main())
