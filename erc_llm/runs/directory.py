"""Run directories: what a training run leaves behind, and how it is read again.

    runs/NAME/
      config.yaml       the resolved configuration, as the latest part of the training run used it
      manifest.json     kind, hashes of corpus, template, base model and config; labels, versions, seed, commit
      training.jsonl    loss, learning rate and speed, step by step
      selection.jsonl   scores on the selection split, evaluation by evaluation

    of an adapter, besides
      prompt.jinja      the prompt template, so that the adapter stays usable when the packaged one changes
      adapter/          the adapter of the best selection score, as plain PEFT reads it
      calibration.json  what `erc-llm calibrate` fitted on the selection split, where it was called
      checkpoints/      what `--resume` goes on from; removed when the training run is finished

    of a baseline, besides
      speakers.json       speaker to number, where speakers are numbered over the whole corpus
      model.safetensors   what was trained, of the epoch with the best selection score
      selection.parquet   predictions of the selection split; further splits beside it
      checkpoint.pt, epoch-N.safetensors   what `--resume` goes on from; removed when the training run is finished

Input: a folder, and the kind of configuration that is expected there. Output: a `RunDirectory`.
Does not depend on: models, prompts, corpora.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from erc_llm.config import Recipe, RunConfig
from erc_llm.config_files import load_section
from erc_llm.errors import RunError
from erc_llm.files import remove_partials
from erc_llm.models.devices import process_rank
from erc_llm.runs.manifest import MANIFEST, Manifest, read_manifest

ADAPTER = "adapter"
CONFIG = "config.yaml"
TEMPLATE = "prompt.jinja"
SPEAKERS = "speakers.json"
CHECKPOINTS = "checkpoints"

C = TypeVar("C", bound=Recipe)


@dataclass(frozen=True)
class RunDirectory(Generic[C]):
    """A run directory that was read: `config` is a `RunConfig` for an adapter, a `BaselineConfig` for a baseline."""

    folder: Path
    config: C
    manifest: Manifest

    @property
    def precision(self) -> str | None:
        """What it was trained in, such as `bfloat16`; None if unknown (older runs under `auto`)."""
        return self.manifest.precision or self.config.asked_precision

    @property
    def adapter(self: RunDirectory[RunConfig]) -> Path:
        """Folder of the adapter."""
        return self.folder / ADAPTER

    @property
    def template(self: RunDirectory[RunConfig]) -> Path:
        """The prompt template that the adapter was trained with."""
        return self.folder / TEMPLATE


Run = RunDirectory[RunConfig]


def read_run(folder: Path | str) -> Run:
    """Read the run directory of an adapter; see `read_directory`."""
    return read_directory(folder, RunConfig)


def read_directory(folder: Path | str, form: type[C]) -> RunDirectory[C]:
    """Read a run directory.

    Args:
        folder: Where it is.
        form: `RunConfig` for an adapter, `BaselineConfig` for a baseline.

    Raises:
        RunError: It is missing, incomplete, damaged, of a format that this version does not read, or of the other kind.
        ConfigError: Its `config.yaml` cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"{folder}: no such run directory; `erc-llm train CONFIG` makes one")
    if not (folder / MANIFEST).is_file() or not (folder / CONFIG).is_file():
        raise RunError(f"{folder}: not a run directory: it needs {MANIFEST} and {CONFIG}")
    manifest = read_manifest(folder)
    if issubclass(form, RunConfig) and manifest.kind != "adapter":
        raise RunError(f"{folder}: holds a baseline, no adapter; `erc-llm baseline CONFIG --resume` predicts by it")
    if not issubclass(form, RunConfig) and manifest.kind == "adapter":
        raise RunError(f"{folder}: holds an adapter, no baseline; `erc-llm predict {folder}` predicts by it")
    return RunDirectory(folder, load_section(form, folder / CONFIG), manifest)


