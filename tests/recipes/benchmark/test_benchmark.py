"""`erc-llm benchmark`: systems trained on one version or on each, scored on every split that is there, and compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from erc_llm.calibration.choose import correction_from
from erc_llm.calibration.store import read_calibration
from erc_llm.errors import ConfigError, CorpusError
from erc_llm.predictions import Correction, read_predictions, write_predictions
from erc_llm.predictions.correction import MOST_PROBABLE
from erc_llm.recipes.benchmark import find_versions
from erc_llm.recipes.benchmark_config import BenchmarkConfig, read_benchmark_config
from erc_llm.runs.directory import read_run
from tests.command_line import Command, refused
from tests.corpus import small_files
from tests.recipes.benchmark.small_systems import ENCODER, LLM, write_systems
from tests.tiny_models import TinyModel
from tests.tiny_runs import as_json, dialogue


@pytest.mark.slow
def test_every_version_and_labelled_split_is_compared_and_nothing_is_done_twice(
    place: Path, erc: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems = write_systems(place, LLM | {"calibration": "nll"}, ENCODER)
    command = ("benchmark", systems, "--data", "data", "--out", "out", "--draws", 100)
    done = erc(*command)
    assert done.code == 0, done.err
    assert "aligned, test: no gold labels" in done.out
    assert {path.name for path in (place / "out").iterdir()} == {"runs", "tables", "original-dev", "aligned-dev"}
    for version in ("original", "aligned"):
        report = json.loads((place / "out" / f"{version}-dev" / "comparison.json").read_text())
        assert [(s["name"], len(s["runs"])) for s in report["systems"]] == [("llm", 1), ("encoder", 2)]
    tables = place / "out" / "tables"
    found = {str(path.relative_to(tables)) for path in tables.rglob("*.parquet")}
    of_encoder = {f"{v}-dev/encoder-{v}-{seed}.parquet" for v in ("original", "aligned") for seed in (1, 2)}
    assert of_encoder <= found
    averaged = read_run(place / "out" / "runs" / "llm-original-average")
    assert len(averaged.manifest.averaged) == 2
    for name in ("original-dev", "aligned-dev", "aligned-test"):
        info = read_predictions(tables / name / "llm-original-average.parquet").info
        assert info.run_id == averaged.manifest.run_id
        assert info.calibration is not None
        assert info.corpus_sha256 != averaged.manifest.corpus_sha256 or name.startswith("original")

    def trained_again(*_: Any, **__: Any) -> None:
        raise AssertionError("everything was trained and predicted already")

    monkeypatch.setattr("erc_llm.predictor.load", trained_again)
    monkeypatch.setattr("erc_llm.baselines.training.TrainedBaseline.predict", trained_again)
    again = erc(*command)
    assert again.code == 0, again.err
    assert again.out.count("report: ") == 2


@pytest.mark.slow
def test_labels_that_come_later_are_taken_in_and_a_calibration_of_another_kind_is_made_anew(
    place: Path, erc: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who hold the test files may add them to a folder with finished trainings; nothing is trained again."""
    systems = write_systems(place, LLM | {"calibration": "nll"}, ENCODER)
    command = ("benchmark", systems, "--data", "data", "--out", "out", "--draws", 100)
    assert erc(*command).code == 0
    labelled = json.dumps(as_json(dialogue(7, 3, season=3)))
    for version in ("original", "aligned"):
        (place / "data" / version / "test.jsonl").write_text(labelled + "\n", encoding="utf-8")
    write_systems(place, LLM | {"calibration": "weighted_f1"}, ENCODER)

    def trained_again(*_: Any, **__: Any) -> None:
        raise AssertionError("everything was trained already")

    monkeypatch.setattr("erc_llm.recipes.train.Training.run", trained_again)
    monkeypatch.setattr("erc_llm.baselines.training.Fitting", trained_again)
    again = erc(*command)
    assert again.code == 0, again.err
    assert again.out.count("report: ") == 4
    run = read_run(place / "out" / "runs" / "llm-original-average")
    assert read_calibration(run).fit_for == "weighted_f1"
    for name in ("original-dev", "original-test", "aligned-test"):
        table = read_predictions(place / "out" / "tables" / name / "llm-original-average.parquet")
        assert Correction.of(table.info) == read_calibration(run).correction("weighted_f1")
        assert (table.info.trained_on_version, table.info.trained_on_sha256) == ("own", run.manifest.train_sha256)
    assert table.gold is not None


