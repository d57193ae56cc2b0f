"""`erc-llm calibrate` and what comes after it, on a small run trained on balanced classes; and what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from erc_llm.calibration.choose import decide_by_itself
from erc_llm.calibration.store import read_calibration
from erc_llm.predictions import Correction, correct, read_predictions, write_predictions
from erc_llm.runs.directory import read_run
from tests.command_line import Command, refused
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus

SHARES = "0.1,0.1,0.4,0.1,0.1,0.1,0.1"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("calibrating") / "corpus", train=24)


@pytest.fixture(scope="module")
def trained(tiny_llama: TinyModel, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on drawn targets, with a selection split large enough; do not change it."""
    from erc_llm.recipes.train import train

    sections: dict[str, Any] = {
        "sampling": {"scheme": "inverse_frequency"},
        "corpus": {"path": str(corpus), "selection_fraction": 0.5},
        "training": {"evaluations": 1},
    }
    config = tiny_config(tiny_llama, corpus, tmp_path_factory.mktemp("runs"), **sections)
    return train(config, console=Console(quiet=True)).folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run, without calibration."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_calibrate_and_predict(run: Path, erc: Command, tmp_path: Path) -> None:
    done = erc("calibrate", run)
    assert done.code == 0, done.err
    for part in ("before (prior: corpus)", "calibrated", "Weighted F1 %", "NLL", "Chosen: ", "--calibration run"):
        assert part in done.out, part
    stored = read_calibration(read_run(run))
    assert stored.dialogues >= 5
    assert stored.prior is not None

    raw, shifted, calibrated, given = (tmp_path / f"{name}.parquet" for name in ("raw", "prior", "run", "given"))
    assert erc("predict", run, "--out", raw, "--prior", "none").code == 0
    default = erc("predict", run, "--out", shifted)
    assert "corrected: corpus: " in default.out
    done = erc("predict", run, "--out", calibrated, "--calibration", "run", "--abstain-below", 0.3)
    assert done.code == 0, done.err
    assert "of them abstain" in done.out
    assert erc("predict", run, "--out", given, "--prior", SHARES).code == 0

    table = read_predictions(raw)
    assert table.info.prior is table.info.calibration is None
    whole = stored.correction("probable" if stored.decision_strength is None else "weights")
    for path, correction in ((shifted, Correction(stored.prior)), (calibrated, whole)):
        found = read_predictions(path)
        np.testing.assert_array_equal(found.log_likelihoods, table.log_likelihoods)
        assert found.columns() == correct(table, correction).columns()
        assert Correction.of(found.info) == correction
    assert read_predictions(calibrated).info.abstain_below == 0.3
    assert [read_predictions(path).info.selection for path in (raw, calibrated)] == ["selection"] * 2
    assert read_predictions(given).info.prior_shares == pytest.approx([float(s) for s in SHARES.split(",")])

    done = erc("evaluate", calibrated, "--draws", 100)
    assert done.code == 0, done.err
    assert "Abstaining below 30 %" in done.out
    done = erc("evaluate", calibrated, "--draws", 100, "--json", "--plots", tmp_path / "plots")
    assert done.code == 0, done.err
    assert {p.name for p in (tmp_path / "plots").iterdir()} == {"reliability.png", "risk-coverage.png"}
    steps = json.loads(done.out)["calibration"]["steps"]
    assert [s["step"] for s in steps] == ["raw", "prior: corpus", "calibration"]


def test_a_table_saves_the_predicting_and_gives_the_same(run: Path, erc: Command, tmp_path: Path) -> None:
    table = tmp_path / "selection.jsonl"
    assert erc("calibrate", run).code == 0
    predicted = read_calibration(read_run(run))
    assert erc("predict", run, "--split", "selection", "--out", table).code == 0
    (run / "adapter" / "adapter_model.safetensors").unlink()  # no model is needed
    done = erc("calibrate", run, "--predictions", table)
    assert done.code == 0, done.err
    assert read_calibration(read_run(run)) == predicted


def test_calibrate_for_weighted_f1_says_whether_weights_help(run: Path, erc: Command) -> None:
    done = erc("calibrate", run, "--fit-for", "weighted_f1", "--prior", "none")
    assert done.code == 0, done.err
    stored = read_calibration(read_run(run))
    assert "before (no prior correction)" in done.out
    assert ("decision weights: " in done.out) == (stored.decision_strength is not None)
    assert ("No decision weights" in done.out) == (stored.decision_strength is None)
    refused(erc("predict", run, "--calibration", "run", "--prior", "corpus"), "fitted on top of no prior correction")


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_an_unbalanced_run_predicts_the_same_bytes_with_and_without_its_prior(
    tiny_llama: TinyModel, tmp_path: Path, erc: Command, suffix: str
) -> None:
    from erc_llm.recipes.train import train

    folder = write_corpus(tmp_path / "corpus")
    config = tiny_config(tiny_llama, folder, tmp_path, training={"evaluations": 0})
    plain = train(config, console=Console(quiet=True)).folder
    for prior in ("auto", "none", "corpus"):
        assert erc("predict", plain, "--out", tmp_path / f"{prior}{suffix}", "--prior", prior).code == 0
    auto, none, corpus = ((tmp_path / f"{prior}{suffix}").read_bytes() for prior in ("auto", "none", "corpus"))
    assert auto == none == corpus
    # Trained without evaluations, it has seen all of train, and no split of it is held out.
    refused(erc("calibrate", plain), str(plain), "training.evaluations=0", "no held-out selection split")
    seen = tmp_path / "seen.parquet"
    assert erc("predict", plain, "--split", "selection", "--out", seen).code == 0
    refused(erc("calibrate", plain, "--predictions", seen), "no held-out selection split")
    assert not (plain / "calibration.json").exists()


