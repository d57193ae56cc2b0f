"""Run directories: layout, reading, and the checks before a run is resumed.

    runs/NAME/
      config.yaml       the resolved configuration, as last used by the training run
      manifest.json     kind, hashes of corpus, template, base model and config; labels, versions, seed, commit
      training.jsonl    loss, learning rate and speed, step by step
      selection.jsonl   scores on the selection split, evaluation by evaluation
      report.html       losses and scores as one page, with an evaluation of the predictions, if there are some

    for an adapter, also
      prompt.jinja      the prompt template, so that the adapter stays usable when the packaged one changes
      adapter/          the adapter of the best selection score, as plain PEFT reads it
      calibration.json  the calibration fitted by `erc-llm calibrate`, if any
      checkpoints/      state for `--resume`; removed when the training run is finished
      crossfit.parquet  of the average of a cross-fitting's folds: each target of train, by the fold that left it out

    for a baseline, also
      speakers.json       speaker to number, if speakers are numbered over the whole corpus
      model.safetensors   the trained weights of the epoch with the best selection score
      selection.parquet   predictions of the selection split; those of other splits lie beside it
      checkpoint.pt, epoch-N.safetensors   state for `--resume`; removed when the training run is finished

Input: a folder, and the expected kind of configuration. Output: a `RunDirectory`.
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
from erc_llm.runs.exported import RECORD
from erc_llm.runs.manifest import MANIFEST, Manifest, read_manifest

ADAPTER = "adapter"
CONFIG = "config.yaml"
TEMPLATE = "prompt.jinja"
SPEAKERS = "speakers.json"
OUT_OF_FOLD = "crossfit.parquet"
CHECKPOINTS = "checkpoints"
REPORT = "report.html"

C = TypeVar("C", bound=Recipe)


@dataclass(frozen=True)
class RunDirectory(Generic[C]):
    """The records of a run directory; `config` is a `RunConfig` for an adapter, a `BaselineConfig` for a baseline."""

    folder: Path
    config: C
    manifest: Manifest

    @property
    def precision(self) -> str | None:
        """Precision of the training run, such as `bfloat16`; None if unknown (older runs with `auto`)."""
        return self.manifest.precision or self.config.asked_precision

    @property
    def adapter(self: RunDirectory[RunConfig]) -> Path:
        """Folder of the adapter; an export has it at its top."""
        inside = self.folder / ADAPTER
        return inside if inside.is_dir() or not (self.folder / RECORD).is_file() else self.folder

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
        folder: The run directory.
        form: `RunConfig` for an adapter, `BaselineConfig` for a baseline.

    Raises:
        RunError: The directory is missing, incomplete, damaged, of an unsupported format, or of the other kind.
        ConfigError: Its `config.yaml` cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"{folder}: no such run directory; `erc-llm train CONFIG` creates one")
    if not (folder / MANIFEST).is_file() or not (folder / CONFIG).is_file():
        raise RunError(f"{folder}: not a run directory; expected {MANIFEST} and {CONFIG} in it")
    manifest = read_manifest(folder)
    if issubclass(form, RunConfig) and manifest.kind != "adapter":
        raise RunError(
            f"{folder}: found a baseline, expected an adapter; `erc-llm baseline CONFIG --resume` predicts with it"
        )
    if not issubclass(form, RunConfig) and manifest.kind == "adapter":
        raise RunError(f"{folder}: found an adapter, expected a baseline; `erc-llm predict {folder}` predicts with it")
    return RunDirectory(folder, load_section(form, folder / CONFIG), manifest)


def claim(folder: Path, config: C, resume: bool) -> RunDirectory[C] | None:
    """`existing_run`, without the partial files that a killed process left in it."""
    run = existing_run(folder, config, resume)
    if run is not None and process_rank() == 0:
        remove_partials(folder)
    return run


def existing_run(folder: Path, config: C, resume: bool) -> RunDirectory[C] | None:
    """The run that already exists in the folder; None if no run has begun there. Nothing is changed.

    Under a launcher, only the main process checks the folder. Other processes get a finished run, and None for an
    unfinished one, because the main process may be writing to it already.

    Raises:
        RunError: The folder exists and is not a run, belongs to a run with another configuration, or `resume` is False.
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
    return run


def _is_beginning(path: Path) -> bool:
    """Whether a run writes this file before its manifest, or a killed run left it as a partial file."""
    partial = path.name.startswith(".") and path.name.endswith(".partial")
    return partial or path.name in (CONFIG, TEMPLATE, SPEAKERS, CHECKPOINTS)


def check_same(run: RunDirectory[Any], now: Manifest) -> None:
    """Refuse to resume a run, or to predict with it, if its inputs have changed.

    A finished run may predict splits that were added to its corpus later; only train must be unchanged. An unfinished
    run must also keep its precision.

    Args:
        run: The existing run.
        now: The manifest that a new run would have.

    Raises:
        RunError: The corpus, template, base model, confusion counts or precision differ, or the run that training
            started from, what was left out of it, or what its prompts retrieve.
    """
    began, folder = run.manifest, run.folder
    if began.confusion != now.confusion:
        raise RunError(
            f"{folder}: cannot resume: state.confusion names other predictions than those the run began with"
        )
    for name in ("started_from", "avoided", "retrieval"):
        if (old := getattr(began, name)) != (new := getattr(now, name)):
            raise RunError(
                f"{folder}: cannot resume: {name} was {old or 'nothing'}, now it is {new or 'nothing'}; choose another "
                "name="
            )
    corpus = "train_sha256" if began.finished and began.train_sha256 else "corpus_sha256"
    for name in (corpus, "template_sha256", "base_model_sha256", "auxiliary_sha256"):
        old, new = getattr(began, name), getattr(now, name)
        if differ(old, new) if name == "auxiliary_sha256" else old != new:
            raise RunError(
                f"{folder}: cannot resume: {name} was {str(old)[:12]}, now it is {str(new)[:12]}; choose another name="
            )
    if not began.finished:
        check_precision(run, now.precision)


def check_precision(run: RunDirectory[Any], now: str | None) -> None:
    """Refuse a run whose training used another precision; an unknown precision (None) is not compared.

    Raises:
        RunError: The precisions differ.
    """
    began, field = run.precision, run.config.precision_field
    if not differ(began, now):
        return
    if run.manifest.finished:
        raise RunError(
            f"{run.folder}: this run was trained in {began}; {field} requests {now}, which gives other results: set it "
            "to auto, or choose another name="
        )
    raise RunError(
        f"{run.folder}: cannot resume: the run began in {began} and would continue in {now}; set {field} to that of "
        "the run, or choose another name="
    )


def differ(one: object, other: object) -> bool:
    """Whether two values differ; runs written before a hash was recorded have None, which differs from nothing."""
    return one != other and None not in (one, other)


def refuse_other_source(run: Run, what: str, old: str | None, new: str | None) -> None:
    """Refuse to reuse a finished run if a source of it has changed; unknown hashes (None) are not compared.

    Args:
        run: The finished run.
        what: Name of the source for the message, as in `another WHAT`.
        old: Hash of the source that the run was made from.
        new: Hash of the source now.

    Raises:
        RunError: The hashes differ.
    """
    if differ(old, new):
        raise RunError(
            f"{run.folder}: this run was made from another {what}: its hash was {str(old)[:12]}, now it is "
            f"{str(new)[:12]}; "
            "choose another name="
        )


def _changed(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the fields that differ, including single entries of mappings with user-defined keys."""
    changed = []
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changed += _changed(before, after, f"{prefix}{key}.")
        elif before != after:
            changed.append(f"{prefix}{key}")
    return changed
