"""A run that is there already: who may resume it, and that nothing else touches it."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from erc_llm.config import RunConfig
from erc_llm.errors import ModelError, RunError
from erc_llm.predictions import write_predictions
from erc_llm.predictor import load
from erc_llm.recipes.data import open_corpus
from erc_llm.recipes.predict import predict
from erc_llm.recipes.train import train
from erc_llm.resources import prompts_dir
from erc_llm.runs.directory import Run, read_run
from erc_llm.runs.logs import append_line, read_lines
from erc_llm.runs.manifest import write_manifest
from tests.recipes.changed import changed
from tests.tiny_models import TinyModel, random_llama, save_tiny
from tests.tiny_runs import tiny_config, write_corpus

QUIET = Console(quiet=True)


def test_an_existing_run_is_not_overwritten(finished: Run, run: Path) -> None:
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(RunError, match=r"this run exists \(finished\).*--resume"):
        train(changed(finished, run.parent), console=QUIET)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_a_folder_that_is_no_run_is_left_alone(finished: Run, tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "thesis.txt").write_text("two years of work", encoding="utf-8")
    for resume in (False, True):
        with pytest.raises(RunError, match="not a run"):
            train(changed(finished, tmp_path), resume=resume, console=QUIET)
    assert [p.name for p in (tmp_path / "tiny").iterdir()] == ["thesis.txt"]


def test_resuming_with_another_configuration_names_what_changed(finished: Run, run: Path) -> None:
    other = changed(finished, run.parent, lora={"rank": 2}, training={"epochs": 2}, seed=14)
    with pytest.raises(RunError, match="cannot resume") as caught:
        train(other, resume=True, console=QUIET)
    names = str(caught.value).partition("changed: ")[2].split(", ")
    assert sorted(names) == ["lora.rank", "seed", "training.epochs"]


def test_a_renamed_speaker_that_is_taken_back_is_named(finished: Run, run: Path) -> None:
    text = (run / "config.yaml").read_text("utf-8")
    (run / "config.yaml").write_text(text.replace("aliases: {}", "aliases: {Al: Alan}"), "utf-8")
    with pytest.raises(RunError, match=r"changed: corpus\.aliases\.Al$"):
        train(changed(finished, run.parent), resume=True, console=QUIET)


MEMORY: dict[str, Any] = {
    "training": {"accumulation": 2, "gradient_checkpointing": True},
    "scoring": {"tokens_per_forest": 512},
    "model": {"device": "auto"},
}


@pytest.mark.parametrize("status", ["training", "finished"])
def test_a_run_goes_on_with_what_mends_out_of_memory(finished: Run, run: Path, status: str) -> None:
    """Its `config.yaml` states what the last part ran with; a finished run is left as it is."""
    write_manifest(run, replace(finished.manifest, status=status))
    before = read_run(run).config
    wanted = changed(finished, run.parent, **MEMORY)
    said = io.StringIO()
    again = train(wanted, resume=True, console=Console(file=said, width=200))
    assert again.manifest.finished
    assert read_run(run).config == (wanted if status == "training" else before)
    assert ("starts over: no checkpoint yet" in said.getvalue()) == (status == "training")


@pytest.mark.parametrize("status", ["training", "finished"])
def test_a_run_is_compared_by_its_config_and_not_by_the_hash_of_another_version(
    finished: Run, run: Path, status: str
) -> None:
    write_manifest(run, replace(finished.manifest, status=status, config_sha256="0" * 64))
    assert train(changed(finished, run.parent), resume=True, console=QUIET).manifest.finished


def test_a_precision_is_the_same_if_it_comes_to_the_same(finished: Run, run: Path) -> None:
    """fp32 was asked for; bf16 is another result, auto is not in a run that is finished."""
    assert finished.manifest.precision == "float32"
    bf16, auto = (changed(finished, run.parent, model={"precision": p}) for p in ("bf16", "auto"))
    assert train(auto, resume=True, console=QUIET).manifest == finished.manifest
    with pytest.raises(RunError, match=r"trained in float32; model\.precision requests bfloat16.*name="):
        train(bf16, resume=True, console=QUIET)
    write_manifest(run, replace(finished.manifest, status="training"))
    with pytest.raises(
        RunError, match=r"the run began in float32 and would continue in bfloat16; set model\.precision"
    ):
        train(bf16, resume=True, console=QUIET)
    write_manifest(run, replace(finished.manifest, status="training", precision=None))
    with pytest.raises(RunError, match="the run began in float32"):
        train(bf16, resume=True, console=QUIET)


def test_an_unfinished_run_does_not_go_on_where_auto_comes_to_another_precision(
    finished: Run, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: True, raising=False)
    write_manifest(run, replace(finished.manifest, status="training"))
    auto = changed(finished, run.parent, model={"precision": "auto"})
    with pytest.raises(RunError, match="the run began in float32 and would continue in bfloat16"):
        train(auto, resume=True, console=QUIET)
    assert read_run(run).manifest.precision == "float32"


def test_resuming_a_finished_run_changes_nothing(finished: Run, run: Path) -> None:
    before = (run / "adapter" / "adapter_model.safetensors").read_bytes()
    assert train(changed(finished, run.parent), resume=True, console=QUIET).manifest.status == "finished"
    assert (run / "adapter" / "adapter_model.safetensors").read_bytes() == before


@pytest.mark.parametrize("changed", ["corpus", "model"])
def test_resuming_on_other_data_or_another_model_is_refused(
    changed: str, tiny_llama: TinyModel, tmp_path: Path
) -> None:
    """The files changed under the same names: going on would mix two trainings in one adapter."""
    data = write_corpus(tmp_path / "corpus")
    model = Path(shutil.copytree(tiny_llama.folder, tmp_path / "model"))
    config = tiny_config(model, data, tmp_path)
    started = train(config, console=QUIET)
    write_manifest(started.folder, replace(started.manifest, status="training"))
    if changed == "corpus":
        write_corpus(tmp_path / "corpus", train=12)
    else:
        save_tiny(model, tiny_llama.tokenizer, random_llama(tiny_llama.tokenizer, seed=9))
    with pytest.raises(RunError, match=changed):
        train(config, resume=True, console=QUIET)


def test_an_interrupted_log_is_taken_up_where_the_checkpoint_stands(finished: Run, run: Path) -> None:
    """No checkpoint: the training starts anew and its logs do too."""
    write_manifest(run, replace(finished.manifest, status="training"))
    append_line(run / "training.jsonl", {"step": 99, "loss": 1.0})
    again = train(changed(finished, run.parent), resume=True, console=QUIET)
    expected = [record["step"] for record in read_lines(finished.folder / "training.jsonl")]
    assert [record["step"] for record in read_lines(again.folder / "training.jsonl")] == expected


def test_a_finished_run_of_another_template_or_base_model_is_refused(
    finished: Run, run: Path, tiny_llama: TinyModel, tmp_path: Path
) -> None:
    """The hash of a configuration leaves out what it names by a path."""
    with pytest.raises(RunError, match=r"made from another template than prompt\.template=plain is now.*name="):
        train(changed(finished, run.parent, prompt={"template": "plain"}), resume=True, console=QUIET)
    (tmp_path / "other").mkdir()
    other = save_tiny(tmp_path / "other", tiny_llama.tokenizer, random_llama(tiny_llama.tokenizer, seed=9)).folder
    with pytest.raises(RunError, match=r"made from another base model than model\.base=.*other is now"):
        train(changed(finished, run.parent, model={"base": str(other)}), resume=True, console=QUIET)
    shutil.copytree(tiny_llama.folder, tmp_path / "copy")
    same = changed(finished, run.parent, model={"base": str(tmp_path / "copy")})
    assert train(same, resume=True, console=QUIET).folder == run


def test_a_finished_run_outlives_what_it_was_made_from(tiny_llama: TinyModel, corpus: Path, tmp_path: Path) -> None:
    template = tmp_path / "own.jinja"
    shutil.copyfile(prompts_dir() / "instruct.jinja", template)
    model = Path(shutil.copytree(tiny_llama.folder, tmp_path / "model"))
    config = tiny_config(model, corpus, tmp_path, prompt={"template": str(template)}, training={"evaluations": 0})
    folder = train(config, console=QUIET).folder
    template.unlink()
    shutil.rmtree(model)
    assert train(config, resume=True, console=QUIET).folder == folder
    gone = RunConfig.model_validate(config.model_dump() | {"model": {**config.model.model_dump(), "base": "./gone"}})
    with pytest.raises(ModelError, match="gone"):
        train(gone, resume=True, console=QUIET)


def test_a_finished_run_on_other_confusions_is_refused(
    finished: Run, tiny_llama: TinyModel, corpus: Path, tmp_path: Path
) -> None:
    data = open_corpus(finished.config.corpus, finished.config.label_set())
    table = predict(load(finished.folder), data, "selection")
    assert table.gold is not None
    first, other = tmp_path / "first.parquet", tmp_path / "other.parquet"
    write_predictions(table, first)
    write_predictions(replace(table, predicted=table.gold), other)

    def config(confusion: Path) -> RunConfig:
        state = {"source": "predicted", "confusion": str(confusion)}
        return tiny_config(tiny_llama, corpus, tmp_path, state=state, training={"evaluations": 0})

    folder = train(config(first), console=QUIET).folder
    with pytest.raises(
        RunError, match=r"finished, on other confusion counts than those of state\.confusion=.*other\.parquet"
    ):
        train(config(other), resume=True, console=QUIET)
    first.unlink()
    assert train(config(first), resume=True, console=QUIET).folder == folder
