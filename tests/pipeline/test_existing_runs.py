"""A run that is there already: who may resume it, and that nothing else touches it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from erc_llm.errors import RunError
from erc_llm.runs import Run, append_line, read_lines, write_manifest
from erc_llm.training import train
from tests.pipeline.changed import changed
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
