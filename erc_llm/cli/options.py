"""Options, console and library settings that the commands share.

Input: nothing. Output: typer options, a rich console.
Does not depend on: torch, transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from erc_llm.recipes.console import prepare_scoring, quiet

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["HealFrom", "Overrides", "WithoutText", "open_console", "prepare_scoring", "quiet"]

HealFrom = Annotated[
    str | None,
    typer.Option(help="Original EmoryNLP files; lines missing in the `aligned` corpus are restored from them."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Fields to change, as section.field=value, for example lora.rank=32 or profile.writer=lines."),
]
WithoutText = Annotated[
    bool,
    typer.Option("--without-text", help="Leave the text of the utterances out, so that files can be shared."),
]


def open_console() -> Console:
    """A rich console on standard output."""
    from rich.console import Console

    return Console()
