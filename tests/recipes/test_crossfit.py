"""Cross-fitting: the out-of-fold table, the average of the folds, what no fold may see, and kills at any moment.

The command runs in child processes (`tests.forked`), where a kill costs a fraction of a second and every run computes
on one thread; the folds of the fixture are trained once.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file

from erc_llm.build import build_prompter
from erc_llm.calibration.select import table_hash
from erc_llm.calibration.store import read_calibration
from erc_llm.config import FoldConfig, RunConfig
from erc_llm.corpus import Corpus, Dialogue, read_corpus
from erc_llm.corpus.dialogues import LEFT_OUT
from erc_llm.corpus.splits import episode_of, fold_episodes, leave_out
from erc_llm.evaluation.leakage import selection_saw_split
from erc_llm.predictions import Predictions, read_predictions
from erc_llm.predictor import load
from erc_llm.recipes.average import average_adapters
from erc_llm.recipes.data import open_corpus
from erc_llm.runs.directory import Run, read_run
from erc_llm.runs.logs import read_lines
from tests.baselines.small import baseline_config
from tests.command_line import Command, refused
from tests.forked import run_apart
from tests.tiny_models import TinyModel
from tests.tiny_runs import PEOPLE, as_json, dialogue, tiny_config, write_corpus

FOLDS = 2
SCENES = 16  # of train; two make an episode
WEIGHTS = "adapter/adapter_model.safetensors"
ONE_BY_ONE = ("--folds", str(FOLDS), "--workers", "1")
Place = tuple[str, str, int]  # (module, dotted name in it, n): the n-th call of a function


@dataclass(frozen=True)
class Crossfitted:
    """A finished cross-fitting; do not change it.

    Attributes:
        config: Its configuration file.
        corpus: Its corpus.
        folder: The run directory of the average; those of the folds are beside it.
    """

    config: Path
    corpus: Path
    folder: Path

    @property
    def run(self) -> Run:
        return read_run(self.folder)

    @property
    def table(self) -> Predictions:
        return read_predictions(self.folder / "crossfit.parquet")

    def fold(self, number: int) -> Path:
        return self.folder.parent / f"{self.folder.name}-folds" / f"fold-{number}"

    def left_out(self, number: int) -> Predictions:
        return read_predictions(self.fold(number) / "left_out.parquet")


def crossfit_apart(*arguments: object, kill: Place | None = None, operation: int | None = None) -> int:
    """`erc-llm crossfit ARGUMENTS` in a child; returns its exit code, negative for a signal.

    Args:
        *arguments: The arguments.
        kill: The child kills itself when this function is called.
        operation: The child kills itself at the n-th change of a file below the run's output.
    """
    return run_apart(_crossfit, [str(a) for a in arguments], kill, operation)


def _crossfit(arguments: list[str], kill: Place | None, operation: int | None) -> None:
    import torch

    from erc_llm import cli

    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    sys.argv = ["erc-llm", "crossfit", *arguments]
    if kill is not None:
        _die_in(*kill)
    if operation is not None:
        _die_at_operation(operation, yaml.safe_load(Path(arguments[0]).read_text("utf-8"))["output"])
    cli.main()


def _die_in(module: str, name: str, number: int) -> None:
    *path, last = name.split(".")
    owner: Any = import_module(module)
    for part in path:
        owner = getattr(owner, part)
    original, left = getattr(owner, last), number

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, last, counted)


def _die_at_operation(number: int, output: str) -> None:
    watched, left = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}, number

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal left
        opened = event == "open" and isinstance(args[1], str) and args[1][:1] in "wax"
        if (opened or event in watched) and isinstance(args[0], (str, os.PathLike)) and output in str(args[0]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def write_config(model: TinyModel, corpus: Path, folder: Path, **sections: Any) -> Path:
    """The file of a configuration whose runs are below `folder`; `sections` are merged in."""
    training = {"epochs": 2, "tokens_per_step": 300, "evaluations": 1, "learning_rate": 1e-3, "checkpoint_minutes": 0}
    sections["training"] = training | sections.get("training", {})
    config = tiny_config(model, corpus, folder / "runs", **{"lora": {"dropout": 0.1}} | sections)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(config.as_yaml(), encoding="utf-8")
    return path


def read_config(path: Path) -> RunConfig:
    return RunConfig.model_validate(yaml.safe_load(path.read_text("utf-8")))


def crossfitted(model: TinyModel, corpus: Path, folder: Path, **sections: Any) -> Crossfitted:
    config = write_config(model, corpus, folder, **sections)
    assert crossfit_apart(config, *ONE_BY_ONE) == 0
    return Crossfitted(config, corpus, folder / "runs" / "tiny")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("crossfit") / "corpus", train=SCENES)


@pytest.fixture(scope="module")
def done(tiny_llama: TinyModel, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Crossfitted:
    return crossfitted(tiny_llama, corpus, tmp_path_factory.mktemp("done"))


@pytest.fixture
def copied(done: Crossfitted, tmp_path: Path) -> Crossfitted:
    """A copy of the finished cross-fitting, to spoil."""
    shutil.copytree(done.folder.parent, tmp_path / "runs")
    config = tmp_path / "config.yaml"
    content = yaml.safe_load(done.config.read_text("utf-8")) | {"output": str(tmp_path / "runs")}
    config.write_text(yaml.safe_dump(content), encoding="utf-8")
    return Crossfitted(config, done.corpus, tmp_path / "runs" / "tiny")


def scenes_of(corpus: Path, number: int) -> list[Dialogue]:
    """The scenes that a fold leaves out, in train's order."""
    data = read_corpus(corpus)
    part = fold_episodes(data, FOLDS)[number - 1]
    return [d for d in data.split("train") if episode_of(d) in part]


