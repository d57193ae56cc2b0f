"""Run directories: what `train` leaves behind, and how it is read again.

    runs/NAME/
      config.yaml       the resolved configuration
      prompt.jinja      the prompt template, so that the adapter stays usable when the packaged one changes
      manifest.json     format version, hashes of corpus, template, base model and config; versions; seed; commit
      adapter/          the adapter of the best selection score, as plain PEFT reads it
      training.jsonl    loss, learning rate, tokens a second, step by step
      selection.jsonl   scores on the selection split, evaluation by evaluation
      calibration.json  what `erc-llm calibrate` fitted on the selection split, where it was called
      checkpoints/      what `--resume` goes on from; removed when the training is finished

Knows no model and no prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erc_llm.config import Recipe, RunConfig, load_config
from erc_llm.errors import RunError
from erc_llm.models.devices import process_rank
from erc_llm.runs.manifest import FINISHED, RUN_FORMAT, Manifest

ADAPTER = "adapter"
TEMPLATE = "prompt.jinja"


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory that was read."""

    folder: Path
    config: RunConfig
    manifest: Manifest

    @property
    def adapter(self) -> Path:
        """Folder of the adapter."""
        return self.folder / ADAPTER

    @property
    def template(self) -> Path:
        """The prompt template it was trained with."""
        return self.folder / TEMPLATE


def read_run(folder: Path | str) -> Run:
    """Read a run directory.

    Raises:
        RunError: It is missing or incomplete, or of a format this version does not read.
    """
    folder = Path(folder)
    manifest = folder / "manifest.json"
    if not folder.is_dir():
        raise RunError(f"{folder}: no such run directory; `erc-llm train CONFIG` makes one")
    if not manifest.is_file() or not (folder / "config.yaml").is_file():
        raise RunError(f"{folder}: not a run directory: it needs manifest.json and config.yaml")
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{manifest}: broken JSON ({error}); train again") from error
    if isinstance(content, dict) and "baseline" in content:
        raise RunError(f"{folder}: holds a baseline, no adapter; `erc-llm baseline CONFIG --resume` predicts by it")
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != RUN_FORMAT:
        raise RunError(f"{manifest}: run format {version}, this version of erc-llm reads {RUN_FORMAT}; train again")
    try:
        # Runs from before classes could be balanced do not say what they saw: every target once an epoch.
        content.setdefault("training_prior", content["train_shares"])
        for name in ("labels", "train_shares", "training_prior"):
            content[name] = tuple(content[name])
        if content.get("confusion") is not None:
            content["confusion"] = tuple(map(tuple, content["confusion"]))
        content["averaged"] = tuple(content.get("averaged", ()))
        read = Manifest(**content)
    except (KeyError, TypeError) as error:
        raise RunError(f"{manifest}: a field is missing or unknown: {error}") from error
    return Run(folder, load_config(folder / "config.yaml"), read)


def claim(folder: Path, config: RunConfig, resume: bool) -> bool:
    """Whether the run is finished already.

    Raises:
        RunError: The folder belongs to something else, or to a run of another configuration.
    """
    if not folder.exists() or all(_is_beginning(path) for path in folder.iterdir()):
        return False
    if process_rank() != 0:  # the main process has looked, and may have begun to write
        return resume and (folder / "manifest.json").is_file() and read_run(folder).manifest.status == FINISHED
    if not (folder / "manifest.json").is_file():
        raise RunError(f"{folder}: exists and is not a run; choose another name=")
    run = read_run(folder)
    if not resume:
        raise RunError(f"{folder}: this run exists ({run.manifest.status}); add --resume, or choose another name=")
    if run.manifest.config_sha256 != config.sha256:
        raise other_recipe(folder, run.config, config)
    return run.manifest.status == FINISHED


def _is_beginning(path: Path) -> bool:
    """Whether a file is one that a run writes before its manifest, or a draft of one that a kill left."""
    return path.name in ("config.yaml", TEMPLATE) or (path.name.startswith(".") and path.name.endswith(".partial"))


def check_same(folder: Path, manifest: Manifest) -> None:
    """Refuse to go on with a run on another corpus, prompt or base model than it began with.

    Raises:
        RunError: One of them differs.
    """
    if not (folder / "manifest.json").is_file():
        return
    began = read_run(folder).manifest
    if began.confusion != manifest.confusion:
        raise RunError(f"{folder}: cannot resume: state.confusion names other predictions than it began with")
    refuse_other_sources(folder, began, manifest, ("corpus_sha256", "template_sha256", "base_model_sha256"))


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


def refuse_other_sources(folder: Path, began: object, now: object, hashes: Sequence[str]) -> None:
    """Compare those attributes of two manifests.

    Raises:
        RunError: One of them differs.
    """
    for name in hashes:
        old, new = str(getattr(began, name)), str(getattr(now, name))
        if old != new:
            raise RunError(
                f"{folder}: cannot resume: {name} was {old[:12]}, now it is {new[:12]}; choose another name="
            )


def other_recipe(folder: Path, began: Recipe, now: Recipe) -> RunError:
    """What to raise where a run would go on with a configuration of another hash; it names the fields that changed."""
    changed = ", ".join(_changed(began.result_fields(), now.result_fields()))
    changed = changed or "nothing, but this version of erc-llm knows fields that the run's did not"
    return RunError(f"{folder}: cannot resume with another configuration; changed: {changed}")


def _changed(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    changed = []
    for key in new:
        before, after = old.get(key), new[key]
        if isinstance(before, dict) and isinstance(after, dict):
            changed += _changed(before, after, f"{prefix}{key}.")
        elif before != after:
            changed.append(f"{prefix}{key}")
    return changed
