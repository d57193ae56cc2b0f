"""A bad server is one clear message; rubbish in passing costs nothing."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from erc_llm.config import RunConfig
from erc_llm.corpus import Corpus
from erc_llm.errors import ModelError
from erc_llm.runs.journal import Journal
from tests.loopback import serving_on
from tests.model_server import Reply, Server, said
from tests.recipes.predict_served.asking import TARGETS, ask, by_prompt, is_about


@pytest.mark.parametrize(
    "reply",
    [
        (500, "{}"),
        (429, "{}"),
        (404, "{}"),
        (200, "<html>Bad gateway</html>"),
        (200, ""),
        (200, "{"),
        (200, "[]"),
        (200, '{"error": "no"}'),
        (200, '{"choices": []}'),
        (200, '{"choices": [{"message": {"content": null}}]}'),
        (200, '{"choices": [{"message": {"content": {"label": "Sad"}}}]}'),
    ],
    ids=str,
)
def test_rubbish_is_asked_again_and_then_one_clear_message(
    server: Server, config: RunConfig, corpus: Corpus, tmp_path: Path, reply: Reply
) -> None:
    server.reply = lambda *_: reply
    with pytest.raises(ModelError, match=r"no usable answer from model 'm'.*is kept") as caught:
        ask(server, config, corpus, tmp_path / "j", retries=0)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "j").exists()


def test_a_target_that_the_server_never_says_a_word_about_is_one_invalid_answer(
    server: Server, config: RunConfig, corpus: Corpus, tmp_path: Path
) -> None:
    silent = {"choices": [{"index": 0, "finish_reason": "content_filter", "message": {"content": None}}]}
    server.reply = lambda request, number: (200, json.dumps(silent)) if number == 4 else said("Sad")
    table = ask(server, config, corpus, tmp_path / "j")
    assert table.invalid is not None
    assert (int(table.invalid.sum()), table.predicted.count("Sad")) == (1, TARGETS - 1)
    assert (table.raw_answer or ()).count("") == 1
    assert len(server.requests) == TARGETS


def test_the_message_names_whom_the_server_refuses(
    server: Server, config: RunConfig, corpus: Corpus, tmp_path: Path
) -> None:
    dialogue = corpus.split("dev")[1]
    line = dialogue.utterances[2]

    def reply(request: dict[str, Any], _: int) -> Reply:
        user = request["messages"][-1]["content"]
        return (422, "<html>no such words") if is_about(user, dialogue, 2) else by_prompt(request, 0)

    server.reply = reply
    with pytest.raises(ModelError) as caught:
        ask(server, config, corpus, tmp_path / "j")
    said_of_it = (
        f"about dialogue {dialogue.id}, utterance {line.id}: status 422, HTML and not JSON: <html>no such words;"
    )
    assert said_of_it in str(caught.value)


@pytest.mark.parametrize("reply", [(500, "{}"), (429, "{}"), (200, "<html>"), (200, "{"), (200, '{"choices": [{}]}')])
def test_rubbish_in_passing_costs_nothing(
    server: Server, config: RunConfig, corpus: Corpus, tmp_path: Path, reply: Reply
) -> None:
    server.reply = lambda request, number: reply if number in (1, 4) else by_prompt(request, number)
    table = ask(server, config, corpus, tmp_path / "j", retries=2)
    assert table.invalid is not None
    assert not table.invalid.any()
    assert len(server.requests) == TARGETS + 2


def test_a_server_that_hangs_is_given_up(server: Server, config: RunConfig, corpus: Corpus, tmp_path: Path) -> None:
    def reply(request: dict[str, Any], number: int) -> Reply:
        time.sleep(0 if number <= 3 else 3)
        return by_prompt(request, number)

    server.reply = reply
    with pytest.raises(ModelError, match="Timeout"):
        ask(server, config, corpus, tmp_path / "j", timeout=1)
    assert 3 <= len(Journal(tmp_path / "j")) < TARGETS


@pytest.mark.parametrize("head", [[], ["HTTP/1.1 200 OK", "Content-Type: application/json", "Content-Length: 500"]])
def test_a_connection_that_closes_in_the_middle(
    server: Server, config: RunConfig, corpus: Corpus, tmp_path: Path, head: list[str]
) -> None:
    server.answer_raw(*head, body='{"choices": [{"message": {"content": "Sa')
    with pytest.raises(ModelError, match="is kept"):
        ask(server, config, corpus, tmp_path / "j")


def test_a_redirect_takes_no_text_to_another_machine(
    server: Server, config: RunConfig, corpus: Corpus, tmp_path: Path
) -> None:
    elsewhere = Server()
    with serving_on(elsewhere.http):
        place = f"Location: {elsewhere.url}/chat/completions"
        server.answer_raw("HTTP/1.1 307 There", place, "Content-Length: 0")
        with pytest.raises(ModelError):
            ask(server, config, corpus, tmp_path / "j")
    assert elsewhere.requests == elsewhere.looked == []
