"""Verification of an export: a fresh process reloads it and scores its probes.

Input: an export folder. Output: how far its scores are from those of the run.
Does not depend on: how forms are written.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from erc_llm.errors import ConfigError, RunError
from erc_llm.export.probes import Drift
from erc_llm.models.loading import base_folder
from erc_llm.runs.exported import ExportRecord, read_record
from erc_llm.runs.opened import open_run


def verify_export(folder: Path, console: Console, base: str | None = None) -> Drift:
    """Verify an export again, here; prints the drift.

    Args:
        folder: The export.
        console: Where to print.
        base: Folder or hub id of its base model, if it is not where the export says.

    Raises:
        ConfigError: A base model is given for a form that has its own.
        RunError: The folder is no export, or it computes something else than the run did.
        ModelError: The base model is missing.
    """
    record = read_record(folder)
    if record is None:
        raise RunError(f"{folder}: is no export; `erc-llm export RUN` makes one")
    if base is not None and record.form not in ("peft", "gguf-lora"):
        raise ConfigError(f"--base {base}: {folder} has its base model in it ({record.form}); leave it out")
    named = base or open_run(folder).config.model.base
    found = reload_apart(folder, record, base_folder(named) if record.form in ("peft", "gguf-lora") else None)
    console.print(f"{folder}: {found.words}", highlight=False, soft_wrap=True)
    if problem := too_far(record, found):
        raise RunError(f"{folder}: {problem}. Its base model or its files are not those of the export: copy it again")
    return found


def too_far(record: ExportRecord, found: Drift) -> str | None:
    """What is wrong with an export whose scores are further from those of the run than it states; None if nothing."""
    if found.largest <= record.tolerance:  # false for NaN too
        return None
    return (
        f"as {record.form} it computes something else: {found.words}; accepted are differences up to "
        f"{record.tolerance:g}"
    )


def reload_apart(folder: Path, record: ExportRecord, base: Path | None, on_original: bool = False) -> Drift:
    """Reload an export in a fresh process, and compare its scores; see `erc_llm.export.verify.verify`.

    Raises:
        RunError: It cannot be loaded.
    """
    command = [sys.executable, "-m", "erc_llm.export.verify", str(folder)]
    command += [] if base is None else ["--base", str(base)]
    command += ["--on-original"] if on_original else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode < 0:
        raise RunError(
            f"{folder.name}: the process that loaded the {record.form} form again was killed by signal "
            f"{-done.returncode}; free memory, and try again"
        )
    if done.returncode:
        last = next(iter(reversed(done.stderr.strip().splitlines())), "no message")
        raise RunError(f"{folder.name}: the {record.form} form could not be loaded again: {last}")
    return Drift(**json.loads(done.stdout.strip().splitlines()[-1]))


def reader_of(record: ExportRecord) -> str:
    """Name and version of the program that reloads a form."""
    library = "peft" if record.form in ("peft", "gguf-lora") else "transformers"
    named = f"{library} {record.versions.get(library, '')}".strip()
    return f"erc-llm's reader of GGUF adapters and {named}" if record.form == "gguf-lora" else named
