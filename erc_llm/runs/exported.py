"""The record of an export: which form a run's adapter was given, and what was found when it was reloaded.

    adapters/NAME/
      export.json                 this record
      config.yaml manifest.json prompt.jinja calibration.json   those of the run, without paths of a machine
      probes.json                 token ids with their expected scores
      README.md                   the model card
      ...                         the weights in the form's own files

Input: an export folder. Output: an `ExportRecord`.
Does not depend on: models, how an export is made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from erc_llm.errors import RunError
from erc_llm.files import write_text
from erc_llm.models.hashes import file_sha256
from erc_llm.models.loading import TOKENIZER_FILES

RECORD = "export.json"
EXPORT_FORMAT = 1

_FILES = (
    "README.md",
    "config.yaml",
    "manifest.json",
    "prompt.jinja",
    "calibration.json",
    "probes.json",
    "config.json",
    "adapter_config.json",
    "generation_config.json",
    "Modelfile",
)

Form = Literal["peft", "merged", "gguf", "gguf-lora"]


@dataclass(frozen=True, slots=True)
class Measured:
    """A measured metric: fractions, with the bounds of its 95 % interval.

    Attributes:
        split: Which targets, in words, such as `dev of aligned (954 utterances)`.
        metric: Name of the metric.
        value: Its value.
        low: Lower bound.
        high: Upper bound.
    """

    split: str
    metric: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRecord:
    """What an export is.

    Attributes:
        form: `peft`: the adapter as PEFT reads it; `merged`: base and adapter in one model; `gguf`: that in one file;
            `gguf-lora`: the adapter alone for llama.cpp.
        stored: Type of the written weights: `f16`, `bf16` or `q8_0`; `f32` for an adapter that keeps its own.
        from_base: The base that the update was added to, or verified on: `original`, or what NF4 makes of it (`nf4`).
        base: Hub id of the base model.
        weights: Name of each weight file to its SHA-256.
        scored_in: Precision in which the probes' expected scores were computed.
        tolerance: Largest difference of a probability that verification accepts.
        largest_difference: The largest that it found when the export was made.
        on_original: For an adapter that was trained on a base in NF4 and is exported alone: the largest difference
            where the original base takes its place; else None.
        flips: Number of probes whose most probable label differed then.
        probes: Number of probes.
        verified_by: Program and version that reloaded the export then.
        created: Date, as YYYY-MM-DD.
        versions: Versions of the packages that made it.
        measured: Metrics of the run's predictions tables that were given to the export.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    form: Form
    stored: Literal["f32", "f16", "bf16", "q8_0"]
    from_base: Literal["original", "nf4"]
    base: str
    weights: Mapping[str, str]
    scored_in: str
    tolerance: float
    largest_difference: float
    flips: int
    probes: int
    verified_by: str
    created: str
    versions: Mapping[str, str]
    measured: tuple[Measured, ...] = ()
    on_original: float | None = None
    format_version: int = EXPORT_FORMAT


def write_record(folder: Path, record: ExportRecord) -> None:
    """Write the record of an export.

    Raises:
        RunError: The file cannot be written.
    """
    write_text(folder / RECORD, json.dumps(asdict(record), indent=2) + "\n", RunError)


def check_weights(folder: Path, record: ExportRecord) -> None:
    """Refuse an export whose weight files are not those that were verified.

    Raises:
        RunError: A file is missing or another one.
    """
    for name, expected in record.weights.items():
        path = folder / name
        if not path.is_file():
            raise RunError(f"{path}: missing; the export is not complete, copy it again")
        if (found := file_sha256(path)) != expected:
            raise RunError(f"{path}: has hash {found[:12]}, expected {expected[:12]} as verified; copy it again")


def export_files(folder: Path, record: ExportRecord) -> list[Path]:
    """The files that belong to an export, of those in its folder; others may lie there too."""
    found = {folder / name for name in (RECORD, *record.weights, *_FILES)}
    found |= {path for pattern in (*TOKENIZER_FILES, "model*.index.json") for path in folder.glob(pattern)}
    return sorted(path for path in found if path.is_file())


def read_record(folder: Path) -> ExportRecord | None:
    """The record of an export; None if the folder is no export.

    Raises:
        RunError: The record is damaged, or of a format that this version does not read.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
        if content.get("format_version") != EXPORT_FORMAT:
            raise RunError(
                f"{path}: found export format {content.get('format_version')}, this version of erc-llm reads "
                f"{EXPORT_FORMAT}; use the version that wrote it, or export again"
            )
        record = TypeAdapter(ExportRecord).validate_json(json.dumps(content), strict=True)
        _check_names(record)
        return record
    except (OSError, ValueError, AttributeError, ValidationError) as error:
        raise RunError(f"{path}: damaged ({error}); export the run again") from error


def _check_names(record: ExportRecord) -> None:
    """Every weight file is one that the form has, in the folder itself."""
    suffix = ".safetensors" if record.form in ("peft", "merged") else ".gguf"
    if not record.weights:
        raise ValueError("it names no weight files")
    for name in record.weights:
        if Path(name).name != name or not name.endswith(suffix):
            raise ValueError(f"it names {name}, expected a {suffix} file in its folder")
    if record.form == "peft" and "adapter_model.safetensors" not in record.weights:
        raise ValueError("it does not name adapter_model.safetensors")