def claim(folder: Path, config: C, resume: bool) -> RunDirectory[C] | None:
    """The run that is in the folder already; None where nothing has begun.

    Under a launcher only the main process looks: others see a finished run, and None for any other, because the main
    process may have begun to write.

    Raises:
        RunError: The folder belongs to something else, to a run of another configuration, or `resume` is not set.
    """
    if not folder.exists() or all(_is_beginning(path) for path in folder.iterdir()):
        return None
    there = (folder / MANIFEST).is_file()
    if process_rank() != 0:
        run = read_directory(folder, type(config)) if resume and there else None
        return run if run is not None and run.manifest.finished else None
    if not there:
        raise RunError(f"{folder}: exists and is not a run; choose another name=")
    run = read_directory(folder, type(config))
    if not resume:
        raise RunError(f"{folder}: this run exists ({run.manifest.status}); add --resume, or choose another name=")
    if run.config.sha256 != config.sha256:
        changed = ", ".join(_changed(run.config.result_fields(), config.result_fields()))
        raise RunError(f"{folder}: cannot resume with another configuration; changed: {changed}")
    check_precision(run, config.asked_precision)
    remove_partials(folder)
    return run


def _is_beginning(path: Path) -> bool:
    """Whether a file is one that a run writes before its manifest, or a draft of one that a kill left."""
    partial = path.name.startswith(".") and path.name.endswith(".partial")
    return partial or path.name in (CONFIG, TEMPLATE, SPEAKERS, CHECKPOINTS)


def check_same(run: RunDirectory[Any], now: Manifest) -> None:
    """Refuse to go on with a run, or to predict by it, on other things than it began with.

    A finished run may predict splits that its corpus has got since; only train must be the same. An unfinished one must
    also go on in the same precision.

    Args:
        run: As it began.
        now: The manifest that it would have if it began now.

    Raises:
        RunError: The corpus, template, base model, confusion or precision differs.
    """
    began, folder = run.manifest, run.folder
    if began.confusion != now.confusion:
        raise RunError(f"{folder}: cannot resume: state.confusion names other predictions than it began with")
    corpus = "train_sha256" if began.finished and began.train_sha256 else "corpus_sha256"
    for name in (corpus, "template_sha256", "base_model_sha256"):
        old, new = str(getattr(began, name)), str(getattr(now, name))
        if old != new:
            raise RunError(
                f"{folder}: cannot resume: {name} was {old[:12]}, now it is {new[:12]}; choose another name="
            )
    if not began.finished:
        check_precision(run, now.precision)


def check_precision(run: RunDirectory[Any], now: str | None) -> None:
    """Refuse a run that was trained, or began to be, in another precision; what is unknown (None) is not compared.

    Raises:
        RunError: The precisions differ.
    """
    began, field = run.precision, run.config.precision_field
    if None in (began, now) or began == now:
        return
    if run.manifest.finished:
        raise RunError(
            f"{run.folder}: finished, in {began}; {field} asks for {now}, which gives other results: leave it at auto, "
            "or choose another name="
        )
    raise RunError(
        f"{run.folder}: cannot resume: it began in {began}, here it would go on in {now}; set {field} to what it began "
        "with, or choose another name="
    )


def refuse_other_source(run: Run, what: str, old: str | None, new: str | None) -> None:
    """Refuse to take a finished run for one that was made from something else; what is not known is not compared.

    Args:
        run: The finished run.
        what: It was made from, as in `on another WHAT`.
        old: Its hash then.
        new: Its hash now.

    Raises:
        RunError: The hashes differ.
    """
    if None not in (old, new) and old != new:
        raise RunError(
            f"{run.folder}: finished, on another {what}: its hash was {str(old)[:12]}, now it is {str(new)[:12]}; "
            "choose another name="
        )


def _changed(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Names of the fields that differ; of entries too, where a field is a mapping with keys of the user's own."""
    changed = []
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changed += _changed(before, after, f"{prefix}{key}.")
        elif before != after:
            changed.append(f"{prefix}{key}")
    return changed
