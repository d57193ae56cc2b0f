"""The command `adapters`: lists exported adapters with what is known of each.

Input: a folder of exports. Output: a table on the terminal.
Does not depend on: torch and transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erc_llm.cli.options import open_console


def adapters(
    folder: Annotated[Path, typer.Argument(help="Folder of exports.")] = Path("adapters"),
) -> None:
    """List the exports in a folder: form, base, data, size, date, and how they were verified."""
    from rich.table import Table

    from erc_llm.recipes.adapters import list_exports

    console = open_console()
    found = list_exports(folder)
    if not found:
        typer.echo(f"{folder}: holds no exports; `erc-llm export RUN` makes one")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("Name", "Form", "Base", "Trained on", "Weighted F1 %", "MB", "Date", "Verified"):
        table.add_column(heading, justify="right" if heading in ("Weighted F1 %", "MB") else "left", overflow="fold")
    for each in found:
        table.add_row(
            each.name,
            each.form,
            each.base,
            each.trained_on,
            each.score,
            f"{each.megabytes:,.1f}",
            each.date,
            each.verified,
        )
    console.print(table)
