"""Every answer of a server becomes a row; what servers offer beyond free text is used."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from erc_llm.config import RunConfig
from erc_llm.corpus import Corpus
from erc_llm.corpus.labels import EMORYNLP
from erc_llm.decoding.spelling import spelled_label
from erc_llm.errors import RunError
from erc_llm.models.endpoint import Endpoint
from erc_llm.predictions import read_predictions, write_predictions
from erc_llm.predictor import load
from erc_llm.recipes.predict_served import open_served, predict_served, unheld
from erc_llm.runs.journal import Journal
from tests.model_server import Server, offered_by, said, wrote
from tests.recipes.predict_served.asking import TARGETS, ask, by_prompt, is_about, open_model, word_of
from tests.scoring_server import scoring_like_vllm
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config


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
        word for d in corpus.split("dev") for k in d.targets for user, word in asked.items() if is_about(user, d, k)
    ]
    assert list(table.predicted) == list(table.raw_answer or ()) == expected
    assert steps == [(n, TARGETS) for n in range(TARGETS + 1)]
    assert table.log_likelihoods is None
    assert table.gold == tuple(u.label for d in corpus.split("dev") for u in d.utterances)


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

    from erc_llm.recipes.train import train

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
    with pytest.raises(RunError, match="not the prompt template"):
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
