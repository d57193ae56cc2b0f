"""Trainings: reproducible, never on the selection split, and refused before there is a run where they cannot be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from erc_llm.config import RunConfig
from erc_llm.corpus import read_corpus
from erc_llm.corpus.overlap import overlapping
from erc_llm.errors import ConfigError, CorpusError, ModelError, RunError
from erc_llm.evaluation.leakage import leakage_manifest
from erc_llm.predictor import load
from erc_llm.prompting.prompter import Prompter
from erc_llm.recipes.data import open_corpus
from erc_llm.recipes.plan import plan_on_gpu
from erc_llm.recipes.predict import predict
from erc_llm.recipes.train import train
from erc_llm.runs.directory import Run
from tests.recipes.changed import changed
from tests.tiny_models import TinyModel
from tests.tiny_runs import as_json, dialogue, tiny_config, write_corpus

QUIET = Console(quiet=True)


def test_the_selection_split_is_never_trained_on(
    tiny_llama: TinyModel, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tiny_llama, corpus, tmp_path)
    data = open_corpus(config.corpus, config.label_set())
    held_out = {d.id for d in data.split("selection")}
    assert held_out
    trained: set[str] = set()
    scored: set[str] = set()
    original = Prompter.trees

    def spy(self: Any, scene: Any, answers: Any, **options: Any) -> Any:
        (trained if answers == "gold" else scored).add(scene.id)
        return original(self, scene, answers, **options)

    monkeypatch.setattr(Prompter, "trees", spy)
    train(config, console=QUIET)
    assert trained == {d.id for d in data.split("train")}
    assert not trained & held_out
    assert scored == held_out | {"probe"}  # two invented lines, on which every model is checked first


def test_training_is_reproducible(finished: Run, tmp_path: Path) -> None:
    again = train(changed(finished, tmp_path), console=QUIET)
    other = train(changed(finished, tmp_path, name="other", seed=14), console=QUIET)
    one, two, three = (load_file(r.adapter / "adapter_model.safetensors") for r in (finished, again, other))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], three[name]) for name in one)


def test_steps_that_overrun_their_budget_for_lack_of_scenes_are_told(
    tiny_llama: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = write_corpus(tmp_path / "corpus", train=12)
    cramped: dict[str, Any] = {"tokens_per_step": 64, "accumulation": 3, "evaluations": 0}
    train(tiny_config(tiny_llama, corpus, tmp_path, training=cramped), console=Console(width=400))
    assert (
        "have more than training.tokens_per_step=64 tokens, as each needs at least 3 scenes" in capsys.readouterr().out
    )


def test_a_base_model_that_is_not_there_leaves_no_run(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        train(tiny_config(tmp_path / "no-model", corpus, tmp_path / "runs"), console=QUIET)
    assert not (tmp_path / "runs").exists()


def test_layers_that_do_not_exist_leave_no_run(tiny_llama: TinyModel, corpus: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_llama, corpus, tmp_path / "runs", lora={"target_modules": ["no_such_layer"]})
    with pytest.raises(ModelError, match="no_such_layer"):
        train(config, console=QUIET)
    assert not (tmp_path / "runs").exists()


def test_without_evaluations_the_last_adapter_is_kept(tiny_llama: TinyModel, corpus: Path, tmp_path: Path) -> None:
    run = train(tiny_config(tiny_llama, corpus, tmp_path, training={"evaluations": 0}), console=QUIET)
    assert not (run.folder / "selection.jsonl").exists()
    assert (run.adapter / "adapter_model.safetensors").is_file()


def test_without_evaluations_one_episode_is_enough(tiny_llama: TinyModel, tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus", train=2)
    train(tiny_config(tiny_llama, folder, tmp_path / "runs", training={"evaluations": 0}), console=QUIET)


def test_more_accumulation_than_scenes_still_ends_with_an_adapter(tiny_llama: TinyModel, tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus", train=4)
    training = {"accumulation": 4, "epochs": 3, "evaluations": 1}
    run = train(tiny_config(tiny_llama, folder, tmp_path / "runs", training=training), console=QUIET)
    assert (run.adapter / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("options", [{"shuffle_labels": True}, {"context": "full"}, {"trunk_budget": 64}])
def test_every_kind_of_prompt_trains_and_predicts(
    options: dict[str, Any], tiny_llama: TinyModel, corpus: Path, tmp_path: Path
) -> None:
    run = train(tiny_config(tiny_llama, corpus, tmp_path, prompt=options), console=QUIET)
    data = read_corpus(corpus)
    predictor = load(run.folder)
    table = predict(predictor, data, "dev")
    assert len(table) == sum(len(d.targets) for d in data.split("dev"))
    if "context" in options:
        with pytest.raises(ConfigError, match=r"prompt\.context"):
            predictor.live()


def test_a_base_model_without_a_chat_template_takes_the_plain_prompt(
    tiny_llama2_base: TinyModel, corpus: Path, tmp_path: Path
) -> None:
    run = train(tiny_config(tiny_llama2_base, corpus, tmp_path, prompt={"template": "plain"}), console=QUIET)
    assert len(predict(load(run.folder), read_corpus(corpus), "dev")) > 0


def test_a_train_split_without_labels_is_refused(tiny_llama: TinyModel, tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus", labels=False)
    with pytest.raises(CorpusError, match="no labelled utterance in train"):
        train(tiny_config(tiny_llama, folder, tmp_path / "runs"), console=QUIET)
    assert not (tmp_path / "runs").exists()


def test_a_corpus_without_train_is_refused(tiny_llama: TinyModel, tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus")
    (folder / "train.jsonl").unlink()
    with pytest.raises(CorpusError, match="no split 'train'"):
        train(tiny_config(tiny_llama, folder, tmp_path / "runs"), console=QUIET)
    assert not (tmp_path / "runs").exists()


def test_a_selection_split_without_labels_is_refused_before_training(tiny_llama: TinyModel, tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus")
    rows = [json.dumps(as_json(dialogue(0, 3, season=3), labels=False))]
    (folder / "selection.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="selection"):
        train(tiny_config(tiny_llama, folder, tmp_path / "runs"), console=QUIET)
    assert not (tmp_path / "runs").exists()


def test_the_sample_with_other_labels_is_a_clear_error(tiny_llama: TinyModel, tmp_path: Path) -> None:
    config = tiny_config(tiny_llama, Path("sample"), tmp_path / "runs")
    config = RunConfig.model_validate(config.model_dump() | {"corpus": {"labels": {"names": ["calm", "cross"]}}})
    with pytest.raises(ConfigError):
        train(config, console=QUIET)


def test_the_output_layer_by_another_name_gets_no_update(
    tiny_llama2_style: TinyModel, corpus: Path, tmp_path: Path
) -> None:
    """Known only once the model is there; here a configuration that was not checked stands for such a name."""
    config = tiny_config(tiny_llama2_style, corpus, tmp_path / "runs")
    lora = config.lora.model_copy(update={"target_modules": ("q_proj", "lm_head")})
    with pytest.raises(ConfigError, match=r"lora\.target_modules: 'lm_head' is the output layer"):
        train(config.model_copy(update={"lora": lora}), console=QUIET)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("mode", ["FSDP", "DEEPSPEED"])
def test_a_launcher_that_cuts_the_model_is_refused_before_anything_is_read(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{mode}", "true")
    config = tiny_config(tmp_path / "no-model", tmp_path / "no-corpus", tmp_path / "runs")
    with pytest.raises(ConfigError, match=f"distributed_type {mode}"):
        train(config, console=QUIET)
    assert not (tmp_path / "runs").exists()


def test_a_run_that_does_not_fit_the_gpu_is_refused_unless_forced(
    tiny_llama: TinyModel, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tiny_llama, corpus, tmp_path)
    monkeypatch.setattr("erc_llm.recipes.plan.gpu_memory", lambda device: 400 * 2**20)
    with pytest.raises(ConfigError, match=r"needs 0\.\d GiB of GPU memory, and 0\.4 GiB can be used.*--force"):
        train(config, console=QUIET)
    assert not (tmp_path / config.name).exists() or not any((tmp_path / config.name).glob("*.yaml"))
    monkeypatch.setattr("erc_llm.recipes.plan.gpu_memory", lambda device: 40 * 2**30)
    assert plan_on_gpu(config, open_corpus(config.corpus, config.label_set(), cut_selection=True)) is not None
    monkeypatch.setattr("erc_llm.recipes.plan.gpu_memory", lambda device: 400 * 2**20)
    assert train(config, console=QUIET, force=True).manifest.finished


def test_training_starts_from_another_run(finished: Run, tiny_llama: TinyModel, corpus: Path, tmp_path: Path) -> None:
    """With a learning rate of nothing it ends where it started; the table names where that was."""
    settings: dict[str, Any] = {"training": {"learning_rate": 1e-12, "evaluations": 0}}
    config = tiny_config(tiny_llama, corpus, tmp_path, name="then", lora={"start": str(finished.folder)}, **settings)
    then = train(config, console=QUIET)
    one, two = (load_file(r.adapter / "adapter_model.safetensors") for r in (finished, then))
    assert all(torch.allclose(one[name], two[name], atol=1e-7) for name in one)
    assert then.manifest.started_from is not None
    assert then.manifest.started_from.startswith(f"{finished.manifest.run_id} on corpus (adapter ")
    assert config.sha256 != tiny_config(tiny_llama, corpus, tmp_path, name="then", **settings).sha256
    table = predict(load(then.folder), read_corpus(corpus), "dev")
    assert leakage_manifest([table.info])[4].values[0].endswith(f", after {then.manifest.started_from}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 8}, r"lora\.start: .* has lora\.rank 4, this run 8; set lora\.rank=4"),
        ({"alpha": 16}, "has lora.alpha 8, this run 16"),
        ({"target_modules": ["q_proj"]}, "has lora.target_modules all-linear"),
    ],
)
def test_an_adapter_of_another_shape_is_no_start(
    changes: dict[str, Any], message: str, finished: Run, tiny_llama: TinyModel, corpus: Path, tmp_path: Path
) -> None:
    config = tiny_config(tiny_llama, corpus, tmp_path, lora={"start": str(finished.folder)} | changes)
    with pytest.raises(ConfigError, match=message):
        train(config, console=QUIET)


def test_a_start_that_has_changed_is_another_run(
    run: Path, tiny_llama: TinyModel, corpus: Path, tmp_path: Path
) -> None:
    config = tiny_config(tiny_llama, corpus, tmp_path / "runs", name="then", lora={"start": str(run)})
    then = train(config, console=QUIET)
    assert train(config, resume=True, console=QUIET).manifest == then.manifest
    weights = load_file(run / "adapter" / "adapter_model.safetensors")
    save_file({name: 2 * tensor for name, tensor in weights.items()}, run / "adapter" / "adapter_model.safetensors")
    with pytest.raises(RunError, match="another start than"):
        train(config, resume=True, console=QUIET)
    shutil.rmtree(run)
    assert train(config, resume=True, console=QUIET).manifest == then.manifest


def test_what_another_corpus_holds_out_is_not_trained_on(
    tiny_llama: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: set[str] = set()
    original = Prompter.trees

    def spy(self: Any, scene: Any, answers: Any, **options: Any) -> Any:
        trained.update([scene.id] if answers == "gold" else [])
        return original(self, scene, answers, **options)

    monkeypatch.setattr(Prompter, "trees", spy)
    own, other = write_corpus(tmp_path / "own", train=12), tmp_path / "other.jsonl"
    shared = read_corpus(own).split("train")[3]
    copy = as_json(shared, labels=False)
    copy["id"] = "renamed"
    copy["utterances"] = [
        {"id": f"x{k}", "speaker": "Somebody", "text": u.text.upper().replace(".", " ...")}
        for k, u in enumerate(shared.utterances)
    ] + [{"id": "y", "speaker": "Else", "text": "And nothing else happened on that long day.", "label": "cheerful"}]
    other.write_text(json.dumps(copy) + "\n", encoding="utf-8")
    settings = {"training": {"evaluations": 0}, "corpus": {"path": str(own), "avoid": [str(other)]}}
    run = train(tiny_config(tiny_llama, own, tmp_path, **settings), console=QUIET)
    data = read_corpus(own)
    left_out = {m.dialogue for m in overlapping(data.split("train"), read_corpus(other, labels=None).dialogues())}
    assert shared.id in left_out
    assert run.manifest.avoided == {"other": len(left_out)}
    assert trained == {d.id for d in data.split("train")} - left_out


def test_auxiliary_questions_train_another_adapter_and_are_not_scored(
    finished: Run, tiny_llama: TinyModel, corpus: Path, tmp_path: Path
) -> None:
    asked = {"next_emotion": 0.5, "speaker": 0.5, "polarity": 0.5}
    run = train(changed(finished, tmp_path, training={"auxiliary": asked}), console=QUIET)
    one, two = (load_file(r.adapter / "adapter_model.safetensors") for r in (finished, run))
    assert any(not torch.equal(one[name], two[name]) for name in one)
    data = read_corpus(corpus)
    assert [len(predict(load(r.folder), data, "dev")) for r in (run, finished)] == [
        sum(len(d.targets) for d in data.split("dev"))
    ] * 2


@pytest.mark.parametrize(
    ("task", "speakers", "labels", "message"),
    [
        ("speaker", ("Ada", "Ada"), ("Sad", "Mad"), r"training\.auxiliary\.speaker: no training dialogue has two"),
        ("next_emotion", ("Ada", "Ben"), ("Sad", None), r"training\.auxiliary\.next_emotion: no training dialogue"),
    ],
)
def test_an_auxiliary_question_that_nothing_answers_is_refused(
    task: str, speakers: Any, labels: Any, message: str, tiny_llama: TinyModel, tmp_path: Path
) -> None:
    lines = [{"speaker": s, "text": "Well.", "label": label} for s, label in zip(speakers, labels, strict=True)]
    rows = [json.dumps({"id": f"d{k}", "episode": k, "scene": 1, "utterances": lines}) for k in (1, 2)]
    (tmp_path / "train.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    training = {"evaluations": 0, "auxiliary": {task: 0.5}}
    with pytest.raises(CorpusError, match=message):
        train(tiny_config(tiny_llama, tmp_path, tmp_path / "runs", training=training), console=QUIET)
