"""A baseline's run directory: what it holds, what its table says, and that it survives being killed."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from erc_llm.baselines import loop
from erc_llm.baselines.baseline_config import BaselineConfig, load_baseline
from erc_llm.baselines.build import build
from erc_llm.baselines.inputs import corpus_numbers
from erc_llm.baselines.speaker_numbers import read_speakers
from erc_llm.baselines.training import loop_settings
from erc_llm.corpus import Utterance
from erc_llm.errors import CorpusError, RunError
from erc_llm.predictions import read_predictions
from erc_llm.runs.directory import read_run
from erc_llm.runs.logs import read_lines
from erc_llm.runs.manifest import read_manifest, write_manifest
from erc_llm.runs.progress import SILENT
from tests.baselines.small import baseline_config, changed, small_corpus, trained, writer_of
from tests.forked import run_apart
from tests.tiny_models import TinyModel
from tests.tiny_runs import dialogue


@pytest.fixture(scope="module")
def config(tiny_bert: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> BaselineConfig:
    return baseline_config(tiny_bert, tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def run(config: BaselineConfig) -> Path:
    """A finished run; do not change it."""
    return trained(config).folder


def test_a_run_directory_explains_itself(run: Path, config: BaselineConfig) -> None:
    assert {path.name for path in run.iterdir()} == {
        "config.yaml",
        "manifest.json",
        "model.safetensors",
        "selection.jsonl",
        "selection.parquet",
        "speakers.json",
        "training.jsonl",
    }
    assert load_baseline(run / "config.yaml") == config
    manifest = read_manifest(run)
    assert manifest.finished
    assert (manifest.kind, manifest.memory, manifest.selected_by) == (
        "emonet",
        "memory across dialogues",
        "selection",
    )
    assert manifest.corpus_sha256 == small_corpus().sha256
    assert sum(manifest.train_shares) == pytest.approx(1)
    present = [share for share in manifest.training_prior if share]
    assert present == pytest.approx([1 / len(present)] * len(present)), "inverse frequency sees all labels alike"
    steps = [record["step"] for record in read_lines(run / "training.jsonl")]
    assert steps == list(range(1, len(steps) + 1))
    assert {"loss", "grad_norm", "learning_rate", "utterances_per_second"} <= read_lines(run / "training.jsonl")[
        0
    ].keys()
    scores = read_lines(run / "selection.jsonl")
    assert [record["epoch"] for record in scores] == [1, 2]


def test_the_weights_are_those_of_the_best_epoch(run: Path, config: BaselineConfig) -> None:
    scores = read_lines(run / "selection.jsonl")
    best = max(record["weighted_f1"] for record in scores)
    table = read_predictions(run / "selection.parquet")
    from erc_llm.metrics import confusion, scores_from_confusion

    found = scores_from_confusion(confusion(table.gold_index, table.predicted_index, 7))
    assert float(found.weighted_f1) == pytest.approx(best)
    assert sum(record["best"] for record in scores) >= 1


def test_the_table_says_where_it_comes_from(run: Path, config: BaselineConfig) -> None:
    corpus = small_corpus()
    path = trained(config, resume=True).write("dev")
    table = read_predictions(path)
    path.unlink()
    info = table.info
    assert (info.system, info.split, info.context, info.seed) == ("tiny", "dev", "past", 13)
    assert (info.profile, info.retrieval, info.prior, info.calibration) == (
        "memory across dialogues",
        "none",
        None,
        None,
    )
    assert (info.corpus_sha256, info.corpus_version) == (corpus.sha256, "own")
    assert info.config_sha256 == config.sha256
    assert info.run_id == f"tiny-{config.sha256[:8]}"
    assert info.base_model_sha256 == read_manifest(run).base_model_sha256
    assert table.keys == tuple((d.id, u.id) for d in corpus.split("dev") for u in d.utterances)
    assert table.gold == tuple(u.label for d in corpus.split("dev") for u in d.utterances)
    assert table.probabilities is not None
    assert table.probabilities.sum(axis=1) == pytest.approx(np.ones(len(table)))
    assert [info.labels[i] for i in table.probabilities.argmax(axis=1)] == list(table.predicted)
    assert table.log_likelihoods is not None
    assert np.exp(table.log_likelihoods) == pytest.approx(table.probabilities)
    assert table.history_length is not None
    assert table.history_length.max() > 0


def test_text_can_be_left_out(tiny_bert: TinyModel, tmp_path: Path) -> None:
    run = trained(baseline_config(tiny_bert, tmp_path, kind="encoder", training={"epochs": 1}), with_text=False)
    assert read_predictions(run.folder / "selection.parquet").text is None
    assert read_predictions(run.write("dev", with_text=False)).text is None


# --- leaks, in what comes out


def test_nothing_later_changes_an_answer(config: BaselineConfig, run: Path) -> None:
    """With a word of as many tokens the answers before it are the same to the last bit."""
    corpus = small_corpus()
    lines = corpus.split("dev")[2].utterances
    other = tuple(replace(u, text=u.text.upper().replace("THE", "has").replace("MY", "was")) for u in lines[1:])
    new = Utterance("new", ("Nobody Known",), "a line that was not there, by nobody we know", "Mad")
    base = trained(config, corpus, resume=True)
    before = base.predict("dev").probabilities
    assert before is not None
    kept = len(before) - len(lines) + 1
    for altered in ((lines[0], *other), (lines[0],), (*lines, new)):
        whole = changed(corpus, "dev", 2, *altered)
        after = _reopened(base, whole).predict("dev").probabilities
        assert after is not None
        assert after[:kept] == pytest.approx(before[:kept], abs=1e-6)


def test_labels_of_dev_and_of_the_own_episode_change_no_answer(config: BaselineConfig, run: Path) -> None:
    corpus = small_corpus()
    base = trained(config, corpus, resume=True)
    before = base.predict("dev").probabilities
    assert before is not None
    for label in ("Scared", None):
        splits = dict(corpus.splits)
        splits["dev"] = tuple(
            replace(d, utterances=tuple(replace(u, label=label) for u in d.utterances)) for d in splits["dev"]
        )
        after = _reopened(base, replace(corpus, splits=splits)).predict("dev").probabilities
        assert after is not None
        assert after.tobytes() == before.tobytes()


def _reopened(base: Any, corpus: Any) -> Any:
    from erc_llm.baselines.emonet import context_limits
    from erc_llm.baselines.inputs import InputWriter

    writer = InputWriter(corpus, base.loaded.tokenizer, context_limits(base.config))
    return replace(base, corpus=corpus, writer=writer)


def test_a_split_that_comes_later_is_predicted_with_the_numbers_of_the_training(
    config: BaselineConfig, run: Path
) -> None:
    """Its scenes are early ones, whose speakers would have been counted first; they follow instead."""
    corpus = small_corpus()
    early = tuple(
        replace(scene, id=f"early{i}", utterances=(Utterance("a", ("Nobody Known",), "Who is it?"), *scene.utterances))
        for i, scene in enumerate(dialogue(i, 3, season=0) for i in range(2))
    )
    grown = replace(corpus, splits={**corpus.splits, "test": early})
    before = trained(config, corpus, resume=True)
    after = trained(config, grown, resume=True)
    assert after.manifest == before.manifest
    assert len(after.predict("test")) == 8
    numbers = read_speakers(run)
    assert corpus_numbers(grown) != corpus_numbers(grown, numbers)
    assert corpus_numbers(grown, numbers) == {**numbers, "Nobody Known": len(numbers) + 1}
    train = corpus.split("train")
    assert [e.context for e in after.writer.examples(train)] == [e.context for e in before.writer.examples(train)]


def test_an_unfinished_training_does_not_go_on_with_another_corpus(
    config: BaselineConfig, run: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(run, tmp_path / config.name))
    write_manifest(folder, replace(read_manifest(folder), status="training"))
    moved = config.model_copy(update={"output": str(tmp_path)})
    with pytest.raises(RunError, match="corpus_sha256 was"):
        trained(moved, small_corpus(dev=2), resume=True)
    (folder / "speakers.json").write_text('{"Mara Voss": 2}')
    with pytest.raises(RunError, match=r"speakers\.json: the numbers of its speakers cannot be read"):
        trained(moved, resume=True)


# --- taken folders, and what cannot be trained on


def test_a_taken_folder_is_refused(run: Path, config: BaselineConfig, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"this run exists \(finished\); add --resume"):
        trained(config)
    other = config.model_copy(update={"seed": 14})
    with pytest.raises(RunError, match="another configuration; changed: seed"):
        trained(other, resume=True)
    with pytest.raises(RunError, match="train_sha256 was"):
        trained(config, small_corpus(train=9), resume=True)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="exists and is not a run"):
        trained(config.model_copy(update={"output": str(tmp_path)}))


def test_an_adapters_commands_refuse_a_baseline(run: Path) -> None:
    with pytest.raises(
        RunError, match="found a baseline, expected an adapter; `erc-llm baseline CONFIG --resume` predicts with it"
    ):
        read_run(run)


def test_nothing_to_choose_the_epoch_by(tiny_bert: TinyModel, tmp_path: Path) -> None:
    corpus = small_corpus()
    bare = tuple(
        replace(d, utterances=tuple(replace(u, label=None) for u in d.utterances)) for d in corpus.split("selection")
    )
    with pytest.raises(CorpusError, match="no labelled utterance in the selection split"):
        trained(baseline_config(tiny_bert, tmp_path), replace(corpus, splits={**corpus.splits, "selection": bare}))


def test_scoring_and_saving_do_not_slow_the_logged_speed(
    tiny_bert: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which a step takes two seconds, scoring 1,000 and a checkpoint 500."""
    now, sizes = [0.0], []
    step, score, save = loop.Fitting.step, loop.score_metrics, loop.save_checkpoint

    def timed_step(self: Any, examples: Any) -> Any:
        now[0] += 2
        sizes.append(len(examples))
        return step(self, examples)

    def timed(seconds: int, original: Any) -> Any:
        def call(*arguments: Any) -> Any:
            now[0] += seconds
            return original(*arguments)

        return call

    monkeypatch.setattr(loop.Fitting, "step", timed_step)
    monkeypatch.setattr(loop, "score_metrics", timed(1000, score))
    monkeypatch.setattr(loop, "save_checkpoint", timed(500, save))
    monkeypatch.setattr(loop, "TrainingLog", partial(loop.TrainingLog, clock=lambda: now[0]))
    run = trained(baseline_config(tiny_bert, tmp_path, training={"checkpoint_minutes": 0}))
    speeds = [record["utterances_per_second"] for record in read_lines(run.folder / "training.jsonl")]
    assert speeds == [size / 2 for size in sizes]
    assert now[0] == 2 * len(sizes) + 2 * 1000 + (len(sizes) - 1) * 500


