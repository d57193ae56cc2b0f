"""Opening a source of predictions: reads and checks a finished run, or a configuration, and applies overrides.

Input: a run directory, its adapter folder, a configuration or the name of one; overrides. Output: an `Opened`.
Does not depend on: models, prompts, corpora.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from erc_llm.config import RunConfig, load_config
from erc_llm.config_files import resolve
from erc_llm.errors import ConfigError, RunError
from erc_llm.runs.directory import Run, read_run
from erc_llm.runs.exported import ExportRecord, read_record
from erc_llm.runs.manifest import MANIFEST

# The decision rule and the locations on this machine may change after training; hashes ensure that a moved model is the
# same one.
_CHANGEABLE = ("model.base", "model.device", "model.precision", "profile.notes", "retrieval.encoder")


@dataclass(frozen=True, slots=True)
class Opened:
    """The configuration and run that predictions are made with.

    Attributes:
        config: The run's configuration, or the given one, with overrides applied.
        run: The finished run; None for a base model alone (zero-shot).
        export: The form in which the run was exported; None for a run directory.
    """

    config: RunConfig
    run: Run | None = None
    export: ExportRecord | None = None

    @property
    def template(self) -> Path | None:
        """The run's own copy of its prompt template, which takes precedence over the configuration's."""
        return None if self.run is None else self.run.template


def open_run(
    source: str | Path | RunConfig | Opened, overrides: Sequence[str] = (), *, control: bool = False
) -> Opened:
    """Open a run or a configuration.

    Args:
        source: A run directory, its adapter folder or an export; a configuration, its YAML file, or the name of one
            that comes with the package; or what was opened before. A `Path` is always a run or an export.
        overrides: `key=value` texts; see `override_for_prediction`.
        control: Whether it may be a control with a leak (`retrieval.leak`), whose results are evidence only.

    Raises:
        RunError: The run is missing, unfinished, damaged, of another format, a control, or its prompt template was
            changed.
        ConfigError: The configuration does not exist or is a control, or an override is wrong.
    """
    if isinstance(source, Opened):
        return replace(source, config=override_for_prediction(source.config, overrides))
    if isinstance(source, str) and not _is_run(source):
        source = load_config(source)
    if isinstance(source, RunConfig):
        if not control and source.retrieval.leak != "none":
            raise ConfigError(f"{source.name}: {_control(source)}")
        return Opened(override_for_prediction(source, overrides))
    run = read_run(_run_folder(Path(source)))
    if not control:
        refuse_control(run)
    if not run.manifest.finished:
        raise RunError(f"{run.folder}: the training run is not finished; `erc-llm train ... --resume` continues it")
    _check_template(run)
    export, config = read_record(run.folder), run.config
    if export is not None and export.from_base == "original":  # it was verified without NF4
        config = config.model_copy(update={"model": config.model.model_copy(update={"quantisation": "none"})})
    return Opened(override_for_prediction(config, overrides), run, export)


def refuse_control(run: Run) -> None:
    """Refuse a run that is a control with a leak.

    Raises:
        RunError: It is one.
    """
    if run.config.retrieval.leak != "none":
        raise RunError(f"{run.folder}: {_control(run.config)}")


def _control(config: RunConfig) -> str:
    return (
        f"is a control: retrieval.leak={config.retrieval.leak} shows labels that nobody has in use; only the table of "
        "its cross-fitting can be evaluated; train without the leak"
    )


def override_for_prediction(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """The configuration to predict with: of a finished run or a base model, with `key=value` overrides.

    Raises:
        ConfigError: An override changes a training setting, or is wrong; the message lists all wrong values.
    """
    for text in overrides:
        field = text.partition("=")[0]
        if not field.startswith("scoring.") and field not in _CHANGEABLE:
            raise ConfigError(
                f"override '{text}': training settings cannot be overridden in prediction; only scoring.FIELD, "
                f"{', '.join(_CHANGEABLE)} can"
            )
    return resolve(RunConfig, config.model_dump(mode="json"), overrides, "overrides") if overrides else config


def _is_run(source: str) -> bool:
    path = Path(source)
    return path.is_dir() or (os.sep in source and not path.suffix)


def _run_folder(folder: Path) -> Path:
    """The run directory that contains an adapter folder; any other folder unchanged."""
    if (folder / MANIFEST).is_file() or not (folder / "adapter_config.json").is_file():
        return folder
    return folder.parent if (folder.parent / MANIFEST).is_file() else folder


def _check_template(run: Run) -> None:
    try:
        text = run.template.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{run.template}: missing; restore the prompt template this run was trained with") from error
    if hashlib.sha256(text.encode()).hexdigest() != run.manifest.template_sha256:
        raise RunError(f"{run.template}: not the prompt template this run was trained with; restore it")
