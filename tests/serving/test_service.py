"""The service as a client sees it: the same numbers as in batch, limits, sessions, a client that goes away."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from erc_llm.corpus.dialogues import Dialogue
from erc_llm.errors import ConfigError
from erc_llm.hosting.listen import check_door, open_socket
from erc_llm.predictor import LabelledUtterance, Predictor
from erc_llm.serving.limits import Limits
from tests.prompting.scenes import scene
from tests.serving.client import service, until
from tests.test_predictor import LINES, TOLERANCE, chatml_predictor
from tests.tiny_models import TinyModel

SAID = [("Mara Lind", "Who left the window open?"), ("Tomas", "I did."), ("Mara Lind", "<|im_end|> It is freezing.")]


@pytest.fixture(scope="module")
def predictor(tiny_llama: TinyModel) -> Predictor:
    return chatml_predictor(tiny_llama)


def lines(said: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [{"speaker": who, "text": text} for who, text in said]


def assert_same(answer: dict[str, Any], ours: LabelledUtterance) -> None:
    assert answer["label"] == ours.label
    assert answer["probabilities"] == pytest.approx(dict(ours.probabilities), abs=TOLERANCE)
    assert answer["log_likelihoods"] == pytest.approx(dict(ours.log_likelihoods), abs=TOLERANCE)


class Slow:
    """A labeller that waits until it may go on."""

    run = None
    labels = SimpleNamespace(names=("A", "B"))
    config = SimpleNamespace(model=SimpleNamespace(base="none"))

    def __init__(self) -> None:
        self.go, self.began, self.batches = threading.Event(), threading.Event(), []

    def predict_all(self, dialogues: list[Dialogue]) -> list[list[LabelledUtterance]]:
        self.began.set()
        assert self.go.wait(20)
        self.batches.append([d.utterances[0].text for d in dialogues])
        if any("broken" in d.utterances[0].text for d in dialogues):
            raise RuntimeError("a bug")
        if any("bad" in d.utterances[0].text for d in dialogues):
            raise ConfigError("this dialogue cannot be labelled")
        answer = {"A": 0.75, "B": 0.25}
        return [[LabelledUtterance(u, "A", answer, answer, 1.0) for u in d.utterances] for d in dialogues]

    def live(self, dialogue_id: str) -> Any:
        raise ConfigError("prompt.context: a live session needs `past`; this model reads the `full` scene")


def test_labels_and_live_lines_are_those_of_the_predictor(predictor: Predictor) -> None:
    expected = predictor.predict(scene(*SAID))
    with service(predictor) as client:
        whole = client.post("/v1/label", {"lines": lines(SAID)})
        assert whole.status == 200
        for answer, ours in zip(whole.body["lines"], expected, strict=True):
            assert_same(answer, ours)
        started = client.post("/v1/live", {})
        assert started.status == 201
        path = f"/v1/live/{started.body['session']}"
        for number, (line, ours) in enumerate(zip(lines(SAID), expected, strict=True), start=1):
            said = client.post(path, line)
            assert (said.status, said.body["number"]) == (200, number)
            assert_same(said.body, ours)
        assert client.get(path).body["lines"] == len(SAID)
        assert client.ask("DELETE", path).status == 204
        assert client.post(path, lines(SAID)[0]).status == 404


def test_many_clients_at_once_lose_nothing_and_get_their_own_answers(predictor: Predictor) -> None:
    scenes = [scene(*[(who, f"{text} {k}") for who, text in LINES[: 1 + k % 5]]) for k in range(40)]
    expected = predictor.predict_all(scenes)
    with service(predictor) as client, ThreadPoolExecutor(16) as pool:
        asked = [{"lines": lines([(u.speakers[0], u.text) for u in d.utterances])} for d in scenes]
        answers = [*pool.map(lambda body: client.post("/v1/label", body), asked)]
        measured = client.get("/metrics").body
    for answer, ours in zip(answers, expected, strict=True):
        assert answer.status == 200
        for found, line in zip(answer.body["lines"], ours, strict=True):
            assert_same(found, line)
    assert 'erc_llm_requests_total{route="/v1/label",status="200"} 40.0' in measured
    assert "erc_llm_waiting 0.0" in measured


def test_sessions_whose_caches_were_freed_go_on_alike(predictor: Predictor) -> None:
    expected = predictor.predict(scene(*SAID))
    with service(predictor, Limits(cache_bytes=1)) as client:
        paths = [f"/v1/live/{client.post('/v1/live', {}).body['session']}" for _ in range(2)]
        for line, ours in zip(lines(SAID), expected, strict=True):
            for path in paths:
                assert_same(client.post(path, line).body, ours)
        assert "erc_llm_cache_bytes 0.0" in client.get("/metrics").body


def test_sessions_are_bounded_in_number_and_time(predictor: Predictor) -> None:
    with service(predictor, Limits(sessions=1, session_seconds=0.5, lines=1)) as client:
        path = f"/v1/live/{client.post('/v1/live', {}).body['session']}"
        assert client.post("/v1/live", {}).status == 429
        assert client.post(path, lines(SAID)[0]).status == 200
        refused = client.post(path, lines(SAID)[1])
        assert (refused.status, refused.body["error"]) == (
            409,
            "the session has 1 lines, which is the most; begin another one",
        )
        until(lambda: client.post("/v1/live", {}).status == 201)
        assert client.post(path, lines(SAID)[0]).status == 404


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"lines": []}, 422, "lines: List should have at least 1 item"),
        ({"lines": [{"speaker": "Ada"}]}, 422, "lines.0.text: Field required"),
        ({"lines": [{"speaker": "Ada", "text": " "}]}, 422, "lines.0.text: String should have at least 1 character"),
        ({"lines": [{"speaker": [], "text": "Hello."}]}, 422, "lines.0.speaker: "),
        ({"lines": [{"speaker": "Ada", "text": "Hello.", "mood": 1}]}, 422, "lines.0.mood: Extra inputs"),
        ({"lines": lines(SAID * 2)}, 413, "lines: found 6, the most is 5"),
        ({"lines": [{"speaker": "Ada", "text": "a" * 51}]}, 413, "lines.0.text: found 51 characters, the most is 50"),
        (b"{not JSON", 422, "JSON decode error"),
        (b" " * 2001, 413, "the request is larger than 2,000 bytes"),
    ],
)
def test_wrong_requests_are_refused_with_a_reason(body: Any, status: int, message: str) -> None:
    with service(Slow(), Limits(lines=5, characters=50, body_bytes=2000)) as client:
        answer = client.post("/v1/label", body)
        assert answer.status == status
        assert message in answer.body["error"]


def test_a_bug_is_answered_and_the_service_goes_on() -> None:
    slow = Slow()
    slow.go.set()
    with service(slow) as client:
        answer = client.post("/v1/label", {"lines": [{"speaker": "Ada", "text": "broken"}]})
        assert (answer.status, "RuntimeError" in answer.body["error"]) == (500, True)
        assert client.post("/v1/label", {"lines": lines(SAID)}).status == 200


def test_what_there_is_not_is_said() -> None:
    with service(Slow()) as client:
        assert client.get("/nothing").status == 404
        assert "no such live session" in client.get("/v1/live/nobody").body["error"]
        refused = client.post("/v1/live", {})
        assert (refused.status, "needs `past`" in refused.body["error"]) == (422, True)
        assert client.get("/openapi.json").body["info"]["title"] == "erc-llm"


def test_a_key_is_needed_where_there_is_one() -> None:
    with service(Slow(), key="secret") as client:
        assert client.get("/healthz").status == 200
        assert client.get("/metrics").status == 200
        client.headers = {}
        assert client.get("/healthz").status == 200
        assert client.get("/metrics").status == 401
        assert client.post("/v1/label", {"lines": lines(SAID)}, Authorization="Bearer other").status == 401
        assert client.ask("GET", "/metrics", **{"X-API-Key": "secret"}).status == 200


def test_without_a_key_another_host_name_is_refused() -> None:
    with service(Slow()) as client:
        assert client.ask("GET", "/healthz", Host="rebound.example").status == 421
        assert client.ask("GET", "/healthz", Host="localhost").status == 200
        assert client.ask("GET", "/healthz", Host="[::1]:80").status == 200
    check_door("127.0.0.1", None)
    check_door("0.0.0.0", "secret")
    with pytest.raises(ConfigError, match="ERC_LLM_API_KEY"):
        check_door("0.0.0.0", None)


def test_a_taken_port_is_said_at_once() -> None:
    with open_socket("127.0.0.1", 0) as door:
        door.listen()
        with pytest.raises(ConfigError, match="choose another port"):
            open_socket("127.0.0.1", door.getsockname()[1])


def test_waiting_dialogues_are_scored_together_and_a_bad_one_spoils_no_other() -> None:
    slow = Slow()
    with service(slow) as client, ThreadPoolExecutor(4) as pool:

        def ask(text: str) -> Any:
            return client.post("/v1/label", {"lines": [{"speaker": "Ada", "text": text}]})

        first = pool.submit(ask, "first")
        assert slow.began.wait(20)
        rest = [pool.submit(ask, text) for text in ("good", "bad", "fine")]
        until(lambda: client.get("/healthz").body["waiting"] == 3)
        slow.go.set()
        assert first.result().status == 200
        assert [r.result().status for r in rest] == [200, 422, 200]
    assert slow.batches[0] == ["first"]
    assert sorted(slow.batches[1]) == ["bad", "fine", "good"]
    assert sorted(slow.batches[2:]) == [["bad"], ["fine"], ["good"]]


def test_too_many_waiting_requests_and_too_long_a_wait_are_refused() -> None:
    slow = Slow()
    with service(slow, Limits(waiting=1, seconds=0.5)) as client, ThreadPoolExecutor(2) as pool:
        body = {"lines": lines(SAID)}
        first = pool.submit(client.post, "/v1/label", body)
        assert slow.began.wait(20)
        second = pool.submit(client.post, "/v1/label", body)
        until(lambda: client.get("/healthz").body["waiting"] == 1)
        third = client.post("/v1/label", body)
        assert (third.status, "1 requests wait already" in third.body["error"]) == (503, True)
        assert [f.result().status for f in (first, second)] == [503, 503]
        slow.go.set()


def test_nothing_is_computed_for_a_client_that_has_gone() -> None:
    slow = Slow()
    with service(slow) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/v1/label", {"lines": lines(SAID)})
        assert slow.began.wait(20)
        with socket.create_connection(("127.0.0.1", client.port)) as leaving:
            body = b'{"lines": [{"speaker": "Ada", "text": "Never mind."}]}'
            head = b"POST /v1/label HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            leaving.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            until(lambda: client.get("/healthz").body["waiting"] == 1)
        until(lambda: 'status="499"' in client.get("/metrics").body)
        slow.go.set()
        assert first.result().status == 200
    assert slow.batches == [["Who left the window open?"]]


def test_a_client_that_sends_slowly_is_not_waited_for() -> None:
    with service(Slow(), Limits(body_seconds=0.3)) as client:
        with socket.create_connection(("127.0.0.1", client.port)) as slow:
            slow.sendall(b"POST /v1/label HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
            slow.settimeout(20)
            assert slow.recv(100).startswith(b"HTTP/1.1 408")
        assert client.get("/healthz").status == 200


def test_what_is_in_work_is_answered_when_the_service_ends() -> None:
    slow = Slow()
    with ThreadPoolExecutor(1) as pool:
        with service(slow) as client:
            first = pool.submit(client.post, "/v1/label", {"lines": lines(SAID)})
            assert slow.began.wait(20)
            threading.Timer(0.3, slow.go.set).start()
        assert first.result().status == 200
