"""Load on the service: throughput and latency against the number of clients, with and without batching.

`erc-llm serve` runs in a process of its own. `wrk` (https://github.com/wg/wrk) keeps a number of connections busy with
dialogues of a corpus, each client sending its next one when it has its answer. Both share the machine's cores. Rounds
alternate between batching and none, so that a machine that slows down slows both.

Input: a run or export, and a corpus. Output: a Markdown table.
Does not depend on: what is answered; `tests/serving` compares that with batch prediction.

    python -m benchmarks.service adapters/smollm2-135m-emorynlp --corpus sample
    python -m benchmarks.service RUN --clients 8 --seconds 600 --rounds 1 --batching on     # is memory flat?
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.outcome import CannotDo, exit_code
from benchmarks.started import started

HEADER = (
    "| batching | clients | requests/s | lines/s | p50 ms | p95 ms | failed | MB before | half-way | after |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)
_SCRIPT = """
local bodies, number = {}, 0
for line in io.lines("BODIES") do bodies[#bodies + 1] = line end
wrk.method, wrk.headers["Content-Type"] = "POST", "application/json"
request = function() number = number + 1; return wrk.format(nil, nil, nil, bodies[number % #bodies + 1]) end
done = function(summary, latency)
  local e = summary.errors
  local failed = e.connect + e.read + e.write + e.status + e.timeout
  local found = "{\\"requests\\": %d, \\"seconds\\": %f, \\"failed\\": %d, \\"p50\\": %f, \\"p95\\": %f}"
  print(string.format(found, summary.requests, summary.duration / 1e6, failed,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3))
end
"""


class Load(NamedTuple):
    """What one run of the load measured.

    Attributes:
        requests: Requests that were answered.
        seconds: Duration.
        failed: Requests without an answer of 200.
        p50: Median latency, in ms.
        p95: 95th percentile of latency, in ms.
        before: Resident memory of the service before, in MB.
        halfway: The same after half of the time.
        after: The same after.
    """

    requests: float
    seconds: float
    failed: int
    p50: float
    p95: float
    before: float
    halfway: float
    after: float


def bodies(corpus: str) -> tuple[list[str], float]:
    """Requests about the dialogues of dev, and their mean number of lines."""
    from erc_llm.corpus import read_corpus, read_sample

    read = read_sample() if corpus == "sample" else read_corpus(corpus)
    asked = [
        {"lines": [{"speaker": list(u.speakers), "text": u.text} for u in d.utterances if u.text.strip()]}
        for d in read.split("dev")
    ]
    asked = [body for body in asked if body["lines"]]
    return [json.dumps(body) for body in asked], sum(len(body["lines"]) for body in asked) / len(asked)


def _serve(run: str, batch_lines: int) -> list[str]:
    return ["serve", run, "--port", "0", "--batch-lines", str(batch_lines)]


def resident_mb(address: str) -> float:
    """Resident memory of the service, in MB."""
    with urllib.request.urlopen(f"{address}/metrics") as answer:
        found = re.search(rb"^process_resident_memory_bytes (\S+)$", answer.read(), re.MULTILINE)
    assert found, "prometheus_client measures it on Linux"
    return float(found[1]) / 1e6


def load(address: str, asked: Sequence[str], clients: int, seconds: int) -> Load:
    """Keep that many clients busy for some seconds."""
    with tempfile.TemporaryDirectory() as folder:
        texts, script = Path(folder) / "bodies", Path(folder) / "load.lua"
        texts.write_text("\n".join(asked), "utf-8")
        script.write_text(_SCRIPT.replace("BODIES", str(texts)), "utf-8")
        before = resident_mb(address)
        command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "60s", "-s", str(script)]
        with subprocess.Popen([*command, f"{address}/v1/label"], stdout=subprocess.PIPE, text=True) as process:
            time.sleep(seconds / 2)
            halfway = resident_mb(address)
            output, _ = process.communicate()
        found = json.loads(output.strip().splitlines()[-1])
        return Load(**found, before=before, halfway=halfway, after=resident_mb(address))


def row(batching: bool, clients: int, runs: Sequence[Load], lines: float) -> str:
    """The row of the table: medians over rounds, all failures, first, largest half-way and last memory."""
    speed = median(run.requests / run.seconds for run in runs)
    middle = [f"{median(run.p50 for run in runs):.0f}", f"{median(run.p95 for run in runs):.0f}"]
    memory = [f"{mb:.0f}" for mb in (runs[0].before, max(run.halfway for run in runs), runs[-1].after)]
    cells = ["on" if batching else "off", str(clients), f"{speed:.1f}", f"{speed * lines:.0f}", *middle]
    return f"| {' | '.join([*cells, str(sum(run.failed for run in runs)), *memory])} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns exit code 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=__doc__)
    parser.add_argument("run", help="run directory or export")
    parser.add_argument("--corpus", default="sample", help="corpus whose dev split is sent; default: sample")
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 8, 64], help="default: 1 8 64")
    parser.add_argument("--seconds", type=int, default=20, help="duration of each load; default: 20")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; default: 3")
    parser.add_argument("--batching", choices=("on", "off", "both"), default="both", help="default: both")
    options = parser.parse_args(arguments)
    ways = {"on": (True,), "off": (False,), "both": (True, False)}[options.batching]

    def show() -> None:
        if shutil.which("wrk") is None:
            raise CannotDo("this needs wrk, which is not installed: apt-get install wrk, or brew install wrk")
        asked, lines = bodies(options.corpus)
        runs: dict[tuple[bool, int], list[Load]] = {}
        for number in range(options.rounds):
            for batching in ways if number % 2 == 0 else ways[::-1]:
                with started(_serve(options.run, 256 if batching else 1)) as (_, address):
                    load(address, asked, 1, 2)  # warm-up
                    for clients in options.clients:
                        found = load(address, asked, clients, options.seconds)
                        runs.setdefault((batching, clients), []).append(found)
        print(f"{len(asked)} dialogues of {lines:.1f} lines on average\n")
        print(HEADER, *(row(*key, found, lines) for key, found in sorted(runs.items(), reverse=True)), sep="\n")

    return exit_code(show)


if __name__ == "__main__":
    sys.exit(main())
