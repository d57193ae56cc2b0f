"""Runs, tables and logs for the page's tests, the page on a free port of loopback, and a client of it."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn

from erc_llm.calibration.record import Calibration, HeldOut, StoredDecision
from erc_llm.calibration.store import write_calibration
from erc_llm.corpus.labels import EMORYNLP
from erc_llm.hosting.listen import open_socket
from erc_llm.predictions import Decision
from erc_llm.predictor import Predictor, load
from erc_llm.runs.directory import read_run
from erc_llm.ui.app import Shown, create_app
from tests.serving.client import until
from tests.test_predictor import make_run
from tests.tiny_models import TinyModel

RULE = Decision("weighted_f1", "inductive", (0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 9.0), (0.0,) * 7, "ab" * 32)
_HELD_OUT = HeldOut(0.5, 0.4, 1.2, 0.1, 0.5)


class Answer(NamedTuple):
    status: int
    body: Any
    headers: dict[str, str]


class Client:
    """Sends requests to the page's server."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.address = f"http://127.0.0.1:{port}/"

    def get(self, path: str, **headers: str) -> Answer:
        return self._ask("GET", path, None, headers)

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        return self._ask("POST", path, json.dumps(body).encode(), headers)

    def _ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        found = {name.lower(): value for name, value in answer.getheaders()}
        is_json = "json" in found.get("content-type", "")
        return Answer(answer.status, json.loads(content) if is_json else content.decode(), found)


def calibrated_run(folder: Path, tiny: TinyModel) -> Path:
    """A run that answers by its decision rule, which never says Joyful; its calibration prefers Joyful."""
    make_run(folder, tiny)
    calibration = Calibration(
        labels=EMORYNLP.names,
        prior=None,
        kind="temperature",
        strength=1.0,
        temperature=2.0,
        offsets=(3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        fit_for="nll",
        decision_strength=None,
        targets=100,
        dialogues=10,
        folds=5,
        seed=1,
        table_sha256="ab" * 32,
        before=_HELD_OUT,
        after=_HELD_OUT,
        candidates=(),
        decision_candidates=(),
        decisions=(StoredDecision(RULE, _HELD_OUT),),
        decide="weighted_f1",
    )
    write_calibration(read_run(folder), calibration)
    return folder


def load_calibrated(source: str, beside: Predictor | None) -> Predictor:
    """Loads a predictor as `erc_llm.recipes.ui.loader` does."""
    calibrated = (Path(source) / "calibration.json").is_file()
    return load(source, calibration="run" if calibrated else "none", decide="probable", beside=beside)


def log_training(folder: Path, steps: int, epochs: int = 2, total: int = 100, finished: bool = False) -> Path:
    """A run directory in which this many steps of training are logged, with a selection score every ten."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(f"name: {folder.name}\ntraining:\n  epochs: {epochs}\n", "utf-8")
    (folder / "manifest.json").write_text(json.dumps({"status": "finished" if finished else "training"}), "utf-8")
    losses = [{"step": k, "epoch": epochs * k / total, "loss": 2 - k / total} for k in range(1, steps + 1)]
    scores = [{"step": k, "weighted_f1": k / 200, "best": True} for k in range(10, steps + 1, 10)]
    for name, records in (("training.jsonl", losses), ("selection.jsonl", scores)):
        (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    if finished:
        (folder / "report.html").write_text("<!doctype html><title>report</title><p>Finished.", "utf-8")
    return folder


@contextmanager
def page(shown: Shown, load: Any = load_calibrated) -> Iterator[Client]:
    """The page until the block ends."""
    with open_socket("127.0.0.1", 0) as door:
        config = uvicorn.Config(create_app(shown, load), log_level="critical", timeout_graceful_shutdown=10)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, daemon=True)
        thread.start()
        try:
            until(lambda: server.started)
            yield Client(door.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(20)
        assert not thread.is_alive()
