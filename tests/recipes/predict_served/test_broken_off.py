"""A run that breaks off keeps what was answered, and goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from erc_llm.config import RunConfig
from erc_llm.corpus import Corpus
from erc_llm.errors import ModelError
from erc_llm.models.endpoint import Endpoint
from erc_llm.recipes.predict_served import open_served, predict_served
from erc_llm.runs.journal import Journal
from tests.model_server import Server, said
from tests.recipes.predict_served.asking import TARGETS, ask, by_prompt, open_model
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config


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
