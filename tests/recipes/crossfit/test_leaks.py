"""What no fold of a cross-fitting may see: the labels of the episodes that it leaves out."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from erc_llm.build import build_prompter
from erc_llm.calibration.store import read_calibration
from erc_llm.config import FoldConfig, RunConfig
from erc_llm.corpus import Corpus, Dialogue, read_corpus
from erc_llm.corpus.splits import leave_out
from tests.recipes.crossfit.crossfitted import (
    FOLDS,
    WEIGHTS,
    Crossfitted,
    check_blind,
    crossfitted,
    read_config,
    relabel,
    relabelled_fold,
    scores,
    write_config,
)
from tests.tiny_models import TinyModel
from tests.tiny_runs import PEOPLE, as_json, dialogue, write_corpus


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
