"""The command `adapters`: lists exported adapters with what is known of each.

Input: a folder of exports. Output: a few lines each on the terminal.
Does not depend on: torch and transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def adapters(
    folder: Annotated[Path, typer.Argument(help="Folder of exports.")] = Path("adapters"),
) -> None:
    """List the exports in a folder: form, size, date, base, data, score, and how their weights were verified."""
    from erc_llm.recipes.adapters import list_exports

    found = list_exports(folder)
    if not found:
        typer.echo(f"{folder}: holds no exports; `erc-llm export RUN` makes one")
    for each in found:
        typer.echo(each.name)
        for line in each.lines:
            typer.echo(f"  {line}")
