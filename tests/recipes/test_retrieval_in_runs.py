"""Lines of train in the prompts of a run: what it records, what it may find, what it needs in use, what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import load_from_disk
from rich.console import Console

import erc_llm
from erc_llm.build import training_view
from erc_llm.config import FoldConfig, RetrievalConfig, RunConfig
from erc_llm.corpus import Corpus, Dialogue, read_corpus
from erc_llm.corpus.dialogues import LEFT_OUT, SELECTION
from erc_llm.corpus.splits import episode_of
from erc_llm.errors import ConfigError, CorpusError, ModelError, RunError
from erc_llm.predictions import read_predictions
from erc_llm.recipes.average import average_runs
from erc_llm.recipes.calibrate import predict_selection
from erc_llm.recipes.crossfit import crossfit
from erc_llm.recipes.crossfit_folds import Folds
from erc_llm.recipes.export import score_probes
from erc_llm.recipes.export_prompts import export_prompts
from erc_llm.recipes.predict import predict
from erc_llm.recipes.train import train
from erc_llm.retrieval.in_prompt import Retriever, open_retriever
from erc_llm.runs.directory import OUT_OF_FOLD, Run, read_run
from erc_llm.runs.manifest import MANIFEST, Retrieval, write_manifest
from tests.command_line import Command, refused
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus

QUIET = Console(quiet=True)
SHOWN = {"use": "demonstrations", "k": 2}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("retrieval") / "corpus", train=16)


@pytest.fixture(scope="module")
def trained(tiny_llama: TinyModel, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    output = tmp_path_factory.mktemp("runs")
    return train(tiny_config(tiny_llama, corpus, output, retrieval=SHOWN | {"place": "trunk"}), console=QUIET)


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    return read_run(shutil.copytree(trained.folder, tmp_path / "run"))


# What a run records, and needs in use.


def test_a_run_names_what_it_retrieves(run: Run, corpus: Path) -> None:
    made = run.manifest.retrieval
    assert made is not None
    assert (made.encoder_sha256, made.leak) == (None, None)
    read = read_corpus(corpus)
    table = predict(erc_llm.load(run.folder, past=read), read, "dev")
    assert table.info.retrieval == f"demonstrations: 2 by words in the trunk, of train {read.train_sha256[:12]}"


def test_a_run_without_retrieval_has_the_manifest_it_had(run: Run) -> None:
    write_manifest(run.folder, replace(run.manifest, retrieval=None))
    assert "retrieval" not in json.loads((run.folder / MANIFEST).read_text("utf-8"))


@pytest.mark.parametrize("retrieval", [SHOWN, SHOWN | {"place": "trunk"}, {"use": "distribution"}])
def test_a_live_session_equals_batch(tiny_llama: TinyModel, corpus: Path, tmp_path: Path, retrieval: Any) -> None:
    config = tiny_config(tiny_llama, corpus, tmp_path, prompt={"trunk_lines": 4}, retrieval=retrieval)
    read = read_corpus(corpus)
    predictor = erc_llm.load(config, past=read)
    lines = tuple(u for d in read.split("train")[:3] for u in d.utterances)
    own = episode_of(read.split("train")[0])
    for dialogue, episode in ((Dialogue("new", lines), None), (read.split("train")[1], own)):
        batch, session = predictor.predict(dialogue), predictor.live(dialogue.id, episode)
        for line in batch:
            said = session.say(line.utterance.speakers, line.utterance.text)
            assert said.log_likelihoods == pytest.approx(dict(line.log_likelihoods), abs=1e-4, rel=0)


def test_the_corpus_of_training_is_needed_and_no_other_will_do(run: Run, corpus: Path, tmp_path: Path) -> None:
    for none in (None, "none"):
        with pytest.raises(ConfigError, match=r"retrieval\.use=demonstrations: .*not stored.*erc_llm\.read_corpus"):
            erc_llm.load(run.folder, past=none)  # type: ignore[arg-type]
    other = read_corpus(write_corpus(tmp_path / "other", train=12))
    with pytest.raises(RunError, match=r"prompts contain lines of the train .*has another one.*give that of the run"):
        erc_llm.load(run.folder, past=other)
    read = read_corpus(corpus)
    unseen = Corpus("new", "own", read.labels, {**read.splits, "test": other.split("dev")})
    assert erc_llm.load(run.folder, past=unseen).predict(other.split("dev")[0])


def test_another_encoder_or_wording_is_refused(run: Run, corpus: Path) -> None:
    made, read = run.manifest.retrieval, read_corpus(corpus)
    assert made is not None
    for changed, error, message in (
        (
            replace(made, encoder_sha256="0" * 64),
            ModelError,
            r"encoder of hash 0000.*'words' here.*retrieval\.encoder=",
        ),
        (Retrieval(template_sha256="0" * 64), RunError, r"another wording.*0000.*use version"),
        (None, RunError, "disagree about retrieval"),
    ):
        write_manifest(run.folder, replace(run.manifest, retrieval=changed))
        with pytest.raises(error, match=message):
            erc_llm.load(run.folder, past=read)


def test_a_run_is_not_resumed_under_another_wording(run: Run, corpus: Path) -> None:
    config = run.config.model_copy(update={"output": str(run.folder.parent), "name": "run"})
    (run.folder / "config.yaml").write_text(config.as_yaml(), encoding="utf-8")
    write_manifest(run.folder, replace(run.manifest, retrieval=Retrieval(template_sha256="0" * 64)))
    with pytest.raises(RunError, match="another wording of retrieved lines than now"):
        train(config, resume=True, console=QUIET)


def test_its_probes_and_its_prompts_as_a_dataset(run: Run, corpus: Path, tmp_path: Path) -> None:
    """An export is verified without the corpus; the dataset has the demonstrations."""
    assert score_probes(run, Path(run.config.model.base), [], QUIET, 2).probes
    assert export_prompts(run.config, read_corpus(corpus), "dev", tmp_path / "rows")
    rows = load_from_disk(str(tmp_path / "rows"))["dev"]
    assert all("[Similar lines: " in json.dumps(row["prompt"]) for row in rows)


def test_an_encoder_finds_lines_too(tiny_llama: TinyModel, corpus: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_llama, corpus, tmp_path, retrieval=SHOWN | {"encoder": "all-minilm-l6-v2"})
    read = read_corpus(corpus)
    retriever = open_retriever(config.retrieval, read, None)
    (found,) = retriever(Dialogue("new", read.split("train")[0].utterances), [0], None)
    assert found.lines[0][0] == read.split("train")[0].utterances[0].text


# What it may find.


def views(corpus: Path, /, **sections: Any) -> tuple[RunConfig, Corpus]:
    config = RunConfig.model_validate({"retrieval": SHOWN | {"k": 5}, "training": {"evaluations": 1}} | sections)
    return config, training_view(read_corpus(corpus), config)


def texts(*splits: tuple[Dialogue, ...]) -> list[str]:
    return [u.text for split in splits for d in split for u in d.utterances]


def test_an_index_holds_the_lines_that_its_own_training_read(corpus: Path) -> None:
    whole = read_corpus(corpus)
    of_fold, cut = views(corpus, corpus={"fold": FoldConfig(number=1, folds=2).model_dump()})
    assert {SELECTION, LEFT_OUT} <= cut.splits.keys()
    assert open_retriever(of_fold.retrieval, cut, None).texts == texts(cut.split("train"))
    assert len(texts(cut.split("train"))) < len(texts(whole.split("train")))
    of_average, all_of_it = views(corpus, training={"evaluations": 0})
    assert open_retriever(of_average.retrieval, all_of_it, None).texts == texts(whole.split("train"))


def found_in(retriever: Retriever, dialogue: Dialogue) -> list[tuple[tuple[str, int], ...]]:
    return [found.lines for found in retriever(dialogue, dialogue.targets, None)]


def test_the_control_of_the_own_episode_allows_its_other_lines_and_nothing_else(corpus: Path) -> None:
    retrieval = SHOWN | {"k": 200, "leak": "own_episode"}
    config, cut = views(corpus, retrieval=retrieval, corpus={"fold": FoldConfig(number=1, folds=2).model_dump()})
    retriever = open_retriever(config.retrieval, cut, None)
    for split in ("train", LEFT_OUT):
        dialogue = cut.split(split)[0]
        allowed = [*cut.split("train")]
        if split == LEFT_OUT:
            allowed += [d for d in cut.split(LEFT_OUT) if episode_of(d) == episode_of(dialogue)]
        for k, lines in zip(dialogue.targets, found_in(retriever, dialogue), strict=True):
            expected = texts(tuple(allowed))
            expected.remove(dialogue.utterances[k].text)
            assert sorted(text for text, _ in lines) == sorted(expected)


def test_the_control_of_the_gold_label_finds_no_other_label(corpus: Path) -> None:
    config, cut = views(corpus, retrieval=SHOWN | {"k": 5, "leak": "gold_label"})
    retriever = open_retriever(config.retrieval, cut, None)
    for dialogue in cut.split("train"):
        for k, lines in zip(dialogue.targets, found_in(retriever, dialogue), strict=True):
            assert {cut.labels.names[label] for _, label in lines} <= {dialogue.utterances[k].label}
    unlabelled = Dialogue("new", tuple(replace(u, label=None) for u in cut.split("train")[0].utterances))
    assert all(len(lines) == 5 for lines in found_in(retriever, unlabelled))


def test_odd_train_splits_are_refused(corpus: Path) -> None:
    config, cut = views(corpus)
    with pytest.raises(ConfigError, match="no corpus with a train split"):
        open_retriever(config.retrieval, replace(cut, splits={"dev": cut.split("dev")}), None)
    bare = tuple(replace(d, utterances=tuple(replace(u, label=None) for u in d.utterances)) for d in cut.split("train"))
    with pytest.raises(CorpusError, match=r"no labelled line.*label some"):
        open_retriever(config.retrieval, replace(cut, splits={"train": bare}), None)
    missing = RetrievalConfig(use="demonstrations", encoder="./nowhere")
    with pytest.raises(ModelError, match="nowhere"):
        open_retriever(missing, cut, None)


def test_settings_that_contradict_each_other_are_refused() -> None:
    for fields, message in (
        ({"use": "distribution", "place": "trunk"}, "place=trunk needs use=demonstrations"),
        ({"leak": "own_episode"}, "needs use=demonstrations or use=distribution"),
        (SHOWN | {"place": "trunk", "leak": "gold_label"}, "needs use=demonstrations and place=question"),
    ):
        with pytest.raises(ValueError, match=message):
            RetrievalConfig.model_validate(fields)
    with pytest.raises(ValueError, match=r"retrieval\.use=demonstrations would find lines.*corpus\.avoid"):
        RunConfig.model_validate({"retrieval": SHOWN, "corpus": {"avoid": ["another"]}})


# Controls.


@pytest.fixture(scope="module")
def control(tiny_llama: TinyModel, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = leaky(tiny_llama, corpus, tmp_path_factory.mktemp("runs"))
    return crossfit(config, Folds(count=2, at_once=1), console=QUIET, control=True)


def leaky(tiny: TinyModel, corpus: Path, output: Path) -> RunConfig:
    retrieval = SHOWN | {"leak": "gold_label"}
    return tiny_config(tiny, corpus, output, training={"evaluations": 0}, retrieval=retrieval)


def test_only_a_cross_fitting_that_acknowledges_it_trains_a_control(
    tiny_llama: TinyModel, corpus: Path, tmp_path: Path
) -> None:
    config = leaky(tiny_llama, corpus, tmp_path)
    for refusing in (train, lambda config: crossfit(config, Folds(count=2))):
        with pytest.raises(ConfigError, match=r"retrieval\.leak=gold_label: is a control.*--leaky-control"):
            refusing(config)
    with pytest.raises(ConfigError, match="is a control"):
        erc_llm.load(config, past=read_corpus(corpus))
    assert not any(tmp_path.iterdir())


def test_a_control_says_what_it_is_and_cannot_be_used(control: Run, corpus: Path, erc: Command, tmp_path: Path) -> None:
    made = control.manifest.retrieval
    assert made is not None
    assert made.leak == "gold_label"
    table = read_predictions(control.folder / OUT_OF_FOLD)
    assert table.info.retrieval.endswith(", LEAK gold_label")
    assert np.isfinite(table.log_likelihoods).all()  # type: ignore[arg-type]
    says = "is a control"
    folds = [control.folder.with_name(f"{control.folder.name}-folds") / f"fold-{k}" for k in (1, 2)]
    for folder in (control.folder, folds[0]):
        with pytest.raises(RunError, match=says):
            erc_llm.load(folder, past=read_corpus(corpus))
    with pytest.raises(RunError, match=says):
        average_runs([read_run(folder) for folder in folds], tmp_path / "average")
    refused(erc("calibrate", control.folder), says)
    refused(erc("export", control.folder, "--to", tmp_path / "export"), says)
    refused(erc("predict", control.folder, corpus, "--out", tmp_path / "dev.parquet"), says)
    done = erc("evaluate", control.folder / OUT_OF_FOLD)
    assert done.code == 0, done.err
    assert predict_selection(control, None, None, QUIET)[0].info.retrieval == table.info.retrieval