def same_table(one: Predictions, other: Predictions) -> None:
    """Equal columns, likelihoods to the bit."""
    assert one.columns() == other.columns()
    assert one.info == other.info


def same_results(one: Crossfitted, other: Crossfitted) -> None:
    """The same adapters, tables and rules."""
    for number in range(1, FOLDS + 1):
        assert (one.fold(number) / WEIGHTS).read_bytes() == (other.fold(number) / WEIGHTS).read_bytes()
        same_table(one.left_out(number), other.left_out(number))
    assert (one.folder / WEIGHTS).read_bytes() == (other.folder / WEIGHTS).read_bytes()
    same_table(one.table, other.table)
    assert read_calibration(one.run) == read_calibration(other.run)
    assert one.run.manifest == other.run.manifest
    names = [{path.name for path in of.folder.iterdir()} for of in (one, other)]
    assert names[0] == names[1]


# What is written


def test_the_table_has_every_target_of_train_once_in_its_order(done: Crossfitted) -> None:
    train, table = read_corpus(done.corpus).split("train"), done.table
    assert table.keys == tuple((d.id, u.id) for d in train for u in d.utterances)
    assert table.gold == tuple(u.label for d in train for u in d.utterances)
    assert table.text == tuple(u.text for d in train for u in d.utterances)
    assert table.episode == tuple(d.episode_id for d in train for _ in d.utterances)
    info, run = table.info, done.run
    assert (info.split, info.folds, info.run_id, info.system) == ("train", FOLDS, run.manifest.run_id, "tiny")
    assert info.corpus_sha256 == read_corpus(done.corpus).sha256 == run.manifest.corpus_sha256
    assert info.config_sha256 == run.config.sha256 == run.manifest.config_sha256
    assert (info.prior, info.calibration, info.decision) == (None, None, None), "the table is raw"
    labels = np.array(info.labels)
    assert table.probabilities is not None
    assert tuple(labels[table.probabilities.argmax(axis=1)]) == table.predicted


@pytest.mark.parametrize("number", range(1, FOLDS + 1))
def test_each_row_is_what_the_run_that_left_the_episode_out_predicts(done: Crossfitted, number: int) -> None:
    run = read_run(done.fold(number))
    assert run.config.corpus.fold == FoldConfig(number=number, folds=FOLDS, seed=13)
    predictor = load(done.fold(number))
    table, left_out = done.table, done.left_out(number)
    rows = {key: row for row, key in enumerate(table.keys)}
    assert table.log_likelihoods is not None
    assert left_out.log_likelihoods is not None
    found = []
    for scene in scenes_of(done.corpus, number):
        for utterance in predictor.predict(scene):
            key = (scene.id, utterance.utterance.id)
            found.append(key)
            expected = [utterance.log_likelihoods[name] for name in table.info.labels]
            np.testing.assert_allclose(table.log_likelihoods[rows[key]], expected, rtol=0, atol=1e-3)
    assert left_out.keys == tuple(found)
    assert left_out.info.split == LEFT_OUT
    np.testing.assert_array_equal(left_out.log_likelihoods, table.log_likelihoods[[rows[key] for key in found]])


def test_the_adapter_is_the_average_of_those_of_the_folds(done: Crossfitted, tmp_path: Path) -> None:
    folds = [read_run(done.fold(number)) for number in range(1, FOLDS + 1)]
    rank = average_adapters([fold.adapter for fold in folds], tmp_path / "mean")
    assert (done.folder / WEIGHTS).read_bytes() == (tmp_path / "mean" / "adapter_model.safetensors").read_bytes()
    weights = {(fold.folder / WEIGHTS).read_bytes() for fold in folds}
    assert len(weights) == FOLDS, "the folds differ"
    manifest, config = done.run.manifest, done.run.config
    assert manifest.finished
    assert (manifest.folds, manifest.averaged) == (FOLDS, tuple(fold.manifest.run_id for fold in folds))
    assert (config.lora.rank, config.corpus.fold, config.holds_out_selection) == (rank, None, False)
    shares = np.mean([fold.manifest.train_shares for fold in folds], axis=0)
    assert manifest.train_shares == pytest.approx(shares)


def test_calibration_and_rules_are_found_on_the_table(done: Crossfitted) -> None:
    stored = read_calibration(done.run)
    assert (stored.split, stored.decide, stored.fit_for) == ("train", "weighted_f1", "nll")
    assert stored.table_sha256 == table_hash(done.table)
    assert stored.targets == len(done.table)
    assert stored.dialogues == SCENES // 2, "episodes are the units of its cross-validation"
    rules = {each.decision.rule: each.decision for each in stored.decisions}
    assert rules.keys() == {"weighted_f1", "macro_f1"}
    for decision in rules.values():
        assert (decision.way, decision.table_sha256) == ("inductive", table_hash(replace(done.table, gold=None)))


