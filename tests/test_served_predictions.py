"""A served model's predictions: every answer becomes a row, a broken run goes on, a bad server is one clear message."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from erc_llm.config import RunConfig
from erc_llm.corpus import Corpus, read_corpus
from erc_llm.corpus.labels import EMORYNLP
from erc_llm.decoding.spelling import spelled_label
from erc_llm.endpoints import Endpoint
from erc_llm.errors import ModelError, RunError
from erc_llm.journal import Journal
from erc_llm.predictions import Predictions, read_predictions, write_predictions
from erc_llm.predictor import load
from erc_llm.served_predictions import ServedModel, open_served, predict_served, unheld
from tests.command_line import Command
from tests.model_server import Reply, Server, offered_by, said, serving, wrote
from tests.scoring_server import scoring_like_vllm
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus

ROOT = Path(__file__).parent.parent
TARGETS = 2 + 3 + 4  # of dev


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    with serving(found.http):
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("served") / "corpus")


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Corpus:
    return read_corpus(folder)


@pytest.fixture
def config(tiny_llama: TinyModel, folder: Path, tmp_path: Path) -> RunConfig:
    return tiny_config(tiny_llama, folder, tmp_path / "runs")


def open_model(server: Server, config: RunConfig, **options: Any) -> ServedModel:
    endpoint = Endpoint(server.url, "m", retries=options.pop("retries", 0), timeout=options.pop("timeout", 5))
    return open_served(config, endpoint, **options)


def ask(server: Server, config: RunConfig, corpus: Corpus, journal: Path, **options: Any) -> Predictions:
    return predict_served(open_model(server, config, **options), corpus, "dev", Journal(journal))


def word_of(request: dict[str, Any]) -> str:
    """A label that depends on the whole prompt, so that a mixed-up row would show."""
    text = json.dumps(request.get("messages", request.get("prompt")), sort_keys=True)
    return EMORYNLP.names[sum(text.encode()) % 7]


def by_prompt(request: dict[str, Any], _: int) -> Reply:
    return said(word_of(request))


def refused(done: tuple[int, str, str], *parts: str) -> None:
    """Exit code 2, and one line on stderr that says all parts."""
    code, out, err = done
    assert (code, err.count("\n")) == (2, 1), done
    assert "Traceback" not in out + err
    assert all(part in err for part in parts), err


# Rows.


def test_every_target_is_asked_about_once_and_has_its_own_row(
    server: Server, config: RunConfig, corpus: Corpus, tmp_path: Path
) -> None:
    server.reply = by_prompt
    steps: list[tuple[int, int]] = []
    model = open_model(server, config)
    table = predict_served(
        model, corpus, "dev", Journal(tmp_path / "j"), on_progress=lambda n, of: steps.append((n, of))
    )
    asked = {request["messages"][-1]["content"]: word_of(request) for request in server.requests}
    assert len(asked) == len(server.requests) == len(table) == TARGETS
    expected = [
        word for d in corpus.split("dev") for k in d.targets for user, word in asked.items() if _is_about(user, d, k)
    ]
    assert list(table.predicted) == list(table.raw_answer or ()) == expected
    assert steps == [(n, TARGETS) for n in range(TARGETS + 1)]
    assert table.log_likelihoods is None
    assert table.gold == tuple(u.label for d in corpus.split("dev") for u in d.utterances)


def _is_about(user: str, dialogue: Any, k: int) -> bool:
    lines = user.splitlines()
    said_before = zip(dialogue.utterances[: k + 1], lines, strict=False)
    return len(lines) == k + 2 and all(u.text in line for u, line in said_before)


@pytest.mark.parametrize(
    "text",
    [
        "Sad",
        " sad.\n",
        "Answer: unhappy",
        "**Mad**",
        "",
        "  ",
        "<html><body>502</body></html>",
        "Sad or Mad",
        "Sadd",
        "The speaker is sad",
        '{"emotion": "Sad"}',
        "Sad 😢",
    ],
)
def test_an_answer_is_a_label_only_by_its_spelling(
    server: Server, config: RunConfig, corpus: Corpus, tmp_path: Path, text: str
) -> None:
    server.reply = lambda *_: said(text)
    table = ask(server, config, corpus, tmp_path / "j")
    label = spelled_label(text, EMORYNLP)
    assert set(table.predicted) == {label}
    assert table.invalid is not None
    assert table.invalid.tolist() == [label is None] * TARGETS
    assert set(table.raw_answer or ()) == {text}
    assert table.missing
    write_predictions(table, tmp_path / "t.parquet")
    assert read_predictions(tmp_path / "t.parquet").raw_answer == table.raw_answer


def test_the_table_says_who_answered_and_how_and_nothing_secret(
    server: Server, config: RunConfig, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERC_LLM_API_KEY", "very-secret")
    server.reply = by_prompt
    model = open_model(server, config)
    journal = Journal(tmp_path / "j")
    table = predict_served(model, corpus, "dev", journal)
    info = table.info
    assert (info.system, info.base_model, info.decoding) == ("m, served", "m, served", "free text")
    assert (info.context, info.template_sha256) == ("past", model.prompter.template.sha256)
    assert (info.base_model_sha256, info.run_id, info.split) == (None, None, "dev")
    written = json.dumps(info.as_dict()) + journal.path.read_text()
    assert "very-secret" not in written
    assert str(server.http.server_port) not in written


def test_a_folder_given_as_the_models_name_is_not_spread(
    server: Server, config: RunConfig, corpus: Corpus, tmp_path: Path
) -> None:
    server.reply = by_prompt
    model = open_served(config, Endpoint(server.url, "/home/ada/models/tiny-7b", retries=0))
    table = predict_served(model, corpus, "dev", Journal(tmp_path / "j"))
    assert server.requests[0]["model"] == "/home/ada/models/tiny-7b"
    assert table.info.system == "tiny-7b, served"


def test_a_run_directory_gives_its_own_prompt(
    server: Server, tiny_llama: TinyModel, folder: Path, corpus: Corpus, tmp_path: Path
) -> None:
    from rich.console import Console

    from erc_llm.training import train

    config = tiny_config(tiny_llama, folder, tmp_path, prompt={"template": "plain"}, training={"evaluations": 0})
    run = train(config, console=Console(quiet=True))
    server.reply = lambda *_: wrote(" sad)\nMara: Hm (Mara feels mad)")
    model = open_served(run.folder, Endpoint(server.url, "m", retries=0))
    table = predict_served(model, corpus, "dev", Journal(tmp_path / "j"))
    assert set(server.paths) == {"/v1/completions"}
    assert server.requests[0]["prompt"].startswith("A scene. After each line, ")
    assert (set(table.predicted), set(table.raw_answer or ())) == ({"Sad"}, {" sad"})
    assert (table.info.run_id, table.info.template_sha256) == (run.manifest.run_id, run.manifest.template_sha256)
    assert table.info.training_prior == run.manifest.training_prior
    run.template.write_text(run.template.read_text() + " ")
    with pytest.raises(RunError, match="not the template"):
        open_served(run.folder, Endpoint(server.url, "m", retries=0))


def test_what_was_predicted_for_earlier_lines_is_told_in_a_second_pass(
    server: Server, tiny_llama: TinyModel, folder: Path, corpus: Corpus, tmp_path: Path
) -> None:
    server.reply = lambda *_: said("Sad")
    config = tiny_config(tiny_llama, folder, tmp_path, state={"source": "predicted"})
    table = ask(server, config, corpus, tmp_path / "j")
    assert len(table) == TARGETS
    told = [r for r in server.requests if " was sad. " in r["messages"][-1]["content"]]
    scenes = len(corpus.split("dev"))
    assert len(told) == TARGETS - scenes, "all but the first lines, which have none before them"
    assert len(server.requests) == TARGETS + len(told), "a prompt that stays the same is not asked again"


# Servers that can do more.


def constrained(request: dict[str, Any]) -> list[str]:
    """The choices that a request is held to, as either server reads them."""
    if "grammar" in request:
        return re.findall(r'"([^"]*)"', request["grammar"])
    return list(request["structured_outputs"]["choice"])


@pytest.mark.parametrize("owner", ["vllm", "llamacpp"])
def test_constrained_answers_are_labels(
    server: Server, config: RunConfig, corpus: Corpus, tmp_path: Path, owner: str
) -> None:
    server.pages = {"/v1/models": offered_by(owner), "/version": (200, '{"version": "0.20.0"}')}
    server.reply = lambda request, number: said(constrained(request)[number % 7])
    model = open_model(server, config)
    table = predict_served(model, corpus, "dev", Journal(tmp_path / "j"))
    assert set(table.predicted) == set(EMORYNLP.names)
    assert table.invalid is not None
    assert not table.invalid.any()
    assert unheld(model, table) == 0
    assert table.info.decoding == {"vllm": "choice (vLLM)", "llamacpp": "grammar (llama.cpp)"}[owner]


def test_a_server_that_ignores_what_it_is_told_is_noticed(
    server: Server, config: RunConfig, corpus: Corpus, tmp_path: Path
) -> None:
    """Newer versions of vLLM answer freely, with status 200, to a field of older ones."""
    server.reply = lambda request, number: said("sad." if number <= 4 else "I feel")
    model = open_model(server, config, constrain="vllm")
    table = predict_served(model, corpus, "dev", Journal(tmp_path / "j"))
    assert unheld(model, table) == TARGETS
    assert (table.predicted.count("Sad"), table.predicted.count(None)) == (4, TARGETS - 4)


@pytest.mark.parametrize("template", ["instruct", "plain"])
def test_label_scores_of_a_server_are_those_of_local_scoring(
    server: Server, tiny_llama: TinyModel, folder: Path, corpus: Corpus, tmp_path: Path, template: str
) -> None:
    config = tiny_config(tiny_llama, folder, tmp_path, prompt={"template": template})
    server.pages = {"/v1/models": offered_by("vllm")}
    server.reply = scoring_like_vllm(tiny_llama)
    table = ask(server, config, corpus, tmp_path / "j", label_scores=True)
    local = [score for scene in load(config).scores(corpus.split("dev")) for score in scene]
    assert table.log_likelihoods is not None
    assert table.probabilities is not None
    assert np.abs(table.log_likelihoods - [s.log_likelihoods for s in local]).max() < 1e-4
    assert np.abs(table.probabilities - [s.probabilities for s in local]).max() < 1e-4
    assert list(table.predicted) == [EMORYNLP.names[int(s.log_likelihoods.argmax())] for s in local]
    assert table.raw_answer is None
    assert set(server.paths) == {"/v1/completions"}
    again = ask(server, config, corpus, tmp_path / "j", label_scores=True)
    assert again.columns() == table.columns(), "what the journal kept is the same numbers"
    assert len(server.requests) == TARGETS


# Runs that break off.


def test_a_server_that_fails_midway_keeps_what_it_said(
    server: Server, config: RunConfig, corpus: Corpus, tmp_path: Path
) -> None:
    server.reply = lambda request, number: by_prompt(request, number) if number <= 5 else (500, "gone")
    with pytest.raises(ModelError, match=r"500.*what was answered before is kept") as caught:
        ask(server, config, corpus, tmp_path / "j")
    assert caught.value.exit_code == 2
    assert len(Journal(tmp_path / "j")) == 5
    before = len(server.requests)
    server.reply = by_prompt
    table = ask(server, config, corpus, tmp_path / "j")
    assert len(server.requests) - before == TARGETS - 5
    assert table.columns() == ask(server, config, corpus, tmp_path / "other").columns()


@pytest.mark.parametrize("change", ["model", "dialect", "prompt"])
def test_answers_of_another_job_are_not_taken(
    server: Server, tiny_llama: TinyModel, config: RunConfig, corpus: Corpus, tmp_path: Path, change: str
) -> None:
    server.reply = lambda *_: said("Sad")
    ask(server, config, corpus, tmp_path / "j")
    before = len(server.requests)
    server.reply = lambda *_: said("Mad")
    if change == "model":
        model = open_served(config, Endpoint(server.url, "other", retries=0))
    elif change == "dialect":
        model = open_model(server, config, constrain="llamacpp")
    else:
        model = open_model(server, tiny_config(tiny_llama, tmp_path, tmp_path, prompt={"names": "full"}))
    table = predict_served(model, corpus, "dev", Journal(tmp_path / "j"))
    assert set(table.predicted) == {"Mad"}
    assert len(server.requests) - before == TARGETS
    names = {m.journal(tmp_path / "t", corpus, "dev").path for m in (model, open_model(server, config))}
    assert len(names) == (1 if change == "prompt" else 2), "a journal has the name of its server, model and dialect"
    assert model.journal(tmp_path / "t", corpus, "train").path not in names, "and of what is asked about"


def test_a_torn_last_line_costs_one_answer(server: Server, config: RunConfig, corpus: Corpus, tmp_path: Path) -> None:
    server.reply = by_prompt
    table = ask(server, config, corpus, tmp_path / "j")
    content = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(content[:-9])
    assert ask(server, config, corpus, tmp_path / "j").columns() == table.columns()
    assert len(server.requests) == TARGETS + 1


# The command.


def arguments(server: Server, config: RunConfig, folder: Path, tmp_path: Path) -> list[str]:
    path = tmp_path / "tiny.yaml"
    path.write_text(config.as_yaml(), encoding="utf-8")
    out = ["--out", str(tmp_path / "t.parquet")]
    return ["predict", str(path), str(folder), *out, "--endpoint", server.url, "--model", "m"]


def test_the_command_writes_the_table_and_removes_the_journal(
    server: Server, config: RunConfig, folder: Path, tmp_path: Path, erc: Command
) -> None:
    server.reply = lambda request, number: said("Sad" if number > 2 else "who knows")
    code, out, err = erc(*arguments(server, config, folder, tmp_path))
    assert (code, err) == (0, "")
    assert f"{TARGETS} predictions of dev" in out
    assert "asked for: free text" in out
    assert f"2 of {TARGETS} answers spell no label" in out
    assert {p.name for p in tmp_path.iterdir()} == {"t.parquet", "tiny.yaml"}
    assert len(read_predictions(tmp_path / "t.parquet")) == TARGETS


def test_without_text_nothing_of_what_the_model_wrote_is_kept(
    server: Server, config: RunConfig, folder: Path, tmp_path: Path, erc: Command
) -> None:
    server.reply = lambda *_: said("Sad")
    assert erc(*arguments(server, config, folder, tmp_path), "--without-text").code == 0
    table = read_predictions(tmp_path / "t.parquet")
    assert (table.text, table.raw_answer, set(table.predicted)) == (None, None, {"Sad"})


def test_a_stop_of_the_server_is_exit_code_2_and_the_same_command_goes_on(
    server: Server, config: RunConfig, folder: Path, tmp_path: Path, erc: Command
) -> None:
    server.reply = lambda request, number: by_prompt(request, number) if number <= 3 else (400, "too long")
    command = arguments(server, config, folder, tmp_path)
    done = erc(*command)
    refused(done, "no usable answer from model 'm' about dialogue s2_", ", utterance u", "status 400", "too long")
    assert "what was answered before is kept, but the server would refuse this again" in done.err
    assert not (tmp_path / "t.parquet").exists()
    server.reply = by_prompt
    _, out, _ = erc(*command)
    assert "going on with the 3 answers" in out
    assert len(read_predictions(tmp_path / "t.parquet")) == TARGETS
    assert {p.name for p in tmp_path.iterdir()} == {"t.parquet", "tiny.yaml"}


def test_a_killed_run_goes_on_without_a_lost_or_doubled_row(
    server: Server, config: RunConfig, folder: Path, corpus: Corpus, tmp_path: Path, erc: Command
) -> None:
    def slowly(request: dict[str, Any], number: int) -> Reply:
        time.sleep(0.2 if number <= TARGETS else 0)
        return by_prompt(request, number)

    server.reply = slowly
    command = arguments(server, config, folder, tmp_path)
    code = "from erc_llm.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command, "--concurrency", "2"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    journal = open_model(server, config).journal(tmp_path / "t.parquet", corpus, "dev").path
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") >= 4):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept, before = len(Journal(journal)), len(server.requests)
    assert 4 <= kept < TARGETS
    assert not (tmp_path / "t.parquet").exists()
    assert erc(*command)[0] == 0
    assert len(server.requests) - before == TARGETS - kept
    table = read_predictions(tmp_path / "t.parquet")
    assert table.keys == tuple((d.id, d.utterances[k].id) for d in corpus.split("dev") for k in d.targets)
    assert table.columns() == ask(server, config, corpus, tmp_path / "whole").columns()
    assert not journal.exists()


def test_text_goes_to_another_machine_only_where_allowed(
    server: Server, config: RunConfig, folder: Path, tmp_path: Path, erc: Command
) -> None:
    command = arguments(server, config, folder, tmp_path)
    command[command.index("--endpoint") + 1] = "http://example.org/v1"
    refused(erc(*command), "another machine", "--allow-remote")
    command[command.index("--endpoint") + 1] = "http://me:hunter2@127.0.0.1/v1"
    done = erc(*command)
    refused(done, "ERC_LLM_API_KEY")
    assert "hunter2" not in done[2]


@pytest.mark.parametrize("missing", ["--endpoint", "--model"])
def test_a_served_model_needs_both_its_address_and_its_name(
    server: Server, config: RunConfig, folder: Path, tmp_path: Path, erc: Command, missing: str
) -> None:
    command = arguments(server, config, folder, tmp_path)
    at = command.index(missing)
    refused(erc(*command[:at], *command[at + 2 :]), "needs --endpoint and --model")
    refused(erc(*command, "--interactive"), "cannot be --interactive")
    refused(erc(*command[:5], "--label-scores"), "needs --endpoint and --model")


def test_a_wrong_split_is_told_before_anything_is_asked(
    server: Server, config: RunConfig, folder: Path, tmp_path: Path, erc: Command
) -> None:
    refused(erc(*arguments(server, config, folder, tmp_path), "--split", "tset"), "tset")
    assert server.requests == server.looked == []


# Bad servers.


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
        return (422, "<html>no such words") if _is_about(user, dialogue, 2) else by_prompt(request, 0)

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
        time.sleep(0 if number <= 3 else 1.5)
        return by_prompt(request, number)

    server.reply = reply
    with pytest.raises(ModelError, match="Timeout"):
        ask(server, config, corpus, tmp_path / "j", timeout=0.4)
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
    with serving(elsewhere.http):
        place = f"Location: {elsewhere.url}/chat/completions"
        server.answer_raw("HTTP/1.1 307 There", place, "Content-Length: 0")
        with pytest.raises(ModelError):
            ask(server, config, corpus, tmp_path / "j")
    assert elsewhere.requests == elsewhere.looked == []