@pytest.mark.slow
def test_a_baseline_with_a_weighted_loss_is_decided_after_its_prior_is_taken_back(place: Path, erc: Command) -> None:
    """As a language model with balanced classes is; the answers as trained are shown too."""
    weighted = ENCODER | {"name": "emonet", "seeds": [1], "overrides": ["kind=emonet"]}
    as_trained = ENCODER | {"name": "as-trained", "seeds": [1], "decide": "probable"}
    done = erc(
        "benchmark", write_systems(place, weighted, as_trained), "--data", "data", "--out", "out", "--draws", 100
    )
    assert done.code == 0, done.err
    tables = {path.stem: read_predictions(path) for path in (place / "out" / "tables" / "original-dev").iterdir()}
    decided, plain = tables["emonet-original-1"], tables["as-trained-original-1"]
    held_out = read_predictions(place / "out" / "runs" / "emonet-original-1" / "selection.parquet")
    assert Correction.of(decided.info) == correction_from(held_out, "weighted_f1")
    assert decided.info.prior is not None
    assert Correction.of(plain.info) == Correction()
    report = json.loads((place / "out" / "original-dev" / "comparison.json").read_text())
    answers = [row["answers"] for row in report["decided"] if row["system"] == "emonet"]
    assert len(answers) == 3
    assert answers[0] == MOST_PROBABLE


@pytest.mark.slow
def test_a_cross_fitted_language_model_answers_by_its_own_rule(place: Path, erc: Command) -> None:
    """Twice: everything that is finished is used again."""
    overrides = ["training.evaluations=0", "training.epochs=1"]
    llm = {"name": "llm", "config": "llm.yaml", "overrides": overrides, "seeds": [1], "folds": 2}
    systems = write_systems(place, llm, ENCODER | {"seeds": [1]})
    command = ("benchmark", systems, "--data", "data", "--out", "out", "--split", "dev", "--draws", 100)
    for _ in range(2):
        done = erc(*command)
        assert done.code == 0, done.err
    run = read_run(place / "out" / "runs" / "llm-aligned-1")
    table = read_predictions(place / "out" / "tables" / "aligned-dev" / "llm-aligned-1.parquet")
    assert (run.manifest.folds, table.info.run_id) == (2, run.manifest.run_id)
    assert Correction.of(table.info) == read_calibration(run).correction("weighted_f1")


def test_a_system_without_held_out_predictions_is_refused_before_any_is_trained(place: Path, erc: Command) -> None:
    blind = {"name": "llm", "config": "llm.yaml", "overrides": ["training.evaluations=0"], "seeds": [1]}
    command = ("benchmark", write_systems(place, ENCODER, blind), "--data", "data", "--out", "out", "--draws", 100)
    refused(erc(*command), "llm: decide=weighted_f1", "decide: probable, or folds: 5")
    assert not (place / "out").exists()


def test_a_missing_encoder_is_known_before_anything_is_trained(place: Path, erc: Command) -> None:
    away = ENCODER | {"overrides": ["encoder.base=./away"]}
    command = ("benchmark", write_systems(place, LLM, away), "--data", "data", "--out", "out", "--draws", 100)
    refused(erc(*command), "./away", "no such folder")
    assert not (place / "out").exists()


@pytest.mark.slow
def test_one_split_without_text(place: Path, erc: Command) -> None:
    systems = write_systems(place, ENCODER | {"seeds": [1]}, ENCODER | {"name": "other", "seeds": [2]})
    done = erc(
        "benchmark", systems, "--data", "data", "--out", "out", "--split", "dev", "--draws", 100, "--without-text"
    )
    assert done.code == 0, done.err
    assert "test" not in {path.name.rpartition("-")[2] for path in (place / "out" / "tables").iterdir()}
    assert read_predictions(place / "out" / "tables" / "aligned-dev" / "other-aligned-2.parquet").text is None
    assert not _told(place)


def _told(place: Path) -> bool:
    """Whether anything in the folder of results holds what was said."""
    scenes = (place / "data" / "aligned" / "dev.jsonl").read_text("utf-8").splitlines()
    first = json.loads(scenes[0])["utterances"][0]
    files = [path for path in (place / "out").rglob("*") if path.suffix in (".md", ".html", ".json")]
    tables = [read_predictions(path) for path in (place / "out").rglob("*.parquet")]
    assert files
    assert tables
    return any(first["text"] in path.read_text("utf-8") for path in files) or any(t.text is not None for t in tables)


@pytest.mark.slow
def test_text_is_left_out_of_what_was_there_already_and_comes_back(place: Path, erc: Command) -> None:
    systems = write_systems(place, ENCODER | {"seeds": [1]}, ENCODER | {"name": "other", "seeds": [2]})
    command = ("benchmark", systems, "--data", "data", "--out", "out", "--runs", "trained", "--draws", 100)
    for without, told in (((), True), (("--without-text",), False), ((), True)):
        assert erc(*command, *without).code == 0
        assert _told(place) is told


