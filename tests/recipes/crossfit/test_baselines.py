"""Cross-fitting of baselines."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from erc_llm.calibration.choose import correction_from
from erc_llm.corpus import read_corpus
from erc_llm.predictions import Correction, correct, read_predictions
from tests.baselines.small import baseline_config
from tests.command_line import Command, refused
from tests.recipes.crossfit.crossfitted import (
    FOLDS,
    ONE_BY_ONE,
    Crossfitted,
    crossfit_apart,
    relabelled_fold,
    same_table,
    scenes_of,
    scores,
)
from tests.tiny_models import TinyModel
from tests.tiny_runs import OPENINGS

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
    assert table.log_likelihoods is not None
    np.testing.assert_allclose(np.exp(table.log_likelihoods), mean, rtol=0, atol=1e-9)
    assert Correction.of(table.info) == correction_from(baseline.table, "weighted_f1"), "fitted on other episodes"
    assert correct(table, Correction.of(table.info)).predicted == table.predicted
    assert (table.info.system, table.info.split) == ("tiny", "dev")
    assert table.info.run_id == baseline.table.info.run_id
    assert not np.array_equal(folds[0].probabilities, folds[1].probabilities)  # type: ignore[arg-type]


def test_the_tables_of_a_baseline_are_measured_like_any_other(baseline: Crossfitted, erc: Command) -> None:
    for name in ("crossfit", "dev"):
        said = erc("evaluate", baseline.folder / f"{name}.parquet", "--draws", 100)
        assert said.code == 0, said.err


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_text_can_be_left_out_of_all_tables_of_a_baseline(
    baseline: Crossfitted, tmp_path: Path, erc: Command
) -> None:
    shutil.copytree(baseline.folder.parent, tmp_path / "runs")
    there = (*ONE_BY_ONE, f"output={tmp_path / 'runs'}", "--predict", "dev", "--resume", "--without-text")
    assert erc("crossfit", baseline.config, *there).code == 0
    tables = sorted((tmp_path / "runs").rglob("*.parquet"))
    assert len(tables) == 2 + 3 * FOLDS
    assert [path for path in tables if read_predictions(path).text is not None] == []
    reports = sorted((tmp_path / "runs").rglob("report.html"))
    assert len(reports) == 1 + FOLDS
    assert [path for path in reports if any(words in path.read_text("utf-8") for words in OPENINGS)] == []
    with_text = baseline.folder / "report.html"
    assert any(words in with_text.read_text("utf-8") for words in OPENINGS)


def test_a_split_that_is_not_there_is_refused_before_anything_is_trained(
    tiny_bert: TinyModel, corpus: Path, tmp_path: Path, erc: Command
) -> None:
    config = write_baseline(tiny_bert, corpus, tmp_path, "encoder")
    refused(erc("crossfit", config, "--folds", 2, "--predict", "test"), "no split 'test'")
    for split in ("train", "selection", "left_out"):
        refused(erc("crossfit", config, "--folds", 2, "--predict", split), f"--predict {split}", "crossfit.parquet")
    refused(erc("crossfit", config, "--folds", 50), "cannot make 50 folds")
    refused(erc("crossfit", config, "corpus.fold.number=1"), "corpus.fold", "leave it out")
    assert not (tmp_path / "runs").exists()


def test_a_single_baseline_is_decided_by_what_its_selection_split_gives(
    tiny_bert: TinyModel, corpus: Path, tmp_path: Path, erc: Command
) -> None:
    config = write_baseline(tiny_bert, corpus, tmp_path, "emonet")
    half = "corpus.selection_fraction=0.5"
    refused(erc("baseline", config, half, "--decide", "weighted_f1"), "--decide", "--predict")
    predicted = ("--predict", "selection", "--decide", "weighted_f1")
    refused(erc("baseline", config, half, *predicted), "--decide", "selection")
    for options in ((), ("--decide", "weighted_f1", "--resume")):
        assert erc("baseline", config, half, "--predict", "dev", *options).code == 0
        table = read_predictions(tmp_path / "runs" / "tiny" / "dev.parquet")
        held_out = read_predictions(tmp_path / "runs" / "tiny" / "selection.parquet")
        assert Correction.of(held_out.info) == Correction()
        assert Correction.of(table.info) == (correction_from(held_out, "weighted_f1") if options else Correction())
    assert table.info.prior is not None, "its loss is weighted by class"


@pytest.mark.parametrize("kind", ["emonet", pytest.param("encoder", marks=pytest.mark.slow)])
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
