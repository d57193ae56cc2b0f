"""The service as a process: killed under load and started again, and a client that sends slowly meanwhile."""

from __future__ import annotations

import http.client
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from benchmarks.started import started
from tests.serving.client import Answer, Client, until
from tests.serving.test_service import SAID, lines
from tests.tiny_models import TinyModel

BODY = {"lines": lines(SAID)}


def _ask(client: Client) -> Answer | None:
    """An answer, or None if the connection broke."""
    try:
        return client.post("/v1/label", BODY)
    except (OSError, http.client.HTTPException):
        return None


@pytest.mark.slow
def test_a_killed_service_starts_again_at_once_and_answers_alike(tiny_llama: TinyModel, tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump({"model": {"base": str(tiny_llama.folder), "device": "cpu", "precision": "fp32"}}))
    with started(["serve", str(config), "--port", "0"]) as (process, address), ThreadPoolExecutor(8) as pool:
        client = Client(int(address.rpartition(":")[2]))
        before = client.post("/v1/label", BODY)
        session = client.post("/v1/live", {}).body["session"]
        asked = [pool.submit(_ask, client) for _ in range(200)]
        until(lambda: sum(a.done() for a in asked) > 20, 60)
        process.send_signal(signal.SIGKILL)
        process.wait()
        answers = [future.result() for future in asked]
    answered = [answer for answer in answers if answer is not None]
    assert 20 < len(answered) < len(answers), "the kill came in between"
    assert all(answer.status == 200 for answer in answered), "an answer is whole or there is none"
    with started(["serve", str(config), "--port", str(client.port)]):
        again = Client(client.port)
        assert again.post("/v1/label", BODY).body["lines"] == before.body["lines"]
        lost = again.get(f"/v1/live/{session}")
        assert (lost.status, "no such live session" in lost.body["error"]) == (404, True)
        with socket.create_connection(("127.0.0.1", again.port)) as slow:
            slow.sendall(b"POST /v1/label HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n{")
            with ThreadPoolExecutor(8) as others:
                found = [*others.map(lambda _: _ask(again), range(40))]
            assert [answer.status for answer in found if answer] == [200] * 40, "nobody waits for the slow one"
            slow.settimeout(30)
            assert b" 408 " in slow.recv(200).partition(b"\r\n")[0]