def test_it_predicts_like_any_run_with_the_stored_rule(done: Crossfitted, erc: Command, tmp_path: Path) -> None:
    out = tmp_path / "dev.parquet"
    said = erc("predict", done.folder, "--split", "dev", "--out", out)
    assert said.code == 0, said.err
    assert "decided: " in said.out
    table, stored = read_predictions(out), read_calibration(done.run)
    info = table.info
    assert (info.decision, info.decision_way, info.decision_table) == (
        "weighted_f1",
        "inductive",
        table_hash(replace(done.table, gold=None)),
    )
    assert (info.run_id, info.system, info.selection) == (done.run.manifest.run_id, "tiny", "train")
    rule = stored.correction("weighted_f1")
    assert table.log_likelihoods is not None
    probabilities = rule.probabilities(table.log_likelihoods)
    assert table.predicted == tuple(info.labels[k] for k in rule.decide(probabilities))
    assert table.predicted != tuple(info.labels[k] for k in probabilities.argmax(axis=1)), "the rule matters here"
    by_key = dict(zip(table.keys, table.predicted, strict=True))
    predictor = load(done.folder)
    for scene in read_corpus(done.corpus).split("dev"):
        expected = [by_key[scene.id, u.id] for u in scene.utterances]
        assert [line.label for line in predictor.predict(scene)] == expected
        session = predictor.live(scene.id)
        assert [session.say(u.speakers, u.text).label for u in scene.utterances] == expected


@pytest.mark.parametrize("decide", ["macro_f1", "probable"])
def test_another_rule_can_be_asked_for(decide: Any, done: Crossfitted, erc: Command, tmp_path: Path) -> None:
    out = tmp_path / "dev.parquet"
    assert erc("predict", done.folder, "--decide", decide, "--out", out).code == 0
    assert read_predictions(out).info.decision == (None if decide == "probable" else decide)


@pytest.mark.slow
def test_the_table_is_measured_like_any_other(done: Crossfitted, erc: Command, tmp_path: Path) -> None:
    said = erc("evaluate", done.folder / "crossfit.parquet", "--draws", 100)
    assert said.code == 0, said.err
    again = Path(shutil.copytree(done.folder, tmp_path / "tiny"))
    said = erc("calibrate", again, "--decide", "weighted_f1")
    assert said.code == 0, said.err
    assert read_calibration(read_run(again)) == read_calibration(done.run)


def test_the_runs_of_the_folds_hold_out_what_is_not_theirs(done: Crossfitted) -> None:
    """The split that a fold chooses its epoch by is part of what it keeps."""
    for number in range(1, FOLDS + 1):
        run = read_run(done.fold(number))
        assert (done.fold(number) / "selection.jsonl").is_file()
        data = open_corpus(run.config.corpus, run.config.label_set())
        parts = [{episode_of(d) for d in data.split(name)} for name in ("train", "selection", LEFT_OUT)]
        assert parts[2] == fold_episodes(read_corpus(done.corpus), FOLDS)[number - 1]
        assert all(parts)
        assert len(set.union(*parts)) == sum(map(len, parts)) == SCENES // 2


# What is refused


def test_a_second_call_continues_or_is_refused(copied: Crossfitted, done: Crossfitted, erc: Command) -> None:
    refused(erc("crossfit", copied.config, *ONE_BY_ONE), str(copied.folder), "exists already", "--resume")
    before = {path: path.stat().st_mtime_ns for path in copied.folder.parent.rglob("*safetensors")}
    said = erc("crossfit", copied.config, *ONE_BY_ONE, "--resume")
    assert said.code == 0, said.err
    assert {path: path.stat().st_mtime_ns for path in copied.folder.parent.rglob("*safetensors")} == before
    same_results(copied, done)
    _check_told(copied, said.out)


def _check_told(copied: Crossfitted, said: str) -> None:
    """The work is told before it starts."""
    targets = [sum(len(d.targets) for d in scenes_of(copied.corpus, number)) for number in (1, 2)]
    for part in (
        f"2 folds of {SCENES} training scenes in {SCENES // 2} episodes, 1 at a time",
        f"targets left out: {targets[0]}, {targets[1]}",
        f"predict {sum(targets)} targets once",
    ):
        assert 0 <= said.index(part) < said.index("fold-1: "), part
    assert "fold-2 is done: 2 of 2" in said


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (("training.learning_rate=0.5",), "training.learning_rate"),
        (("--folds", "3"), "corpus.fold.folds"),
        (("--fold-seed", "14"), "corpus.fold.seed"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else value,
)
def test_another_configuration_is_refused_on_resume(
    changed: tuple[str, ...], told: str, copied: Crossfitted, done: Crossfitted, erc: Command
) -> None:
    said = erc("crossfit", copied.config, *ONE_BY_ONE, *changed, "--resume")
    refused(said, "cannot resume with another configuration", told, "fold-1")
    same_results(copied, done)


