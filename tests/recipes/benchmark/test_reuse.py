"""`erc-llm benchmark` again: what is there already is used where it still fits, and made anew where it does not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from erc_llm.predictions import Predictions, read_predictions
from erc_llm.runs.directory import read_run
from tests.baselines.small import baseline_config
from tests.command_line import Command, refused
from tests.corpus import small_files
from tests.recipes.benchmark.small_systems import ENCODER, LLM, write_systems
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus

ALONE = LLM | {"average": False, "seeds": [1]}
OTHER = ENCODER | {"seeds": [1]}
COMMAND = ("benchmark", "systems.yaml", "--data", "data", "--out", "out", "--split", "dev", "--draws", 100)
TABLES = Path("out", "tables", "original-dev")
RUNS = Path("out", "runs")


@pytest.fixture(autouse=True)
def one_version(place: Path) -> None:
    """One version is enough here."""
    shutil.rmtree(place / "data" / "aligned")


def done(erc: Command, *options: object) -> str:
    found = erc(*COMMAND, *options)
    assert found.code == 0, found.err
    return found.out


def averaged() -> Predictions:
    return read_predictions(TABLES / "llm-original-average.parquet")


def differ(one: Predictions, other: Predictions) -> bool:
    assert one.log_likelihoods is not None
    assert other.log_likelihoods is not None
    return not np.array_equal(one.log_likelihoods, other.log_likelihoods)


@pytest.mark.slow
def test_an_average_is_made_and_scored_anew_for_other_seeds(place: Path, erc: Command) -> None:
    write_systems(place, LLM | {"calibration": "nll"}, OTHER)
    done(erc)
    before = averaged()
    write_systems(place, LLM | {"calibration": "nll", "seeds": [1, 3]}, OTHER)
    done(erc)
    run = read_run(RUNS / "llm-original-average")
    assert run.manifest.averaged == tuple(read_run(RUNS / f"llm-original-{seed}").manifest.run_id for seed in (1, 3))
    assert averaged().info.run_id == run.manifest.run_id != before.info.run_id
    assert differ(averaged(), before)
    assert not list(RUNS.glob(".*")), "nothing is left of the older one"


@pytest.mark.slow
def test_an_average_is_made_and_scored_anew_when_its_runs_were(place: Path, erc: Command) -> None:
    """Trained again under the same names, on other data: all ids are those of before."""
    write_systems(place, LLM, OTHER)
    done(erc)
    before = averaged()
    write_corpus(place / "data" / "original", train=24, dev=3)
    for name in ("llm-original-1", "llm-original-2", "encoder-original-1"):
        shutil.rmtree(RUNS / name)
    done(erc)
    trained = read_run(RUNS / "llm-original-1").manifest
    assert read_run(RUNS / "llm-original-average").manifest.train_sha256 == trained.train_sha256
    assert averaged().info.trained_on_sha256 == trained.train_sha256 != before.info.trained_on_sha256
    assert differ(averaged(), before)


@pytest.mark.slow
def test_a_training_in_the_place_of_an_average_is_left_alone(place: Path, erc: Command) -> None:
    write_systems(place, ALONE, OTHER)
    done(erc)
    (RUNS / "llm-original-1").rename(RUNS / "llm-original-average")
    write_systems(place, LLM, OTHER)
    refused(erc(*COMMAND), "llm-original-average: contains a training run, not an average, so it is not replaced")


@pytest.mark.slow
def test_what_is_written_is_used_again_though_classes_were_balanced(place: Path, erc: Command) -> None:
    balanced = ["scoring.decode=generate", "sampling.scheme=inverse_frequency", "sampling.allow_absent=true"]
    write_systems(place, ALONE | {"overrides": balanced}, OTHER)
    done(erc)
    before = (TABLES / "llm-original-1.parquet").read_bytes()
    done(erc)
    assert (TABLES / "llm-original-1.parquet").read_bytes() == before


@pytest.mark.slow
def test_a_run_is_calibrated_where_its_data_is_now(place: Path, erc: Command) -> None:
    write_systems(place, ALONE, OTHER)
    done(erc)
    (place / "data").rename(place / "moved")
    write_systems(place, ALONE | {"calibration": "nll"}, OTHER)
    done(erc, "--data", "moved")
    assert read_predictions(TABLES / "llm-original-1.parquet").info.calibration is not None


@pytest.mark.slow
def test_tables_in_run_directories_lose_their_text(place: Path, erc: Command) -> None:
    write_systems(place, LLM, OTHER)
    done(erc)
    kept = [RUNS / f"llm-original-{name}" / "selection.parquet" for name in ("1", "average")]
    for path in kept:
        assert erc("predict", path.parent, "--split", "selection", "--out", path).code == 0
        assert read_predictions(path).text is not None
    done(erc, "--without-text")
    assert [read_predictions(path).text for path in kept] == [None, None]


@pytest.mark.slow
def test_a_damaged_table_is_predicted_anew(place: Path, erc: Command) -> None:
    write_systems(place, OTHER, OTHER | {"name": "other", "seeds": [2]})
    done(erc)
    path = TABLES / "encoder-original-1.parquet"
    before = path.read_bytes()
    path.write_bytes(before[:100])
    done(erc)
    assert path.read_bytes() == before


@pytest.mark.slow
def test_tables_of_a_healed_corpus_are_used_again(
    tiny_llama: TinyModel, tiny_bert: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, erc: Command
) -> None:
    """A line that aligned lacks is context from original, so the corpus that is read is neither of the two."""
    small_files.write(tmp_path / "healed" / "original", "original")
    (tmp_path / "healed" / "aligned").mkdir()
    for split, lines in small_files.SPLITS.items():
        kept = [line for line in lines if split != "dev" or line.number != 2]
        (tmp_path / "healed" / "aligned" / f"{split}.txt").write_text(small_files.aligned(kept), encoding="utf-8")
    corpus: dict[str, Any] = {"selection_fraction": 0.5}
    llm = tiny_config(tiny_llama, tmp_path, tmp_path, corpus=corpus, training={"evaluations": 1})
    Path("llm.yaml").write_text(llm.as_yaml(), encoding="utf-8")
    Path("encoder.yaml").write_text(baseline_config(tiny_bert, tmp_path, corpus=corpus).as_yaml(), encoding="utf-8")
    probable = {"decide": "probable"}  # the held-out dialogues are too few to calibrate on
    write_systems(tmp_path, ALONE | probable, OTHER | probable)
    done(erc, "--data", "healed")
    assert read_predictions(Path("out", "tables", "aligned-dev", "llm-original-1.parquet")).info.healed

    def predicted_again(*_: Any, **__: Any) -> None:
        raise AssertionError("everything was predicted already")

    monkeypatch.setattr("erc_llm.predictor.load", predicted_again)
    done(erc, "--data", "healed")