def test_too_few_dialogues_are_refused(tiny_llama: TinyModel, tmp_path: Path, erc: Command) -> None:
    from erc_llm.recipes.train import train

    config = tiny_config(tiny_llama, write_corpus(tmp_path / "corpus"), tmp_path)
    run = train(config, console=Console(quiet=True)).folder
    refused(erc("calibrate", run), "at least 5", "selection split")
    assert not (run / "calibration.json").exists()


def test_a_table_of_something_else_is_refused(run: Path, corpus: Path, erc: Command, tmp_path: Path) -> None:
    table = tmp_path / "t.parquet"
    assert erc("predict", run, "--split", "dev", "--out", table).code == 0
    refused(erc("calibrate", run, "--predictions", table), str(table), "split: found dev, expected selection")
    good = read_predictions(table)
    labels = (*good.info.labels[1:], good.info.labels[0])
    for changed, parts in (
        ({"split": "selection", "run_id": "other-1"}, ("run: found other-1, expected tiny-",)),
        ({"split": "selection", "labels": labels}, ("labels: found Mad, Neutral",)),
        ({"split": "selection", "train_sha256": "0" * 64}, ("train of the corpus: found hash 000000000000, ",)),
        (
            {"split": "selection", "train_sha256": None, "corpus_sha256": "0" * 64},
            (": corpus: found hash 000000000000, expected hash ",),
        ),
        ({"run_id": None}, ("split: found dev", "run: found None")),
    ):
        write_predictions(replace(good, info=replace(good.info, **changed)), table)  # type: ignore[arg-type]
        refused(erc("calibrate", run, "--predictions", table), *parts)
    refused(erc("calibrate", run, "--predictions", tmp_path / "gone.parquet"), "no such file")
    refused(erc("calibrate", run, corpus, "--predictions", table), "CORPUS and --predictions exclude each other")
    assert not (run / "calibration.json").exists()


def test_another_corpus_is_refused(run: Path, erc: Command, tmp_path: Path) -> None:
    """Its selection split may hold scenes that the run was trained on."""
    other = write_corpus(tmp_path / "other", train=26)
    refused(erc("calibrate", run, other), "train of the corpus: found hash", "not the selection split")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--prior", "0.5,0.5"), ("expected 7 shares", "found 2", "Joyful")),
        (("--prior", "0.5,0.6,-0.1,0,0,0,0"), ("at least 0",)),
        (("--prior", "0.2,0.2,0.2,0.2,0.2,0.2,0.2"), ("sum of 1.4",)),
        (("--prior", "flat"), ("expected auto, none, corpus, or shares",)),
        (("--calibration", "run"), ("calibration.json: no such file", "erc-llm calibrate")),
        (("--interactive", "--abstain-below", "0.5"), ("--interactive",)),
    ],
)
def test_a_wrong_correction_is_one_message(
    run: Path, erc: Command, tmp_path: Path, arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    refused(erc("predict", run, "--out", tmp_path / "t.parquet", *arguments), *parts)
    assert not (tmp_path / "t.parquet").exists()


def test_a_damaged_calibration_is_one_message(run: Path, erc: Command, tmp_path: Path) -> None:
    assert erc("calibrate", run).code == 0
    path = run / "calibration.json"
    whole = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(whole)[:-40], "utf-8")
    predict = ("predict", run, "--out", tmp_path / "t.parquet", "--calibration", "run")
    refused(erc(*predict), str(path), "broken JSON", "erc-llm calibrate")
    path.write_text(json.dumps(whole | {"labels": whole["labels"][::-1]}), "utf-8")
    refused(erc(*predict), str(path), "labels Scared, Sad", "the run has Joyful")


@pytest.mark.parametrize("arguments", [("--calibration", "best"), ("--abstain-below", "1.5")])
def test_a_choice_that_is_none_is_a_wrong_call(run: Path, erc: Command, arguments: tuple[str, ...]) -> None:
    done = erc("predict", run, *arguments)
    assert done.code == 2
    assert "Usage" in done.err


def test_plots_need_probabilities(run: Path, erc: Command, tmp_path: Path) -> None:
    table = tmp_path / "t.parquet"
    assert erc("predict", run, "--out", table).code == 0
    write_predictions(replace(read_predictions(table), probabilities=None), table)
    refused(erc("evaluate", table, "--draws", 100, "--plots", tmp_path / "plots"), "--plots: needs probabilities")
    refused(erc("evaluate", table, "--draws", 100, "--abstain-below", 0.5), "no probabilities")
    assert not (tmp_path / "plots").exists()