def test_a_fold_of_its_own_is_refused(tiny_llama: TinyModel, corpus: Path, tmp_path: Path, erc: Command) -> None:
    config = write_config(tiny_llama, corpus, tmp_path)
    refused(erc("crossfit", config, "corpus.fold.number=1"), "corpus.fold", "leave it out")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--folds", "50"), (f"cannot make 50 folds of whole episodes, train has {SCENES // 2}", "fewer folds")),
        (("scoring.decode=generate",), ("scoring.decode=generate", "needs scores")),
        (("--predict", "dev"), ("--predict", "erc-llm predict RUN")),
    ],
    ids=["folds", "decode", "predict"],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(
    arguments: tuple[str, ...],
    parts: tuple[str, ...],
    tiny_llama: TinyModel,
    corpus: Path,
    tmp_path: Path,
    erc: Command,
) -> None:
    config = write_config(tiny_llama, corpus, tmp_path)
    refused(erc("crossfit", config, *arguments), *parts)
    assert not (tmp_path / "runs").exists()


def test_a_training_run_of_the_same_name_is_refused_before_anything_is_trained(
    done: Crossfitted, copied: Crossfitted, erc: Command
) -> None:
    """With --resume too: it is no cross-fitting that could be continued."""
    other = Path(shutil.copytree(done.fold(1), copied.folder.parent / "other"))
    before = {path.name: path.read_bytes() for path in other.iterdir() if path.is_file()}
    refused(erc("crossfit", copied.config, *ONE_BY_ONE, "name=other", "--resume"), str(other), "name=")
    assert {path.name: path.read_bytes() for path in other.iterdir() if path.is_file()} == before
    assert not (copied.folder.parent / "other-folds").exists()


def test_a_corpus_that_has_changed_is_refused_on_resume(copied: Crossfitted, tmp_path: Path, erc: Command) -> None:
    changed = Path(shutil.copytree(copied.corpus, tmp_path / "changed"))
    relabel(changed / "train.jsonl", lambda row: True)
    said = erc("crossfit", copied.config, *ONE_BY_ONE, f"corpus.path={changed}", "--resume")
    refused(said, "fold-1", "another train split")


# What no fold may see


def relabel(path: Path, which: Callable[[dict[str, Any]], bool]) -> None:
    """Move the labels of the chosen scenes one target on within their episode, so that its counts stay."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    by_episode: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for row in filter(which, rows):
        by_episode.setdefault((row["season"], row["episode"]), []).extend(row["utterances"])
    changed = 0
    for lines in by_episode.values():
        labels = [line["label"] for line in lines]
        for line, label in zip(lines, labels[1:] + labels[:1], strict=True):
            changed += line["label"] != label
            line["label"] = label
    assert changed
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def relabelled_fold(corpus: Path, folder: Path, number: int = 1) -> Path:
    """A copy of the corpus with other labels in the episodes that a fold leaves out; the folds are the same."""
    changed = Path(shutil.copytree(corpus, folder))
    ids = {d.id for d in scenes_of(corpus, number)}
    relabel(changed / "train.jsonl", lambda row: row["id"] in ids)
    one, other = (read_corpus(path) for path in (corpus, changed))
    assert one.train_sha256 != other.train_sha256
    assert fold_episodes(one, FOLDS) == fold_episodes(other, FOLDS)
    return changed


def scores(run: Path) -> list[dict[str, Any]]:
    """The selection scores of a run, without times."""
    log = run / "selection.jsonl"
    records = read_lines(log) if log.exists() else []
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def steps(run: Path) -> list[dict[str, Any]]:
    """The log of a run's steps, without times."""
    return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in read_lines(run / "training.jsonl")]


def check_blind(one: Crossfitted, other: Crossfitted) -> None:
    """Fold 1 is the same, fold 2 is not: it is trained on what fold 1 leaves out."""
    assert (one.fold(1) / WEIGHTS).read_bytes() == (other.fold(1) / WEIGHTS).read_bytes()
    assert scores(one.fold(1)) == scores(other.fold(1))
    assert steps(one.fold(1)) == steps(other.fold(1))
    tables = [of.left_out(1) for of in (one, other)]
    for name in ("keys", "predicted"):
        assert getattr(tables[0], name) == getattr(tables[1], name)
    for name in ("log_likelihoods", "probabilities", "label_mass"):
        np.testing.assert_array_equal(getattr(tables[0], name), getattr(tables[1], name))
    assert tables[0].gold != tables[1].gold
    for name in ("train_shares", "training_prior"):
        assert getattr(read_run(one.fold(1)).manifest, name) == getattr(read_run(other.fold(1)).manifest, name)
    assert (one.fold(2) / WEIGHTS).read_bytes() != (other.fold(2) / WEIGHTS).read_bytes(), "the labels matter"


def test_a_fold_does_not_depend_on_the_labels_that_it_leaves_out(
    tiny_llama: TinyModel, done: Crossfitted, tmp_path: Path
) -> None:
    """Neither its adapter nor the scores that stop it nor what it predicts of them."""
    changed = relabelled_fold(done.corpus, tmp_path / "corpus")
    other = crossfitted(tiny_llama, changed, tmp_path)
    check_blind(done, other)
    assert len(scores(done.fold(1))) == 1
    np.testing.assert_array_equal(
        *(of.table.log_likelihoods[[k in of.left_out(1).keys for k in of.table.keys]] for of in (done, other))  # type: ignore[index]
    )