@pytest.mark.slow
def test_a_table_of_another_training_of_the_same_name_is_made_anew(
    place: Path, tiny_bert: TinyModel, erc: Command
) -> None:
    systems = write_systems(place, ENCODER | {"seeds": [1]}, ENCODER | {"name": "other", "seeds": [2]})
    command = ("benchmark", systems, "--data", "data", "--out", "out", "--split", "dev", "--draws", 100)
    assert erc(*command).code == 0
    path = place / "out" / "tables" / "original-dev" / "encoder-original-1.parquet"
    before = read_predictions(path)
    write_predictions(replace(before, info=replace(before.info, base_model_sha256="ee" * 32)), path)
    assert erc(*command).code == 0
    assert read_predictions(path).info == before.info


def test_what_there_is_to_score_is_known_before_anything_is_trained(
    place: Path, erc: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing should be trained")

    systems = write_systems(place, LLM, ENCODER)
    command = ("benchmark", systems, "--data", "data", "--out", "out", "--draws", 100)
    with monkeypatch.context() as patched:
        patched.setattr("erc_llm.recipes.train.train", trained)
        patched.setattr("erc_llm.baselines.training.train_baseline", trained)
        refused(erc(*command, "--split", "tset"), "no split 'tset' to score", "original has", "aligned has")
        for file in (place / "data").rglob("*.jsonl"):
            if file.stem != "train":
                file.unlink()
        refused(erc(*command), "nothing to score: original and aligned have only train; add files of dev or test")
        (place / "data" / "aligned" / "train.jsonl").write_text("{", encoding="utf-8")
        refused(erc(*command), "aligned/train.jsonl")


@pytest.mark.slow
def test_a_split_that_one_version_lacks_is_scored_where_it_is(place: Path, erc: Command) -> None:
    systems = write_systems(place, ENCODER | {"seeds": [1]}, ENCODER | {"name": "other", "seeds": [2]})
    (place / "data" / "original" / "dev.jsonl").unlink()
    done = erc("benchmark", systems, "--data", "data", "--out", "out", "--split", "dev", "--draws", 100)
    assert done.code == 0, done.err
    assert "original: no split 'dev', so it is not scored there" in done.out
    assert done.out.count("report: ") == 1


def test_a_folder_that_holds_another_version_is_refused(erc: Command, tmp_path: Path) -> None:
    for folder, version in (("original", "original"), ("aligned", "original")):
        small_files.write(tmp_path / folder, version)
    systems = write_systems(tmp_path, ENCODER | {"seeds": [1]}, ENCODER | {"name": "other", "seeds": [2]})
    refused(erc("benchmark", systems, "--data", tmp_path), "called aligned, but holds version original; rename it")


@pytest.mark.parametrize(
    ("systems", "words"),
    [
        ([LLM], "at least 2"),
        ([LLM, LLM], "same name"),
        ([LLM, {"name": "x"}], "exactly one of config and baseline"),
        ([LLM, LLM | {"name": "x", "seeds": [1]}], "at least two seeds"),
        ([LLM, ENCODER | {"seeds": [1, 1]}], r"expected different seeds, found \[1, 1\]"),
        ([LLM, ENCODER | {"seeds": [-1]}], "greater than or equal to 0"),
        ([LLM, ENCODER | {"seeds": [2**32]}], "less than 4294967296"),
        ([LLM, ENCODER | {"calibration": "nll"}], "not to a baseline"),
        ([LLM, ENCODER | {"colour": "red"}], "colour"),
    ],
)
def test_a_wrong_file_of_systems_is_refused(systems: list[dict[str, Any]], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        read_benchmark_config(str(write_systems(tmp_path, *systems)))


def test_unknown_benchmarks_and_missing_data_are_refused(erc: Command, tmp_path: Path) -> None:
    refused(erc("benchmark", "meld", "--data", tmp_path), "meld", "emorynlp", "YAML file")
    refused(erc("benchmark", "emorynlp", "--data", tmp_path), str(tmp_path), "original/ and aligned/")
    (tmp_path / "aligned").mkdir()
    with pytest.raises(CorpusError, match="no original/ in it, which llm is trained on"):
        find_versions(tmp_path, BenchmarkConfig.model_validate({"systems": [LLM, ENCODER]}))


def test_the_packaged_finalists_can_be_read() -> None:
    assert len(read_benchmark_config("emorynlp").systems) >= 2
