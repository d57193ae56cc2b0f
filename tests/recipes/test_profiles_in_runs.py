"""Profiles and state in a whole run: what the manifest and the tables say, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from erc_llm.build import build_prompter
from erc_llm.config import RunConfig, StateConfig, load_config
from erc_llm.corpus import read_corpus
from erc_llm.corpus.dialogues import LEFT_OUT
from erc_llm.corpus.labels import EMORYNLP
from erc_llm.corpus.splits import leave_out
from erc_llm.errors import ConfigError, PromptError, RunError
from erc_llm.predictions import read_predictions, write_predictions
from erc_llm.predictor import load
from erc_llm.recipes.data import open_corpus
from erc_llm.recipes.predict import predict
from erc_llm.recipes.run_inputs import read_confusion
from erc_llm.recipes.train import train
from erc_llm.recipes.training_run import Training
from erc_llm.resources import prompts_dir
from erc_llm.runs.directory import Run
from erc_llm.tuning.smoothing import smoothed_labels
from erc_llm.tuning.trainer import FitSettings
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("profiles") / "corpus", train=16)


def run_of(tiny: TinyModel, corpus: Path, output: Path, **sections: Any) -> Run:
    return train(tiny_config(tiny, corpus, output, **sections), console=QUIET)


@pytest.fixture(scope="module")
def confusion(tiny_llama: TinyModel, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predictions of the selection split by a first run, which is told nothing."""
    folder = tmp_path_factory.mktemp("first")
    run = run_of(tiny_llama, corpus, folder)
    read = open_corpus(run.config.corpus, run.config.label_set())
    write_predictions(predict(load(run.folder, past=read), read, "selection"), folder / "selection.parquet")
    return folder / "selection.parquet"


def test_a_run_with_profiles_names_their_source_in_its_tables(
    tiny_llama: TinyModel, corpus: Path, tmp_path: Path
) -> None:
    run = run_of(tiny_llama, corpus, tmp_path, profile={"writer": "lines", "placement": "question"})
    read = open_corpus(run.config.corpus, run.config.label_set())
    predictor = load(run.folder, past=read)
    table = predict(predictor, read, "dev")
    assert table.info.profile == "lines in the question"
    assert table.info.retrieval == "lexical"
    strangers = predict(load(run.folder, past="none"), read, "dev")
    assert (table.log_likelihoods != strangers.log_likelihoods).any(), "without a past nobody was seen before"


def test_a_run_under_invented_names_says_so_and_needs_the_corpus_they_replace(
    tiny_llama: TinyModel, corpus: Path, tmp_path: Path
) -> None:
    config = tiny_config(tiny_llama, corpus, tmp_path, prompt={"names": "invented"}, profile={"writer": "lines"})
    read = open_corpus(config.corpus, config.label_set())
    table = predict(load(config, past=read), read, "dev")
    assert table.info.profile == "lines in the trunk, invented names"
    with pytest.raises(ConfigError, match=r"prompt\.names=invented.*past=erc_llm\.read_corpus"):
        load(config)
    with pytest.raises(ConfigError, match=r"prompt\.names=invented"):
        build_prompter(config, config.label_set(), tiny_llama.tokenizer)


def test_a_run_with_state_keeps_what_corrupted_it(
    tiny_llama: TinyModel, corpus: Path, confusion: Path, tmp_path: Path
) -> None:
    run = run_of(tiny_llama, corpus, tmp_path, state={"source": "predicted", "confusion": str(confusion)})
    counts = run.manifest.confusion
    assert counts is not None
    assert sum(map(sum, counts)) == len(read_predictions(confusion))
    read = open_corpus(run.config.corpus, run.config.label_set())
    assert predict(load(run.folder), read, "dev").info.profile == "state predicted"


