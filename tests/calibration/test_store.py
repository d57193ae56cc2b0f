"""A run's calibration.json: it comes back as written, appears whole or not at all, and belongs to its run only."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from erc_llm.calibration.choose import choose_correction, parse_prior, prior_shift
from erc_llm.calibration.record import Calibration
from erc_llm.calibration.select import calibrate
from erc_llm.calibration.store import read_calibration, write_calibration
from erc_llm.config import RunConfig
from erc_llm.errors import ConfigError, RunError
from erc_llm.predictions import Correction, PriorShift
from erc_llm.runs.directory import Run
from erc_llm.runs.manifest import Manifest
from tests.predictions.scored_tables import CORPUS, LABELS, TRAINED, draw, scored

SHIFT = PriorShift("corpus", TRAINED, CORPUS)
OTHER = (0.1, 0.2, 0.3, 0.4)


def run_in(folder: Path, **changed: Any) -> Run:
    fields = {
        "kind": "adapter", "run_id": "small-1", "status": "finished", "seed": 13, "context": "past", "labels": LABELS,
        "neutral": "Neutral", "train_shares": CORPUS, "training_prior": TRAINED, "config_sha256": "0" * 64,
        "corpus_name": "sample", "corpus_version": "own", "corpus_sha256": "0" * 64, "healed": False,
        "template_sha256": "0" * 64, "base_model": "tiny", "base_model_sha256": "0" * 64, "versions": {},
        "commit": None,
    } | changed  # fmt: skip
    return Run(folder, RunConfig(), Manifest(**fields))


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    evidence, gold = draw(600)
    return calibrate(scored(evidence * 2, gold), SHIFT, "weighted_f1")


@pytest.fixture
def run(tmp_path: Path, calibration: Calibration) -> Run:
    run = run_in(tmp_path)
    write_calibration(run, calibration)
    return run


def test_a_calibration_comes_back_as_it_was_written(run: Run, calibration: Calibration) -> None:
    assert read_calibration(run) == calibration
    assert os.listdir(run.folder) == ["calibration.json"]
    content = json.loads((run.folder / "calibration.json").read_text("utf-8"))
    assert content["format_version"] == 2
    assert content["labels"] == list(LABELS)
    assert content["prior"] == {"name": "corpus", "training": list(TRAINED), "wanted": list(CORPUS)}
    assert len(content["table_sha256"]) == 64
    assert content["before"]["nll"] > content["after"]["nll"]
    assert len(content["candidates"]) == 9


def test_a_full_disk_keeps_the_older_one(run: Run, calibration: Calibration, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (run.folder / "calibration.json").read_bytes()

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match=r"calibration\.json: cannot be written: No space left"):
        write_calibration(run, replace(calibration, seed=1))
    assert [p.read_bytes() for p in run.folder.iterdir()] == [before]


def test_a_file_cut_anywhere_is_refused(run: Run) -> None:
    path = run.folder / "calibration.json"
    whole = path.read_bytes().rstrip()
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(RunError, match=r"calibration\.json: broken JSON .* `erc-llm calibrate"):
            read_calibration(run)


def test_a_missing_file_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=rf"calibration\.json: no such file; make it with `erc-llm calibrate {tmp_path}`"
    ):
        choose_correction(run_in(tmp_path), "auto", "run")


def _with_rule(content: dict[str, Any], **changed: object) -> dict[str, Any]:
    first, *others = content["decisions"]
    return content | {"decisions": [first | {"decision": first["decision"] | changed}, *others]}


def _without(content: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key != name}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: [], "calibration format None"),
        (lambda c: c | {"format_version": 3}, "calibration format 3, expected 1 or 2"),
        (lambda c: _without(c, "temperature"), "temperature: Field required"),
        (lambda c: c | {"temperature": "hot"}, "temperature: Input should be a valid number"),
        (lambda c: c | {"temperature": 0.0}, "temperature above 0"),
        (
            lambda c: c | {"labels": ["Joyful", "Mad", "Sad", "Neutral"]},
            "labels Joyful, Mad, Sad, Neutral, the run has",
        ),
        (lambda c: c | {"run_id": "other-2"}, "was fitted for run other-2, this is small-1"),
        (lambda c: c | {"base_model_sha256": "ee"}, "was fitted for a run on base model ee, this is "),
        (lambda c: c | {"template_sha256": "ee"}, "was fitted for a run with template ee, this is "),
        (lambda c: c | {"train_sha256": "ee"}, "was fitted for a run on train ee, this is "),
        (lambda c: c | {"offsets": [0.0]}, "expected 4 numbers, one per label"),
        (lambda c: c | {"offsets": [0.0, 0.0, 0.0, float("inf")]}, "finite offsets"),
        (lambda c: _with_rule(c, gains=[1.0, 1.0, -1.0, 1.0]), "gains of at least 0, in the decision rule weighted_f1"),
        (
            lambda c: _with_rule(c, costs=[0.0, 0.0, 0.0, float("nan")]),
            "finite numbers, .* the decision rule weighted_f1",
        ),
        (lambda c: _with_rule(c, costs=[0.0]), "expected 4 numbers, one per label"),
        (lambda c: c | {"decide": "macro_f1", "decisions": []}, "names the decision rule macro_f1, and has 0 others"),
        (lambda c: c | {"decide": "best"}, "decide: Input should be"),
        (lambda c: c | {"prior": c["prior"] | {"training": OTHER}}, "corrects another prior"),
        (lambda c: c | {"prior": c["prior"] | {"wanted": [1.0]}}, "expected 4 numbers"),
    ],
)
def test_what_is_no_calibration_of_this_run_is_refused(
    run: Run, spoil: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = run.folder / "calibration.json"
    path.write_text(json.dumps(spoil(json.loads(path.read_text("utf-8")))), "utf-8")
    with pytest.raises(RunError, match=message) as caught:
        read_calibration(run)
    assert caught.value.exit_code == 2
    assert "erc-llm calibrate" in str(caught.value)


# Which correction a run gets.


def test_a_balanced_run_is_corrected_to_the_corpus_unless_told_not_to(run: Run) -> None:
    assert choose_correction(run) == choose_correction(run, "corpus") == Correction(SHIFT)
    assert choose_correction(run, "none") == Correction()
    assert choose_correction(run, OTHER) == Correction(PriorShift("given", TRAINED, OTHER))
    assert choose_correction(run, TRAINED) == Correction()


def test_other_runs_get_nothing(tmp_path: Path) -> None:
    rounding = tuple(share * (1 + 1e-15) for share in CORPUS)
    for seen in (CORPUS, rounding):
        assert choose_correction(run_in(tmp_path, training_prior=seen)) == Correction()
        assert choose_correction(run_in(tmp_path, training_prior=seen), "corpus") == Correction()


def test_a_label_absent_from_train_is_left_alone(tmp_path: Path) -> None:
    manifest = run_in(tmp_path, train_shares=(0.5, 0.3, 0.2, 0.0), training_prior=(1 / 3, 1 / 3, 1 / 3, 0.0)).manifest
    shift = prior_shift(manifest, "auto")
    assert shift is not None
    assert shift.log_ratio[3] == 0
    assert shift.log_ratio[0] > 0


UNSEEN = {"train_shares": (0.5, 0.3, 0.2, 0.0), "training_prior": (0.5, 0.3, 0.2, 0.0)}  # nothing of Sad


def test_an_own_share_of_0_rules_out_a_label_that_training_never_saw(tmp_path: Path) -> None:
    run = run_in(tmp_path, **UNSEEN)
    assert choose_correction(run) == choose_correction(run, "corpus") == Correction()
    for shares in ((0.5, 0.3, 0.2, 0.0), (0.2, 0.2, 0.6, 0.0)):
        found = choose_correction(run, shares).probabilities(np.log([0.5, 0.3, 0.2, 0.9]))
        assert found[3] == 0
        np.testing.assert_allclose(found, shares, atol=1e-15)


def test_an_own_share_for_a_label_that_training_never_saw_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training never saw Sad \(found 0\.1\).* expected a share of 0"):
        choose_correction(run_in(tmp_path, **UNSEEN), (0.4, 0.3, 0.2, 0.1))


def test_a_calibration_on_the_corpus_prior_is_not_one_on_an_own_prior_that_rules_a_label_out(
    tmp_path: Path, calibration: Calibration
) -> None:
    seen = (0.4, 0.4, 0.2, 0.0)
    run = run_in(tmp_path, train_shares=(0.5, 0.3, 0.2, 0.0), training_prior=seen)
    write_calibration(run, replace(calibration, prior=PriorShift("corpus", seen, run.manifest.train_shares)))
    assert choose_correction(run, "corpus", "run").prior is not None
    with pytest.raises(ConfigError, match="fitted on top of the corpus prior"):
        choose_correction(run, run.manifest.train_shares, "run")


def test_a_calibration_brings_the_prior_it_stands_on(run: Run, calibration: Calibration) -> None:
    assert (
        choose_correction(run, "auto", "run")
        == choose_correction(run, "corpus", "run")
        == calibration.correction("weights")
    )
    assert choose_correction(run, CORPUS, "run") == calibration.correction("weights")
    for other in ("none", OTHER):
        with pytest.raises(ConfigError, match=r"fitted on top of the corpus prior 0\.2,0\.05,0\.65,0\.1, found"):
            choose_correction(run, other, "run")


def test_a_base_model_alone_has_neither() -> None:
    assert choose_correction(None) == choose_correction(None, "none") == Correction()
    for prior, calibration in (("corpus", "none"), (OTHER, "none"), ("auto", "run")):
        with pytest.raises(ConfigError, match="base model alone has none"):
            choose_correction(None, prior, calibration)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ((0.5, 0.5), r"expected 4 shares.*found 2; the labels are Joyful, Mad, Neutral, Sad"),
        ((0.5, 0.7, -0.2, 0.0), "at least 0"),
        ((0.5, 0.5, 0.5, 0.5), "sum of 2"),
        ("flat", "expected auto, none, corpus or shares, found 'flat'"),
    ],
)
def test_a_wrong_prior_is_refused(run: Run, prior: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_correction(run, prior)


def test_a_prior_is_typed_as_a_word_or_as_shares() -> None:
    assert [parse_prior(word) for word in ("auto", "none", "corpus")] == ["auto", "none", "corpus"]
    assert parse_prior("0.1, 0.9") == (0.1, 0.9)
    for text in ("", "flat", "0.1;0.9", "0.1,,0.9"):
        with pytest.raises(ConfigError, match="expected auto, none, corpus, or shares"):
            parse_prior(text)


def test_other_words_are_no_calibrations(run: Run) -> None:
    with pytest.raises(ConfigError, match="expected auto, none or run, found 'best'"):
        choose_correction(run, "auto", "best")  # type: ignore[arg-type]
