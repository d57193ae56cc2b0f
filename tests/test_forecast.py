"""Forecasts: the label of a line before it is read, in batch and live."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from erc_llm.build import build_model
from erc_llm.config import RunConfig
from erc_llm.corpus import read_corpus
from erc_llm.corpus.dialogues import Dialogue
from erc_llm.errors import ConfigError, PromptError, RunError
from erc_llm.evaluation.references import difference, persistence_reference
from erc_llm.models.loading import LoadedModel
from erc_llm.predictor import Predictor, load
from erc_llm.recipes.predict import predict
from erc_llm.recipes.predict_served import _check_scoring
from erc_llm.recipes.train import train
from erc_llm.runs.manifest import write_manifest
from erc_llm.runs.opened import Opened
from tests.prompting.scenes import dialogue_of, dialogues, scene
from tests.test_predictor import SPEAKERS
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus

TALK = scene(("Ada", "Hello.", "Joyful"), ("Ben", "Go away!", "Mad"), ("Ada", "But why?", "Sad"))
ASKED = {"auxiliary": {"next_emotion": 0.5}}


@pytest.fixture(scope="module")
def loaded(tiny_llama: TinyModel) -> LoadedModel:
    return build_model(config_of(tiny_llama))


def config_of(tiny: TinyModel, forecast: bool = True, **prompt: Any) -> RunConfig:
    model = {"base": str(tiny.folder), "precision": "fp32", "device": "cpu"}
    content = {"model": model, "prompt": prompt, "training": ASKED, "scoring": {"forecast": forecast}}
    return RunConfig.model_validate(content)


def predictor_of(tiny: TinyModel, loaded: LoadedModel, forecast: bool = True, **prompt: Any) -> Predictor:
    return Predictor(Opened(config_of(tiny, forecast, **prompt)), loaded)


def forecasts(predictor: Predictor, dialogue: Dialogue) -> list[Mapping[str, float]]:
    return [line.probabilities for line in predictor.predict(dialogue)]


def test_what_a_forecast_reads(tiny_llama: TinyModel, loaded: LoadedModel) -> None:
    prompter = predictor_of(tiny_llama, loaded).prompter
    (tree,) = prompter.trees(TALK, "all")
    texts = [loaded.tokenizer.decode(tree.token_ids[tree.root_path(q.last)]) for q in tree.questions]
    assert [q.target for q in tree.questions] == [0, 1, 2]
    assert "Hello." not in texts[0]
    assert "Hello." in texts[1]
    assert "Go away!" not in texts[1]
    assert "Go away!" in texts[2]
    assert "But why?" not in texts[2]
    assert all("Next feels" in text and "Ben feels" not in text for text in texts)


@settings(max_examples=15, deadline=None)
@given(dialogue=dialogues(6), budget=st.sampled_from([2048, 64]))
def test_live_forecasts_equal_those_in_batch(
    tiny_llama: TinyModel, loaded: LoadedModel, dialogue: Dialogue, budget: int
) -> None:
    batch = predictor_of(tiny_llama, loaded, trunk_budget=budget)
    expected = {s.target: s.probabilities for s in batch.scores([dialogue])[0]}
    session = predictor_of(tiny_llama, loaded, forecast=False, trunk_budget=budget).live()
    for k, utterance in enumerate(dialogue.utterances):
        found = list(session.forecast().values())
        if k in expected:
            assert found == pytest.approx(expected[k].tolist(), abs=1e-4)
        session.say(utterance.speakers, utterance.text)


def test_asking_for_a_forecast_changes_no_later_label(tiny_llama: TinyModel, loaded: LoadedModel) -> None:
    predictor = predictor_of(tiny_llama, loaded, forecast=False)
    silent, asked = predictor.live(), predictor.live()
    for utterance in TALK.utterances:
        asked.forecast()
        one, other = (session.say(utterance.speakers, utterance.text) for session in (silent, asked))
        assert one.log_likelihoods == pytest.approx(other.log_likelihoods, abs=1e-4)


def test_nothing_of_the_line_itself_moves_its_forecast(tiny_llama: TinyModel, loaded: LoadedModel) -> None:
    predictor = predictor_of(tiny_llama, loaded)
    changed = dialogue_of((*TALK.utterances[:2], scene((SPEAKERS[0], "Marry me!", "Joyful")).utterances[0]))
    assert forecasts(predictor, TALK) == forecasts(predictor, changed)


def test_a_model_that_was_not_trained_to_forecast_refuses(tiny_llama: TinyModel, loaded: LoadedModel) -> None:
    plain = config_of(tiny_llama, forecast=False).model_copy(update={"training": RunConfig().training})
    with pytest.raises(ConfigError, match=r"scoring\.forecast: .*training\.auxiliary\.next_emotion=0\.5"):
        Predictor(Opened(plain), loaded).live().forecast()
    asked = plain.model_copy(update={"scoring": plain.scoring.model_copy(update={"forecast": True})})
    with pytest.raises(ConfigError, match=r"scoring\.forecast"):
        load(asked)


def test_a_run_that_was_asked_in_other_words_refuses(tiny_llama: TinyModel, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    config = tiny_config(tiny_llama, corpus, tmp_path / "runs", training={"evaluations": 0, **ASKED})
    run = train(config, console=Console(quiet=True))
    assert run.manifest.auxiliary_sha256 is not None
    load(run.folder).live().forecast()
    write_manifest(run.folder, replace(run.manifest, auxiliary_sha256="0" * 64))
    predictor = load(run.folder)
    with pytest.raises(RunError, match="another question about the next line"):
        predictor.live().forecast()
    with pytest.raises(RunError, match="another question about the next line"):
        load(run.folder, overrides=["scoring.forecast=true"])


@pytest.mark.parametrize("prompt", [{"context": "full"}, {"lookahead": 1}])
def test_a_prompt_with_later_lines_cannot_forecast(
    prompt: dict[str, Any], tiny_llama: TinyModel, loaded: LoadedModel
) -> None:
    with pytest.raises(PromptError, match="cannot forecast"):
        predictor_of(tiny_llama, loaded, **prompt)


def test_a_table_of_forecasts_is_evaluated_against_persistence(tiny_llama: TinyModel, tmp_path: Any) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    run = train(tiny_config(tiny_llama, corpus, tmp_path, training=ASKED), console=Console(quiet=True))
    data = read_corpus(corpus)
    table = predict(load(run.folder, overrides=["scoring.forecast=true"]), data, "dev")
    assert table.info.decoding == "forecast before the line is read"
    assert len(table) == sum(len(d.targets) for d in data.split("dev"))
    with pytest.raises(ConfigError, match=r"scoring\.forecast: prior, calibration and decision rule"):
        load(run.folder, overrides=["scoring.forecast=true"], calibration="run")
    persistence = persistence_reference(table)
    assert table.gold is not None
    first = [position == 0 for position in table.position.tolist()]  # type: ignore[union-attr]
    expected = [None, *table.gold[:-1]]
    assert all(p == e for p, e, begins in zip(persistence.predicted, expected, first, strict=True) if not begins)
    assert len({p for p, begins in zip(persistence.predicted, first, strict=True) if begins}) == 1
    assert difference(table, persistence, draws=100).b == "persistence"


def test_training_forecasts_by_its_auxiliary_question_only(tiny_llama: TinyModel, tmp_path: Any) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    with pytest.raises(ConfigError, match=r"scoring\.forecast: is for prediction"):
        train(tiny_config(tiny_llama, corpus, tmp_path, scoring={"forecast": True}), console=Console(quiet=True))
    assert not (tmp_path / "tiny" / "manifest.json").exists()


def test_a_live_session_and_a_server_label_what_they_have_read(tiny_llama: TinyModel, loaded: LoadedModel) -> None:
    with pytest.raises(ConfigError, match=r"scoring\.forecast: a live session"):
        predictor_of(tiny_llama, loaded).live()
    with pytest.raises(ConfigError, match=r"scoring\.forecast: a served model"):
        _check_scoring(config_of(tiny_llama))
