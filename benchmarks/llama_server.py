"""llama.cpp's own server as a peer: one prompt per utterance, constrained to the labels, with its prompt cache.

The model is written as GGUF in f16, and requests are those of `erc-llm predict --endpoint`.

Input: the workload. Output: the server's speed and its answers.
Does not depend on: how token trees are scored.

    pip install 'erc-llm[llamacpp]'
    python -m benchmarks scoring --corpus FOLDER --run RUN
"""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.commands import wait_for_server
from benchmarks.measure import Result, resident_mb

SLOTS = (1, 2, 4)  # tried numbers of simultaneous requests; each has a prompt cache of its own
CONTEXT = 4096  # tokens of a slot
_HOST = """
import sys, threading
import xllamacpp
model, port, slots, context, threads, *adapters = sys.argv[1:]
params = xllamacpp.CommonParams()
params.model.path, params.port, params.n_parallel = model, int(port), int(slots)
params.n_ctx, params.cpuparams.n_threads, params.endpoint_metrics = int(context), int(threads), True
params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path) for path in adapters]
server = xllamacpp.Server(params)
threading.Event().wait()
"""


def installed() -> bool:
    """Whether the server is installed."""
    return find_spec("xllamacpp") is not None


@contextmanager
def llama_server(
    model: Path, log: Path, *, adapter: Path | None = None, slots: int = 1, patience: float = 300
) -> Iterator[str]:
    """llama.cpp's server on a free port of loopback until the block ends; gives its address, without `/v1`.

    Args:
        model: A GGUF file.
        log: File for what it prints.
        adapter: A GGUF adapter on it.
        slots: Number of simultaneous requests.
        patience: Seconds within which it must be ready.

    Raises:
        UserError: The server did not start; the message contains the end of its log.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    numbers = [str(n) for n in (port, slots, slots * CONTEXT, os.cpu_count() or 1)]
    command = [sys.executable, "-c", _HOST, str(model), *numbers, *([] if adapter is None else [str(adapter)])]
    with open(log, "wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        wait_for_server("llama.cpp's server", f"http://127.0.0.1:{port}/health", process, log, patience)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def run(settings: Mapping[str, Any], scenes: int | None, slots: int) -> Result:
    """Ask the server about every utterance; its peak memory is that of the server's process."""
    from benchmarks.scoring import SPLIT
    from benchmarks.workload import open_workload

    work = open_workload(settings, SPLIT, scenes, "sdpa")
    with tempfile.TemporaryDirectory() as folder:
        file = _write_model(settings, work.config.model.base, Path(folder))
        with llama_server(file, Path(folder) / "server.log", slots=slots) as url:
            _ask(url, work.prompter, work.dialogues[:1], slots)
            before = tokens_read(url)
            began = time.perf_counter()
            labels = _ask(url, work.prompter, work.dialogues, slots)
            seconds = time.perf_counter() - began
            tokens = tokens_read(url) - before
    return {
        "seconds": seconds,
        "tokens": tokens,
        "utterances": len(labels),
        "answers": {"answers": [{"label": label} for label in labels]},
        "before_mb": 0.0,
        "peak_mb": resident_mb(resource.getrusage(resource.RUSAGE_CHILDREN)),
    }


def try_slots(settings: Mapping[str, Any], scenes: int | None) -> Result:
    """Utterances per second by number of slots, on a few scenes, and the fastest number."""
    speed = {}
    for slots in SLOTS:
        found = run(settings, min(scenes or 4, 4), slots)
        speed[slots] = found["utterances"] / found["seconds"]
    return {"best": max(speed, key=lambda slots: speed[slots]), "utterances_per_second": speed}


def tokens_read(url: str) -> int:
    """Number of tokens that the server's model has read so far; those from its prompt cache are not counted."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as page:
        lines = page.read().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("llamacpp:"))
    return sum(int(float(values[f"llamacpp:{name}_total"])) for name in ("prompt_tokens", "tokens_predicted"))


def _write_model(settings: Mapping[str, Any], base: str, folder: Path) -> Path:
    """The base model with the adapter of the run, if one is measured, as a GGUF file."""
    from erc_llm.export.gguf_model import write_gguf
    from erc_llm.export.lora import Lora, read_lora
    from erc_llm.models.loading import base_folder
    from erc_llm.runs.directory import read_run

    files, run = base_folder(base), settings.get("run")
    lora = Lora.none(files) if run is None else read_lora(read_run(Path(run)).adapter)
    write_gguf(files, lora, folder / "model.gguf", name="benchmark", stored="f16")
    return folder / "model.gguf"


def _ask(url: str, prompter: Any, dialogues: Any, slots: int) -> list[int | None]:
    """Index of the label of every target; None if the answer is no label."""
    from erc_llm.decoding.dialects import ServedResponse, dialect_of
    from erc_llm.models.endpoint import Endpoint
    from erc_llm.prompting.messages import prompt_texts

    endpoint = Endpoint(f"{url}/v1", "model", timeout=600, concurrency=slots)
    dialect = dialect_of(endpoint, prompter)
    requests = [dialect.request(prompt) for dialogue in dialogues for prompt in prompt_texts(prompter, dialogue)]
    found: list[int | None] = [None] * len(requests)

    index = {text.strip(): k for k, text in enumerate(prompter.answer_texts)}

    def keep(k: int, answer: ServedResponse) -> None:
        found[k] = index.get((answer.text or "").strip())

    endpoint.each(requests, dialect.read, keep)
    return found