@pytest.mark.parametrize("scale", [256.0, 2.0**40])
def test_a_step_in_fp16_scales_its_gradients_and_is_left_out_if_they_overflow(
    scale: float, tiny_bert: TinyModel, tmp_path: Path
) -> None:
    config = baseline_config(tiny_bert, tmp_path, encoder={"precision": "fp16"}, training={"warmup": 0})
    examples = writer_of(config, tiny_bert, small_corpus()).examples(small_corpus().split("train"))
    numbers = loop_settings(config, (1.0,) * 7)
    fitting = loop.Fitting(build(config, 7), examples, examples, numbers, tmp_path, SILENT)
    assert fitting.loaded.dtype is torch.float16
    fitting.embed_once()
    fitting.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    before = {name: p.detach().clone() for name, p in fitting.loaded.model.named_parameters()}
    assert {p.dtype for p in before.values()} == {torch.float32}
    loss, norm = fitting.step(examples[:8])
    changed = any(not torch.equal(p, before[name]) for name, p in fitting.loaded.model.named_parameters())
    overflowed = scale == 2.0**40
    assert changed is not overflowed
    assert math.isfinite(norm) is not overflowed
    assert fitting.scaler.get_scale() == (scale / 2 if overflowed else scale)
    assert math.isfinite(loss)