@pytest.mark.slow
def test_no_label_outside_train_changes_a_calibration_or_a_rule(
    tiny_llama: TinyModel, done: Crossfitted, tmp_path: Path
) -> None:
    """Other labels of dev, and a test split besides."""
    changed = Path(shutil.copytree(done.corpus, tmp_path / "corpus"))
    relabel(changed / "dev.jsonl", lambda row: True)
    rows = [as_json(dialogue(i, 4, season=3)) for i in range(3)]
    (changed / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    other = crossfitted(tiny_llama, changed, tmp_path)
    assert (done.folder / WEIGHTS).read_bytes() == (other.folder / WEIGHTS).read_bytes()
    assert read_calibration(done.run) == read_calibration(other.run)
    assert done.table.columns() == other.table.columns()


@pytest.fixture(scope="module")
def telling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus whose people each have a mood, so that profiles state it."""
    folder = write_corpus(tmp_path_factory.mktemp("telling") / "corpus", train=24)
    moods = dict(zip(PEOPLE, ("Joyful", "Mad", "Sad"), strict=True))
    draw = random.Random(3)
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text("utf-8").splitlines()]
    for row in rows:
        for line in row["utterances"]:
            line["label"] = moods[line["speaker"][0]] if draw.random() < 0.9 else "Neutral"
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def prompts(config: RunConfig, model: TinyModel, corpus: Corpus, scenes: Iterator[Dialogue]) -> list[list[int]]:
    """Token ids of all trees of the scenes."""
    prompter = build_prompter(config, config.label_set(), model.tokenizer, past=corpus)
    return [tree.token_ids.tolist() for scene in scenes for tree in prompter.trees(scene, "all")]


def test_labels_left_out_are_no_evidence_in_any_prompt_of_the_fold(
    tiny_llama: TinyModel, telling: Path, tmp_path: Path
) -> None:
    """With profiles of statistics: neither in training prompts, nor where the scenes left out are predicted."""
    config = read_config(write_config(tiny_llama, telling, tmp_path, profile={"writer": "statistics"}))
    fold = config.corpus.model_copy(update={"fold": FoldConfig(number=1, folds=FOLDS)})
    of_fold = config.model_copy(update={"corpus": fold})
    both = [read_corpus(path) for path in (telling, relabelled_fold(telling, tmp_path / "corpus"))]
    whole = [prompts(config, tiny_llama, data, data.dialogues()) for data in both]
    assert whole[0] != whole[1], "these labels are evidence where no fold is left out"
    blind = [prompts(of_fold, tiny_llama, data, data.dialogues()) for data in both]
    assert blind[0] == blind[1]
    assert blind[0] != whole[0]
    cut = [leave_out(data, 1, FOLDS) for data in both]
    assert [prompts(of_fold, tiny_llama, data, data.dialogues()) for data in cut] == blind, "cut before or here"


@pytest.mark.slow
def test_a_fold_with_profiles_does_not_depend_on_the_labels_that_it_leaves_out(
    tiny_llama: TinyModel, telling: Path, tmp_path: Path
) -> None:
    changed = relabelled_fold(telling, tmp_path / "corpus")
    profile = {"writer": "statistics"}
    one, other = (
        crossfitted(tiny_llama, path, tmp_path / name, profile=profile)
        for name, path in (("one", telling), ("other", changed))
    )
    check_blind(one, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sections",
    [
        {"training": {"evaluations": 0}},
        {"training": {"evaluations": 3, "patience": 1}},
        {"sampling": {"scheme": "inverse_frequency", "allow_absent": True}},
        {"prompt": {"names": "invented"}},
        {"profile": {"writer": "lines"}},
    ],
    ids=lambda sections: "-".join(f"{k}-{v}" for section in sections.values() for k, v in section.items()),
)
def test_no_fold_of_any_kind_depends_on_the_labels_that_it_leaves_out(
    sections: dict[str, Any], tiny_llama: TinyModel, telling: Path, tmp_path: Path
) -> None:
    changed = relabelled_fold(telling, tmp_path / "corpus")
    one, other = (
        crossfitted(tiny_llama, path, tmp_path / name, **sections)
        for name, path in (("one", telling), ("other", changed))
    )
    evaluated = sections.get("training", {}).get("evaluations") != 0
    assert (one.fold(1) / "selection.jsonl").exists() == evaluated
    check_blind(one, other)


# Kills


TRAINING = ("erc_llm.tuning.trainer", "TreeTrainer.compute_loss")
KILLS = {
    "in fold 1": (*TRAINING, 4),
    "before fold 1 predicts": ("erc_llm.recipes.predict", "predict_with_progress", 1),
    "while fold 1 predicts": ("erc_llm.recipes.crossfit", "write_predictions", 1),
    "after fold 1": ("erc_llm.recipes.train", "open_corpus", 2),
    "in fold 2": (*TRAINING, 15),
    "before the average": ("erc_llm.recipes.average", "average_runs", 1),
    "in the average": ("erc_llm.recipes.average", "write_manifest", 1),
    "between average and table": ("erc_llm.recipes.crossfit", "write_predictions", 3),
    "before the calibration": ("erc_llm.recipes.calibrate", "write_calibration", 1),
}
QUICK = ("in fold 1",)


@pytest.mark.parametrize(
    "moment", [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in KILLS], ids=lambda m: m
)
def test_a_killed_crossfitting_goes_on_to_the_same_table_and_adapter(
    moment: str, tiny_llama: TinyModel, done: Crossfitted, tmp_path: Path
) -> None:
    config = write_config(tiny_llama, done.corpus, tmp_path)
    assert crossfit_apart(config, *ONE_BY_ONE, kill=KILLS[moment]) == -signal.SIGKILL
    assert not (tmp_path / "runs" / "tiny" / "calibration.json").exists()
    assert crossfit_apart(config, *ONE_BY_ONE, "--resume") == 0
    same_results(Crossfitted(config, done.corpus, tmp_path / "runs" / "tiny"), done)


@pytest.mark.slow
def test_a_kill_in_the_average_leaves_no_litter(tiny_llama: TinyModel, done: Crossfitted, tmp_path: Path) -> None:
    config = write_config(tiny_llama, done.corpus, tmp_path)
    assert crossfit_apart(config, *ONE_BY_ONE, kill=KILLS["in the average"]) == -signal.SIGKILL
    assert crossfit_apart(config, *ONE_BY_ONE, "--resume") == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["tiny", "tiny-folds"]


@pytest.mark.slow
@pytest.mark.parametrize("number", random.Random(7).sample(range(2, 160), 6))
def test_a_kill_at_any_file_operation(number: int, tiny_llama: TinyModel, done: Crossfitted, tmp_path: Path) -> None:
    config = write_config(tiny_llama, done.corpus, tmp_path)
    assert crossfit_apart(config, *ONE_BY_ONE, operation=number) == -signal.SIGKILL
    assert crossfit_apart(config, *ONE_BY_ONE, "--resume") == 0
    same_results(Crossfitted(config, done.corpus, tmp_path / "runs" / "tiny"), done)


@pytest.mark.parametrize(
    "lost",
    [
        ("tiny/crossfit.parquet",),
        pytest.param(("tiny/calibration.json",), marks=pytest.mark.slow),
        pytest.param(("tiny",), marks=pytest.mark.slow),
        ("tiny", "tiny-folds/fold-2/left_out.parquet"),
    ],
    ids=" ".join,
)
def test_what_is_missing_is_made_again(lost: tuple[str, ...], copied: Crossfitted, done: Crossfitted) -> None:
    for name in lost:
        path = copied.folder.parent / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert crossfit_apart(copied.config, *ONE_BY_ONE, "--resume") == 0
    same_results(copied, done)


def test_the_text_can_be_left_out_later(copied: Crossfitted, erc: Command) -> None:
    said = erc("crossfit", copied.config, *ONE_BY_ONE, "--resume", "--without-text")
    assert said.code == 0, said.err
    assert copied.table.text is None


@pytest.mark.slow
def test_another_calibration_of_the_same_table_stays(copied: Crossfitted, erc: Command) -> None:
    assert erc("calibrate", copied.folder, "--decide", "macro_f1").code == 0
    own = (copied.folder / "calibration.json").read_bytes()
    assert erc("crossfit", copied.config, *ONE_BY_ONE, "--resume").code == 0
    assert (copied.folder / "calibration.json").read_bytes() == own


def test_a_launcher_is_refused(copied: Crossfitted, erc: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused(erc("crossfit", copied.config, *ONE_BY_ONE, "--resume"), "2 processes of a launcher were found; start")


def test_the_selection_split_counts_as_seen_by_the_average(done: Crossfitted, erc: Command, tmp_path: Path) -> None:
    out = tmp_path / "selection.parquet"
    assert erc("predict", done.folder, "--split", "selection", "--out", out, "--decide", "probable").code == 0
    assert selection_saw_split(read_predictions(out).info) is True
    assert selection_saw_split(done.table.info) is False


@pytest.mark.slow
def test_a_lost_fold_is_trained_again_and_the_average_with_it(copied: Crossfitted, done: Crossfitted) -> None:
    shutil.rmtree(copied.fold(2))
    assert crossfit_apart(copied.config, *ONE_BY_ONE, "--resume") == 0
    same_results(copied, done)


@pytest.mark.slow
def test_the_average_is_made_again_of_a_fold_that_has_changed(copied: Crossfitted, done: Crossfitted) -> None:
    """A fold that was lost and trained again, on hardware that does not repeat its sums to the bit."""
    weights = copied.fold(2) / WEIGHTS
    save_file({name: 1.001 * tensor for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    (copied.fold(2) / "left_out.parquet").unlink()
    assert crossfit_apart(copied.config, *ONE_BY_ONE, "--resume") == 0
    assert copied.run.manifest.run_id != done.run.manifest.run_id
    assert copied.table.info.run_id == copied.run.manifest.run_id
    assert read_calibration(copied.run).table_sha256 == table_hash(copied.table)


def _start(config: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """The command in a process of its own, whose output goes to a file beside its configuration."""
    with (config.parent / "output.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "erc_llm", "crossfit", str(config), *arguments],
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )


def _close(one: Predictions, other: Predictions) -> None:
    assert (one.keys, one.gold, one.info.folds) == (other.keys, other.gold, other.info.folds)
    assert one.log_likelihoods is not None
    assert other.log_likelihoods is not None
    np.testing.assert_allclose(one.log_likelihoods, other.log_likelihoods, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_folds_side_by_side_give_the_same_table(tiny_llama: TinyModel, done: Crossfitted, tmp_path: Path) -> None:
    config = write_config(tiny_llama, done.corpus, tmp_path)
    assert _start(config, "--folds", str(FOLDS), "--workers", "2").wait(300) == 0
    _close(Crossfitted(config, done.corpus, tmp_path / "runs" / "tiny").table, done.table)
    printed = (tmp_path / "output.txt").read_text("utf-8")
    assert "2 at a time" in printed
    for number in (1, 2):
        assert f"\nfold-{number}: " in printed


@pytest.mark.slow
def test_a_killed_command_goes_on_to_the_same_table(tiny_llama: TinyModel, done: Crossfitted, tmp_path: Path) -> None:
    """At random moments, from outside."""
    config, draw = write_config(tiny_llama, done.corpus, tmp_path), random.Random(2)
    found = Crossfitted(config, done.corpus, tmp_path / "runs" / "tiny")
    process = _start(config, *ONE_BY_ONE)
    assert _until((found.fold(1) / "training.jsonl").exists, 120)
    time.sleep(draw.uniform(0, 1))
    process.kill()
    assert process.wait() == -signal.SIGKILL
    for _ in range(3):
        process = _start(config, *ONE_BY_ONE, "--resume")
        try:
            assert process.wait(draw.uniform(3, 8)) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert _start(config, *ONE_BY_ONE, "--resume").wait(300) == 0
    _close(found.table, done.table)


def _children(pid: int) -> list[int]:
    """Processes that a process has started, and theirs."""
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]
    return found + [pid for child in found for pid in _children(child)]


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are read from /proc")
def test_the_processes_of_the_folds_end_with_a_killed_command(
    tiny_llama: TinyModel, done: Crossfitted, tmp_path: Path
) -> None:
    config = write_config(tiny_llama, done.corpus, tmp_path, training={"epochs": 1000})
    process = _start(config, "--folds", str(FOLDS), "--workers", "2")
    logs = [tmp_path / "runs" / "tiny-folds" / f"fold-{number}" / "training.jsonl" for number in (1, 2)]
    try:
        assert _until(lambda: all(log.exists() and log.stat().st_size for log in logs), 120), "both folds train"
        children = _children(process.pid)
        assert len(children) >= 2
    finally:
        process.kill()
        process.wait()
    assert _until(lambda: not any(map(_alive, children)), 15), "a process goes on without its parent"
    sizes = [log.stat().st_size for log in logs]
    time.sleep(1)
    assert [log.stat().st_size for log in logs] == sizes


# Baselines


BASELINES = ["encoder", "emonet"]


def write_baseline(model: TinyModel, corpus: Path, folder: Path, kind: str) -> Path:
    training = {"epochs": 1, "checkpoint_minutes": 1e6}
    config = baseline_config(model, folder / "runs", kind=kind, corpus={"path": str(corpus)}, training=training)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(config.as_yaml(), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def baseline(tiny_bert: TinyModel, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Crossfitted:
    """A cross-fitted encoder with predictions of dev; do not change it."""
    folder = tmp_path_factory.mktemp("baseline")
    config = write_baseline(tiny_bert, corpus, folder, "encoder")
    assert crossfit_apart(config, *ONE_BY_ONE, "--predict", "dev") == 0
    return Crossfitted(config, corpus, folder / "runs" / "tiny")


def test_a_baseline_predicts_train_out_of_fold(baseline: Crossfitted) -> None:
    train, table = read_corpus(baseline.corpus).split("train"), baseline.table
    assert table.keys == tuple((d.id, u.id) for d in train for u in d.utterances)
    assert table.gold == tuple(u.label for d in train for u in d.utterances)
    assert (table.info.split, table.info.folds, table.info.system) == ("train", FOLDS, "tiny")
    rows = {key: row for row, key in enumerate(table.keys)}
    assert table.probabilities is not None
    for number in range(1, FOLDS + 1):
        left_out = baseline.left_out(number)
        expected = [(d.id, u.id) for d in scenes_of(baseline.corpus, number) for u in d.utterances]
        assert list(left_out.keys) == expected
        np.testing.assert_array_equal(table.probabilities[[rows[key] for key in expected]], left_out.probabilities)


def test_a_baseline_predicts_other_splits_by_the_mean_of_its_folds(baseline: Crossfitted) -> None:
    folds = [read_predictions(baseline.fold(number) / "dev.parquet") for number in range(1, FOLDS + 1)]
    table = read_predictions(baseline.folder / "dev.parquet")
    assert table.keys == folds[0].keys
    assert table.gold == folds[0].gold
    mean = np.mean([fold.probabilities for fold in folds], axis=0)
    np.testing.assert_allclose(table.probabilities, mean, rtol=0, atol=1e-12)
    assert table.predicted == tuple(table.info.labels[k] for k in mean.argmax(axis=1))
    if table.log_likelihoods is not None:
        np.testing.assert_allclose(np.exp(table.log_likelihoods), mean, rtol=0, atol=1e-9)
    assert (table.info.system, table.info.split) == ("tiny", "dev")
    assert table.info.run_id == baseline.table.info.run_id
    assert not np.array_equal(folds[0].probabilities, folds[1].probabilities)  # type: ignore[arg-type]


def test_the_tables_of_a_baseline_are_measured_like_any_other(baseline: Crossfitted, erc: Command) -> None:
    for name in ("crossfit", "dev"):
        said = erc("evaluate", baseline.folder / f"{name}.parquet", "--draws", 100)
        assert said.code == 0, said.err


def test_a_finished_baseline_is_continued_to_the_same_tables(
    baseline: Crossfitted, tmp_path: Path, erc: Command
) -> None:
    shutil.copytree(baseline.folder.parent, tmp_path / "runs")
    again = Crossfitted(baseline.config, baseline.corpus, tmp_path / "runs" / "tiny")
    there = (*ONE_BY_ONE, f"output={tmp_path / 'runs'}", "--predict", "dev")
    refused(erc("crossfit", again.config, *there), str(again.folder), "exists already", "--resume")
    shutil.rmtree(again.folder)
    (again.fold(2) / "left_out.parquet").unlink()
    said = erc("crossfit", again.config, *there, "--resume")
    assert said.code == 0, said.err
    for name in ("crossfit", "dev"):
        one, other = (read_predictions(of.folder / f"{name}.parquet") for of in (baseline, again))
        same_table(one, other)
    refused(erc("crossfit", again.config, *there, "--resume", "training.epochs=2"), "another configuration")


def test_a_baseline_run_of_the_same_name_is_refused_and_stays_as_it_is(
    baseline: Crossfitted, tmp_path: Path, erc: Command
) -> None:
    """With --resume too: it is no cross-fitting that could be continued."""
    other = Path(shutil.copytree(baseline.fold(1), tmp_path / "runs" / "other"))
    before = {path.name: path.read_bytes() for path in other.iterdir()}
    named = ("name=other", f"output={tmp_path / 'runs'}", "--predict", "dev")
    said = erc("crossfit", baseline.config, *ONE_BY_ONE, *named, "--resume")
    assert {path.name: path.read_bytes() for path in other.iterdir()} == before
    refused(said, str(other), "name=")


def test_the_text_can_be_left_out_of_all_tables_of_a_baseline(
    baseline: Crossfitted, tmp_path: Path, erc: Command
) -> None:
    shutil.copytree(baseline.folder.parent, tmp_path / "runs")
    there = (*ONE_BY_ONE, f"output={tmp_path / 'runs'}", "--predict", "dev", "--resume", "--without-text")
    assert erc("crossfit", baseline.config, *there).code == 0
    tables = sorted((tmp_path / "runs").rglob("*.parquet"))
    assert len(tables) == 2 + 3 * FOLDS
    assert [path for path in tables if read_predictions(path).text is not None] == []


def test_a_split_that_is_not_there_is_refused_before_anything_is_trained(
    tiny_bert: TinyModel, corpus: Path, tmp_path: Path, erc: Command
) -> None:
    config = write_baseline(tiny_bert, corpus, tmp_path, "encoder")
    refused(erc("crossfit", config, "--folds", 2, "--predict", "test"), "no split 'test'")
    refused(erc("crossfit", config, "--folds", 50), "cannot make 50 folds")
    refused(erc("crossfit", config, "corpus.fold.number=1"), "corpus.fold", "leave it out")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("kind", BASELINES)
def test_no_fold_of_a_baseline_depends_on_the_labels_that_it_leaves_out(
    kind: str, tiny_bert: TinyModel, corpus: Path, tmp_path: Path
) -> None:
    found = []
    for name, data in (("one", corpus), ("other", relabelled_fold(corpus, tmp_path / "corpus"))):
        config = write_baseline(tiny_bert, data, tmp_path / name, kind)
        assert crossfit_apart(config, *ONE_BY_ONE) == 0
        found.append(Crossfitted(config, data, tmp_path / name / "runs" / "tiny"))
    one, other = found
    weights = [[(of.fold(number) / "model.safetensors").read_bytes() for of in found] for number in (1, 2)]
    assert weights[0][0] == weights[0][1]
    assert weights[1][0] != weights[1][1], "the labels matter to the other fold"
    np.testing.assert_array_equal(one.left_out(1).probabilities, other.left_out(1).probabilities)
    assert one.left_out(1).gold != other.left_out(1).gold
    assert scores(one.fold(1)) == scores(other.fold(1)) != []


@pytest.mark.slow
@pytest.mark.parametrize("kind", BASELINES)
def test_a_killed_baseline_goes_on_to_the_same_tables(
    kind: str, tiny_bert: TinyModel, corpus: Path, tmp_path: Path
) -> None:
    found = []
    for name, moment in (
        ("whole", None),
        ("first", ("erc_llm.baselines.training", "write_predictions", 1)),
        ("second", ("erc_llm.baselines.training", "write_predictions", 4)),
        ("table", ("erc_llm.recipes.crossfit_baseline", "write_predictions", 1)),
    ):
        config = write_baseline(tiny_bert, corpus, tmp_path / name, kind)
        if moment is not None:
            assert crossfit_apart(config, *ONE_BY_ONE, "--predict", "dev", kill=moment) == -signal.SIGKILL
        again = () if moment is None else ("--resume",)
        assert crossfit_apart(config, *ONE_BY_ONE, "--predict", "dev", *again) == 0
        found.append(tmp_path / name / "runs" / "tiny")
    for folder in found[1:]:
        for table in ("crossfit.parquet", "dev.parquet"):
            same_table(read_predictions(found[0] / table), read_predictions(folder / table))