def test_resuming_with_another_confusion_is_refused(
    tiny_llama: TinyModel, corpus: Path, confusion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections: dict[str, Any] = {"state": {"source": "predicted", "confusion": str(confusion)}}

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("erc_llm.tuning.trainer.TreeTrainer.train", killed)
        with pytest.raises(KeyboardInterrupt):
            run_of(tiny_llama, corpus, tmp_path, **sections)
    table = read_predictions(confusion)
    other = tuple("Mad" if label == "Joyful" else "Joyful" for label in table.predicted)
    write_predictions(replace(table, predicted=other), tmp_path / "other.parquet")
    sections["state"]["confusion"] = str(tmp_path / "other.parquet")
    with pytest.raises(RunError, match=r"state\.confusion"):
        train(tiny_config(tiny_llama, corpus, tmp_path, **sections), resume=True, console=QUIET)


def test_confusions_of_the_wrong_table_are_refused(
    tiny_llama: TinyModel, corpus: Path, confusion: Path, tmp_path: Path
) -> None:
    def refused(path: Path | None, message: str) -> None:
        state = {"source": "predicted"} | ({} if path is None else {"confusion": str(path)})
        with pytest.raises(ConfigError, match=message):
            run_of(tiny_llama, corpus, tmp_path / "runs", state=state)
        assert not (tmp_path / "runs").exists()

    refused(None, r"state\.confusion.*--split selection")
    table = read_predictions(confusion)
    for name, change in (("dev", {"split": "dev"}), ("0000", {"corpus_sha256": "0" * 64})):
        path = tmp_path / f"{name}.parquet"
        write_predictions(replace(table, info=replace(table.info, **change)), path)
        refused(path, rf"state\.confusion.*{name}.*expected.*selection")
    seen = tmp_path / "seen.parquet"
    write_predictions(replace(table, info=replace(table.info, selection="none")), seen)
    refused(
        seen, r"state\.confusion.*trained on the selection split too \(training\.evaluations=0, or an average of folds"
    )


def test_a_cross_fitted_table_gives_confusions_without_the_episodes_of_the_fold(
    corpus: Path, confusion: Path, tmp_path: Path
) -> None:
    table, whole = read_predictions(confusion), read_corpus(corpus)
    info = replace(table.info, split="train", folds=2, selection="none", corpus_sha256=whole.sha256)
    write_predictions(replace(table, info=info), tmp_path / "crossfit.parquet")
    state = StateConfig(source="predicted", confusion=str(tmp_path / "crossfit.parquet"))
    config = RunConfig(state=state)
    counts = read_confusion(config, whole)
    assert counts is not None
    assert sum(map(sum, counts)) == len(table)
    kept = []
    for fold in (1, 2):
        cut = leave_out(whole, fold, 2)
        of_fold = read_confusion(config, cut)
        assert of_fold is not None
        left_out = {dialogue.id for dialogue in cut.split(LEFT_OUT)}
        kept.append(sum(map(sum, of_fold)))
        assert kept[-1] == sum(name not in left_out for name in table.dialogue_id)
    assert sum(kept) == len(table)


def test_labels_are_smoothed_by_the_same_confusions_without_a_state(
    tiny_llama: TinyModel, corpus: Path, confusion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts and passes are those of a run without state; the table is remembered as that of a state is."""
    smoothing = {"objective": "closed_set", "label_smoothing": 0.2, "smoothing_toward": "confusions"}
    started: list[FitSettings] = []
    settings_of = Training.settings

    def watched(training: Training, accumulation: int) -> FitSettings:
        started.append(settings_of(training, accumulation))
        return started[-1]

    monkeypatch.setattr(Training, "settings", watched)
    sections: dict[str, Any] = {"training": smoothing, "state": {"confusion": str(confusion)}}
    run = run_of(tiny_llama, corpus, tmp_path, **sections)
    assert run.manifest.confusion is not None
    (settings,) = started
    labels = len(EMORYNLP)
    assert settings.smoothed == smoothed_labels(0.2, "confusions", [1 / labels] * labels, run.manifest.confusion)
    read = open_corpus(run.config.corpus, run.config.label_set())
    assert predict(load(run.folder), read, "dev").info.profile == "none"
    table = read_predictions(confusion)
    assert table.gold is not None
    write_predictions(replace(table, predicted=table.gold), tmp_path / "other.parquet")
    sections["state"] = {"confusion": str(tmp_path / "other.parquet")}
    with pytest.raises(RunError, match="finished, on other confusion counts"):
        train(tiny_config(tiny_llama, corpus, tmp_path, **sections), resume=True, console=QUIET)
    sections["state"] = {}
    with pytest.raises(ConfigError, match=r"state\.confusion: training\.smoothing_toward=confusions needs predictions"):
        run_of(tiny_llama, corpus, tmp_path / "none", **sections)


def test_a_template_must_show_what_is_asked_for(
    tiny_llama: TinyModel, corpus: Path, confusion: Path, tmp_path: Path
) -> None:
    source = (prompts_dir() / "plain.jinja").read_text()
    own = tmp_path / "own.jinja"
    own.write_text(source.replace("{% if state %}{{ state }}. {% endif %}", ""))
    state = {"source": "predicted", "confusion": str(confusion)}
    with pytest.raises(PromptError, match="does not show `state`"):
        run_of(tiny_llama, corpus, tmp_path / "runs", prompt={"template": str(own)}, state=state)
    own.write_text(source.replace("[{{ name }}: {{ text }}]", "({{ name }}, so far: {{ text }})"))
    run = run_of(tiny_llama, corpus, tmp_path / "runs", prompt={"template": str(own)}, profile={"writer": "statistics"})
    assert "so far" in run.template.read_text()


def test_an_older_runs_configuration_still_reads(tiny_llama: TinyModel, corpus: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(tiny_config(tiny_llama, corpus, tmp_path).as_yaml())
    for section in ("profile", "state"):
        del content[section]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    config = load_config(tmp_path / "config.yaml")
    assert (config.profile.writer, config.state.source) == ("none", "none")
