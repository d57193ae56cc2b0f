"""The command `export`: writes an adapter in another form, verified; or verifies an export again.

Input: command-line arguments. Output: an export folder.
Does not depend on: torch and transformers until the command runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from erc_llm.cli.options import open_console, open_output, prepare_scoring, print_note
from erc_llm.errors import UserError


def export(
    source: Annotated[Path, typer.Argument(help="Run directory; with --verify an export folder.")],
    to: Annotated[Path | None, typer.Option(help="Export folder. Default: adapters/NAME-FORMAT.")] = None,
    form: Annotated[
        Literal["peft", "merged", "gguf", "gguf-lora"],
        typer.Option(
            "--format",
            help="peft: the adapter, for PEFT and vLLM; merged: one model, for transformers; gguf: one file, for "
            "llama.cpp and Ollama; gguf-lora: the adapter alone, for llama.cpp.",
        ),
    ] = "peft",
    stored: Annotated[
        Literal["auto", "f16", "bf16", "q8_0"],
        typer.Option(
            help="Type of the weights. auto: an adapter alone keeps its own (fp32); merged ones are f16, but bf16 for "
            "merged after training in bf16."
        ),
    ] = "auto",
    from_base: Annotated[
        Literal["auto", "original", "nf4"],
        typer.Option(
            help="For a run on a base in NF4: add the update to the original base, or to what NF4 makes of it. auto: "
            "both are tried, the smaller drift stays."
        ),
    ] = "auto",
    base: Annotated[
        str | None,
        typer.Option(
            help="Hub id of the base model, if the run names a folder. With --verify: folder or hub id of it."
        ),
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the base model, as the hub names it.")] = None,
    table: Annotated[
        list[Path] | None, typer.Option(help="Predictions table of the run, for the metrics of its card. Repeatable.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Largest difference of a probability that is accepted; the card states it. Default: by form and "
            "precision, 0.001 to 0.06."
        ),
    ] = None,
    probes: Annotated[
        int | None, typer.Option(help="Number of prompts to verify with, 24; give fewer for a large model on a CPU.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Verify an export again instead of making one.")] = False,
    push: Annotated[
        str | None,
        typer.Option(
            help="Upload the export to this model repository of the hub, OWNER/NAME. Also of an export folder."
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="For a run from another machine: model.base=FOLDER or model.device. Repeatable."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="With --push: replace what the repository holds.")] = False,
    private: Annotated[bool, typer.Option("--private", help="With --push: create a private repository.")] = False,
) -> None:
    """Write a run's adapter in a form that other programs load, and prove by reloading that it computes the same."""
    prepare_scoring()
    from erc_llm.recipes.export import PROBES, ExportOptions, export_run
    from erc_llm.recipes.export_verify import verify_export
    from erc_llm.runs.exported import RECORD

    if (force or private) and push is None:
        raise UserError("--force and --private: are about a repository; name it with --push")
    if verify or (push is not None and (source / RECORD).is_file()):
        new = (to, table, licence, tolerance, changes, probes, *(() if verify else (base,)))
        if any(value is not None for value in new) or (form, stored, from_base) != ("peft", "auto", "auto"):
            raise UserError(f"{source}: is an export already; options of a new one have no effect, leave them out")
        if verify:
            verify_export(source, open_output(), base)
        if push is not None:
            _push(source, push, force, private)
        return
    options = ExportOptions(
        run=source,
        form=form,
        target=to,
        stored=stored,
        from_base=from_base,
        base=base,
        licence=licence,
        tables=tuple(table or ()),
        overrides=tuple(changes or ()),
        tolerance=tolerance,
        probes=PROBES if probes is None else probes,
    )
    folder = export_run(options, open_console())
    print_note(f"{form} export, verified: {folder}")
    if push is not None:
        _push(folder, push, force, private)


def _push(folder: Path, repository: str, force: bool, private: bool) -> None:
    from erc_llm.export.push import push

    print_note(f"uploaded: {push(folder, repository, force=force, private=private)}")
