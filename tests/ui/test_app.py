"""The page's server as a browser sees it: labels, prompts, tables, training runs, limits, and who is refused."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from erc_llm.corpus import read_sample
from erc_llm.errors import ConfigError, ModelError
from erc_llm.predictions import write_predictions
from erc_llm.predictor import Predictor
from erc_llm.ui.app import _FILES, Shown
from erc_llm.ui.conversations import dialogue_of
from erc_llm.ui.systems import System, Way, open_system
from tests.evaluation.compared_tables import table
from tests.evaluation.reported_tables import LINES as HOSTILE
from tests.evaluation.reported_tables import NAMES
from tests.serving.client import until
from tests.test_predictor import LINES, TOLERANCE
from tests.tiny_models import TinyModel
from tests.ui.pages import Client, calibrated_run, load_calibrated, log_training, page

STATIC = Path(__file__).parents[2] / "erc_llm" / "ui" / "static"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, tiny_llama: TinyModel) -> Shown:
    folder = tmp_path_factory.mktemp("shown")
    write_predictions(table(), folder / "dev.parquet")
    run = calibrated_run(folder / "run", tiny_llama)
    log_training(folder / "trained" / "a", steps=100, finished=True)
    systems = (open_system(str(run)), open_system(str(run), taken=["run"]))
    return Shown(systems, (read_sample(),), (folder / "dev.parquet",), (folder / "trained",))


def lines(said: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [{"speakers": [who], "text": text} for who, text in said]


def nothing(source: str, beside: Predictor | None) -> Predictor:
    raise ModelError("no model here; install it")


def silent() -> System:
    """A system whose model is never needed."""
    from erc_llm.predictions import Correction

    return System("nowhere", "nowhere", "no run", ("A", "B"), (Way("uncalibrated", "", Correction()),), "", False)


def test_what_there_is_to_choose_from(shown: Shown) -> None:
    with page(shown) as client:
        start = client.get("/api/start").body
    assert [system["name"] for system in start["systems"]] == ["run", "run (2)"]
    assert [way["name"] for way in start["systems"][0]["ways"]] == ["uncalibrated", "probable", "weighted_f1"]
    assert start["systems"][0]["usual"] == "weighted_f1"
    assert start["corpora"][0]["splits"]["dev"] == len(read_sample().split("dev"))
    assert start["tables"] == [str(shown.tables[0])]


def test_ten_people_type_at_once_and_get_the_labels_of_batch(shown: Shown) -> None:
    predictor = load_calibrated(shown.systems[0].source, None)
    names = predictor.labels.names

    def type_all(client: Client, number: int) -> list[dict[str, Any]]:
        said = [(f"{who} {number}", text) for who, text in LINES]
        for count in range(1, len(said) + 1):
            answer = client.post("/api/labels", {"system": 0, "lines": lines(said[:count])})
            assert answer.status == 200
        found: list[dict[str, Any]] = answer.body["lines"]
        return found

    with page(shown) as client, ThreadPoolExecutor(10) as pool:
        answers = [*pool.map(lambda number: type_all(client, number), range(10))]
    for number, found in enumerate(answers):
        whole = predictor.predict(dialogue_of(tuple(((f"{who} {number}",), text) for who, text in LINES)))
        for ours, line in zip(whole, found, strict=True):
            assert line["calibrated"] == pytest.approx([ours.probabilities[name] for name in names], abs=TOLERANCE)
            assert line["answers"]["probable"] == ours.label


def test_a_dialogue_is_opened_from_a_corpus_and_labelled_at_its_place(shown: Shown) -> None:
    dialogue = shown.corpora[0].split("dev")[2]
    with page(shown) as client:
        found = client.get(f"/api/corpora/0/dialogues?split=dev&contains={dialogue.id[-6:].upper()}").body
        assert [dialogue.id, len(dialogue.utterances)] in found["dialogues"]
        assert client.get("/api/corpora/0/dialogues?split=none").status == 422
        opened = client.post("/api/dialogue", {"corpus": 0, "dialogue": dialogue.id}).body
        assert [line["gold"] for line in opened["lines"]] == [u.label for u in dialogue.utterances]
        spoken = [{"speakers": line["speakers"], "text": line["text"]} for line in opened["lines"]]
        place = {"corpus": 0, "dialogue": dialogue.id}
        answer = client.post("/api/labels", {"system": 1, "lines": spoken, "place": place})
        assert len(answer.body["lines"]) == len(dialogue.utterances)
        missing = client.post("/api/dialogue", {"corpus": 0, "dialogue": "none"})
        assert (missing.status, "no dialogue 'none'" in missing.body["error"]) == (422, True)
        assert client.post("/api/dialogue", {"corpus": 7, "dialogue": dialogue.id}).status == 422


def test_hostile_names_and_lines_come_back_in_the_prompt_as_text(shown: Shown) -> None:
    said = [(NAMES[k % len(NAMES)], text) for k, text in enumerate(HOSTILE)]
    with page(shown) as client:
        answer = client.post("/api/labels", {"system": 0, "lines": lines(said)})
        assert (answer.status, len(answer.body["lines"])) == (200, len(said))
        prompt = client.post("/api/prompt", {"system": 0, "lines": lines(said), "position": 1})
        assert "</td></tr></table>" in "".join(piece["text"] for piece in prompt.body["pieces"])
        assert prompt.headers["content-type"] == "application/json"
        assert client.post("/api/prompt", {"system": 0, "lines": lines(said), "position": 99}).status == 422


def test_errors_of_a_table_are_found_and_shown_in_their_scene(shown: Shown) -> None:
    with page(shown) as client:
        about = client.get("/api/tables/0").body
        rows = client.get("/api/tables/0/rows?gold=Neutral&answer=Joyful&count=3&offset=1").body
        assert len(rows["rows"]) == min(3, rows["found"] - 1) > 0
        assert {(row["line"]["gold"], row["line"]["answer"]) for row in rows["rows"]} == {("Neutral", "Joyful")}
        assert rows["found"] < about["wrong"] < about["rows"]
        chosen = rows["rows"][0]
        scene = client.get(f"/api/tables/0/scenes/{chosen['row']}").body
        assert chosen in scene["lines"]
        assert client.get("/api/tables/0/scenes/9999").status == 422
        assert client.get("/api/tables/5").status == 422
        assert client.get("/api/tables/0/rows?least=2").status == 422


def test_a_training_run_and_its_report_are_shown(shown: Shown) -> None:
    with page(shown) as client:
        (run,) = client.get("/api/training").body["runs"]
        assert (run["name"], run["state"], run["step"]) == ("trained/a", "finished", 100)
        curves = client.get(f"/api/training/{run['id']}").body
        assert (len(curves["loss"]), len(curves["scores"])) == (100, 10)
        report = client.get(f"/reports/{run['id']}")
        assert report.body.endswith("Finished.")
        assert "sandbox" in report.headers["content-security-policy"]
        assert client.get("/reports/..%2f..%2fetc").status in (404, 422)


def test_only_this_machine_and_this_page_are_answered() -> None:
    with page(Shown()) as client:
        assert client.get("/api/start", Host="rebound.example").status == 421
        assert client.get("/api/start", Origin="http://evil.example").status == 403
        assert client.get("/api/start", Origin=client.address[:-1]).status == 200


def test_the_page_loads_nothing_from_elsewhere_and_runs_no_script_but_its_own() -> None:
    assert {path.name for path in STATIC.iterdir()} == _FILES | {"index.html"}
    with page(Shown()) as client:
        html = client.get("/")
        policy = html.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        linked = re.findall(r'(?:src|href)="([^"#]+)"', html.body)
        local = [link for link in linked if not link.startswith("data:")]
        assert all(client.get(link).status == 200 for link in local)
        for name in _FILES:
            found = client.get(f"/static/{name}")
            assert (found.status, found.headers["x-content-type-options"]) == (200, "nosniff")
            outside = re.findall(r"https?://[^\s\"']+", found.body)
            assert set(outside) <= {"http://www.w3.org/2000/svg"}
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", found.body)
        assert client.get("/static/../app.py").status == 404
        assert client.get("/static/index.html").status == 404
        assert client.get("/docs").status == 404


def test_a_model_that_cannot_be_loaded_is_said_and_asked_for_again() -> None:
    with page(Shown((silent(),)), nothing) as client:
        for _ in range(2):
            answer = client.post("/api/labels", {"system": 0, "lines": lines([("Ann", "Hello.")])})
            assert (answer.status, answer.body["error"]) == (422, "no model here; install it")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"system": 3, "lines": lines([("Ann", "Hello.")])}, "system 3: found 1 systems"),
        ({"system": 0, "lines": []}, "lines: List should have at least 1 item"),
        ({"system": 0, "lines": lines([(" ", "Hello.")])}, "lines.0.speakers.0: String should have at least 1"),
        ({"system": 0, "lines": lines([("Ann", "a" * 200_001)])}, "lines.0.text: String should have at most 200000"),
        ({"system": 0, "lines": lines([("Ann", "Hello.")] * 501)}, "lines: List should have at most 500 items"),
    ],
)
def test_wrong_questions_are_answered_with_a_reason(body: Any, message: str) -> None:
    with page(Shown((silent(),)), nothing) as client:
        answer = client.post("/api/labels", body)
        assert answer.status == 422
        assert message in answer.body["error"]


def test_a_bug_is_answered_and_the_page_goes_on(shown: Shown) -> None:
    def broken(source: str, beside: Predictor | None) -> Predictor:
        raise RuntimeError("a bug")

    with page(replace(shown, tables=()), broken) as client:
        answer = client.post("/api/labels", {"system": 0, "lines": lines([("Ann", "Hello.")])})
        assert (answer.status, "internal error: RuntimeError: a bug" in answer.body["error"]) == (500, True)
        assert client.get("/api/start").status == 200


def test_too_many_waiting_questions_are_refused() -> None:
    go, begun = threading.Event(), threading.Event()

    def slow(source: str, beside: Predictor | None) -> Predictor:
        begun.set()
        assert go.wait(30)
        raise ConfigError("slow")

    with page(Shown((silent(),)), slow) as client, ThreadPoolExecutor(70) as pool:
        assert begun.wait(20)
        body = {"system": 0, "lines": lines([("Ann", "Hello.")])}
        asked = [pool.submit(client.post, "/api/labels", body) for _ in range(66)]
        until(lambda: sum(future.done() for future in asked) == 2)
        assert {future.result().status for future in asked if future.done()} == {503}
        go.set()
        assert sorted(future.result().status for future in asked) == [422] * 64 + [503] * 2