def test_corrections_are_of_scores_and_of_those_they_were_fitted_on(run: Path, erc: Command, tmp_path: Path) -> None:
    """A run on balanced classes: its scores get a prior by default, what it writes gets none."""
    table = tmp_path / "t.parquet"
    assert erc("predict", run, "--out", table).code == 0
    assert read_predictions(table).info.prior is not None
    assert erc("predict", run, "--out", table, "--decode", "generate").code == 0
    info = read_predictions(table).info
    assert (info.prior, info.calibration, info.decoding) == (None, None, "constrained generation")
    for arguments in (("--prior", "corpus"), ("--prior", SHARES)):
        refused(erc("predict", run, "--decode", "free", *arguments), "scoring.decode=free gives no scores")
    refused(erc("predict", run, "--decode", "generate", "--abstain-below", 0.3), "probabilities", "decode=generate")
    assert erc("calibrate", run).code == 0
    refused(erc("predict", run, "--decode", "generate", "--calibration", "run"), "decode=generate gives no scores")
    averaged = ("--set", "scoring.label_orders=2")
    refused(erc("predict", run, *averaged, "--calibration", "run"), "scoring.label_orders=1, found 2")
    assert erc("predict", run, *averaged, "--split", "selection", "--out", table).code == 0
    assert read_predictions(table).info.prior is not None, "means of scores are corrected as scores are"
    found = "decoding: found mean of 2 label orders, expected scores"
    refused(erc("calibrate", run, "--predictions", table), found)


def test_a_run_whose_tables_are_written_still_scores_as_it_was_trained(run: Path) -> None:
    """What answers one dialogue, or a line at once, is corrected whatever tables are made by."""
    from erc_llm.predictor import load
    from tests.tiny_runs import dialogue

    scored, written = (load(run, overrides=[f"scoring.decode={decode}"]) for decode in ("score", "generate"))
    assert written.correction == scored.correction
    one, other = (p.predict(dialogue(0, 4)) for p in (scored, written))
    assert [line.probabilities for line in one] == [line.probabilities for line in other]


def test_answers_come_from_the_stored_rule_or_from_one_found_on_the_split(
    run: Path, erc: Command, tmp_path: Path
) -> None:
    table = tmp_path / "dev.parquet"
    refused(erc("predict", run, "--decide", "weighted_f1"), "no decision rule 'weighted_f1' yet; `erc-llm calibrate")
    assert erc("calibrate", run).code == 0
    stored = read_calibration(read_run(run))
    plain = erc("predict", run, "--out", table)
    assert "decided: the most probable label" in plain.out
    raw = read_predictions(table)

    done = erc("predict", run, "--out", table, "--decide", "weighted_f1")
    assert "decided: the label that is best for weighted F1, by a rule found on other data (inductive)" in done.out
    inductive = read_predictions(table)
    assert Correction.of(inductive.info) == stored.correction("weighted_f1")
    assert inductive.info.decision == "weighted_f1"
    assert inductive.info.selection == "selection"

    done = erc("predict", run, "--out", table, "--decide", "macro_f1", "--transductive")
    assert "found on this table itself (transductive)" in done.out
    transductive = read_predictions(table)
    assert Correction.of(transductive.info).scaling is None
    np.testing.assert_array_equal(transductive.probabilities, raw.probabilities)
    assert transductive.predicted == decide_by_itself(raw, "macro_f1").predicted

    assert erc("calibrate", run, "--decide", "macro_f1").code == 0
    assert "best for macro F1" in erc("predict", run, "--out", table).out
    assert Correction.of(read_predictions(table).info) == stored.correction("macro_f1")
    assert "most probable" in erc("predict", run, "--out", table, "--decide", "probable").out
    assert Correction.of(read_predictions(table).info) == stored.correction()
    assert erc("predict", run, "--out", table, "--calibration", "none").code == 0
    assert read_predictions(table).predicted == raw.predicted
    wrong = "decide=weights: it needs --fit-for weighted_f1; choose another rule; nothing was stored"
    refused(erc("calibrate", run, "--decide", "weights"), wrong)
    assert read_calibration(read_run(run)).decide == "macro_f1"


def test_a_rule_found_on_the_split_is_refused_where_there_is_no_split_or_nothing_to_decide_by(
    run: Path, erc: Command
) -> None:
    itself = ("predict", run, "--transductive")
    refused(erc(*itself), "--transductive: finds a rule for F1; give --decide weighted_f1 or macro_f1")
    refused(erc(*itself, "--decide", "weights"), "--transductive: finds a rule for F1")
    refused(erc(*itself, "--decide", "macro_f1", "--decode", "generate"), "--transductive: needs probabilities")
    refused(erc(*itself, "--decide", "macro_f1", "--interactive"), "cannot decide single lines")
