"""What a cross-fitting refuses, before anything is trained where that can be known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from erc_llm.recipes.crossfit_folds import Folds
from tests.command_line import Command, refused
from tests.recipes.crossfit.crossfitted import (
    ONE_BY_ONE,
    SCENES,
    Crossfitted,
    relabel,
    same_results,
    scenes_of,
    write_config,
)
from tests.tiny_models import TinyModel


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


def test_a_fold_without_a_class_to_balance_is_refused_before_anything_is_trained(
    tiny_llama: TinyModel, corpus: Path, tmp_path: Path, erc: Command
) -> None:
    """The first fold could be trained; the second one lacks a label, so it is not trained in vain."""
    changed = Path(shutil.copytree(corpus, tmp_path / "corpus"))
    ids = {scene.id for scene in scenes_of(corpus, 2)}
    rows = [json.loads(line) for line in (changed / "train.jsonl").read_text("utf-8").splitlines()]
    for row in rows:
        for line in row["utterances"]:
            if row["id"] not in ids and line["label"] == "Sad":
                line["label"] = "Neutral"
    (changed / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    labels = {line["label"] for row in rows if row["id"] in ids for line in row["utterances"]}
    assert "Sad" in labels
    config = write_config(tiny_llama, changed, tmp_path, sampling={"scheme": "square_root"})
    said = erc("crossfit", config, *ONE_BY_ONE)
    refused(said, "fold-2", "sampling.scheme=square_root", "Sad", "sampling.allow_absent=true")
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


def test_a_run_that_has_only_begun_is_refused_before_anything_is_trained(
    tiny_llama: TinyModel, corpus: Path, tmp_path: Path, erc: Command
) -> None:
    """`erc-llm train` leaves its configuration alone behind if it is killed before its manifest."""
    config = write_config(tiny_llama, corpus, tmp_path)
    beginning = tmp_path / "runs" / "tiny"
    beginning.mkdir(parents=True)
    shutil.copyfile(config, beginning / "config.yaml")
    refused(erc("crossfit", config, *ONE_BY_ONE, "--resume"), str(beginning), "not a cross-fitting", "name=")
    assert [path.name for path in (tmp_path / "runs").rglob("*")] == ["tiny", "config.yaml"]


def test_no_more_folds_run_at_a_time_than_there_are() -> None:
    assert Folds(5, at_once=16).side_by_side == 5
    assert Folds(5, at_once=2).side_by_side == 2


def test_a_corpus_that_has_changed_is_refused_on_resume(copied: Crossfitted, tmp_path: Path, erc: Command) -> None:
    changed = Path(shutil.copytree(copied.corpus, tmp_path / "changed"))
    relabel(changed / "train.jsonl", lambda row: True)
    said = erc("crossfit", copied.config, *ONE_BY_ONE, f"corpus.path={changed}", "--resume")
    refused(said, "fold-1", "another train split")