# --- resuming

STEPPED = {"training": {"checkpoint_minutes": 0, "log_every": 3}}


def _train(text: str, folder: str, resume: bool, die_at: int | None) -> None:
    import torch
    import yaml

    torch.set_num_threads(1)
    if die_at is not None:
        from erc_llm.baselines.loop import Fitting

        original, left = Fitting.step, [die_at]

        def step(self: Any, examples: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(self, examples)

        Fitting.step = step  # type: ignore[method-assign]
    trained(BaselineConfig.model_validate(yaml.safe_load(text) | {"output": folder}), resume=resume)


def _train_apart(config: BaselineConfig, folder: Path, resume: bool = False, die_at: int | None = None) -> int:
    return run_apart(_train, config.as_yaml(), str(folder), resume, die_at)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["cached", "end_to_end"])
def test_a_killed_training_goes_on_to_the_same_weights(tiny_bert: TinyModel, tmp_path: Path, encoding: str) -> None:
    """Killed in the first epoch and again in the second, behind an evaluation."""
    config = baseline_config(tiny_bert, tmp_path, memory={"encoding": encoding}, **STEPPED)
    assert _train_apart(config, tmp_path / "whole") == 0
    whole, killed = tmp_path / "whole" / "tiny", tmp_path / "killed" / "tiny"
    per_epoch = read_lines(whole / "training.jsonl")[-1]["step"] // 2
    assert per_epoch >= 4
    assert _train_apart(config, tmp_path / "killed", die_at=5) == -signal.SIGKILL
    assert (killed / "checkpoint.pt").is_file()
    assert not (killed / "selection.parquet").exists()
    assert _train_apart(config, tmp_path / "killed", resume=True, die_at=per_epoch) == -signal.SIGKILL
    assert _train_apart(config, tmp_path / "killed", resume=True) == 0
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert {path.name for path in killed.iterdir()} == {path.name for path in whole.iterdir()}
    for log, ignored in (("training.jsonl", {"utterances_per_second"}), ("selection.jsonl", {"seconds"})):
        found, expected = (
            [{k: v for k, v in record.items() if k not in ignored} for record in read_lines(folder / log)]
            for folder in (killed, whole)
        )
        assert found == expected, f"{log}: each step once, as in an uninterrupted run"


@pytest.mark.slow
def test_a_killed_training_goes_on_with_less_memory_to_the_same_weights(tiny_bert: TinyModel, tmp_path: Path) -> None:
    """Dropout included: activations are computed again from the same random state."""
    config = baseline_config(tiny_bert, tmp_path, memory={"encoding": "end_to_end"}, **STEPPED)
    assert _train_apart(config, tmp_path / "whole") == 0
    assert _train_apart(config, tmp_path / "killed", die_at=5) == -signal.SIGKILL
    training = config.training.model_copy(update={"gradient_checkpointing": True})
    less = config.model_copy(update={"training": training})
    assert _train_apart(less, tmp_path / "killed", resume=True) == 0
    found, expected = (load_file(tmp_path / name / "tiny" / "model.safetensors") for name in ("killed", "whole"))
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, rtol=0, atol=1e-5), name
    assert load_baseline(tmp_path / "killed" / "tiny" / "config.yaml").training.gradient_checkpointing


def test_a_finished_run_is_not_taken_for_one_in_another_precision(config: BaselineConfig, run: Path) -> None:
    def asked(precision: str) -> BaselineConfig:
        return config.model_copy(update={"encoder": config.encoder.model_copy(update={"precision": precision})})

    assert trained(asked("auto"), resume=True).manifest == read_manifest(run)
    with pytest.raises(RunError, match=r"trained in float32; encoder\.precision requests bfloat16"):
        trained(asked("bf16"), resume=True)


@pytest.mark.slow
def test_a_kill_before_the_first_checkpoint_begins_anew(tiny_bert: TinyModel, tmp_path: Path) -> None:
    config = baseline_config(tiny_bert, tmp_path)
    assert _train_apart(config, tmp_path / "whole") == 0
    assert _train_apart(config, tmp_path / "killed", die_at=2) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "tiny" / "checkpoint.pt").exists()
    assert _train_apart(config, tmp_path / "killed", resume=True) == 0
    killed, whole = (tmp_path / name / "tiny" / "model.safetensors" for name in ("killed", "whole"))
    assert killed.read_bytes() == whole.read_bytes(), "the same seed, the same weights"


def test_a_damaged_checkpoint_is_told(tiny_bert: TinyModel, tmp_path: Path) -> None:
    config = baseline_config(tiny_bert, tmp_path, **STEPPED)
    assert _train_apart(config, tmp_path, die_at=3) == -signal.SIGKILL
    path = tmp_path / "tiny" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"checkpoint.pt: damaged .*; delete it to start again"):
        trained(config, resume=True)


def test_the_manifest_of_a_damaged_run_is_told(run: Path, tmp_path: Path, config: BaselineConfig) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    shutil.copyfile(run / "config.yaml", folder / "config.yaml")
    content = json.loads((run / "manifest.json").read_text("utf-8"))
    for damage, words in (
        ({"format_version": 99}, "run format 99; this version of erc-llm reads 1 to 2"),
        ({"more": 1}, "more: Unexpected keyword argument"),
        ({"kind": "adapter"}, "found an adapter, expected a baseline; `erc-llm predict .*tiny` predicts with it"),
    ):
        (folder / "manifest.json").write_text(json.dumps(content | damage), "utf-8")
        with pytest.raises(RunError, match=words):
            trained(config.model_copy(update={"output": str(tmp_path)}), resume=True)
