"""Options, console and library settings that the commands share.

Input: nothing. Output: typer options, commands with `--quiet`, rich consoles.
Does not depend on: torch, transformers.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Annotated, Any

import typer

from erc_llm.cli.completion import complete_field
from erc_llm.recipes.console import prepare_scoring, silence_libraries

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "AsJson",
    "HealFrom",
    "Overrides",
    "WithoutText",
    "open_console",
    "open_output",
    "prepare_scoring",
    "print_json",
    "print_note",
    "silence_libraries",
    "with_quiet",
]

# Whether the command that runs now prints no progress and no notes.
_QUIET: ContextVar[bool] = ContextVar("quiet", default=False)


HealFrom = Annotated[
    str | None,
    typer.Option(help="Original EmoryNLP files; lines missing in the `aligned` corpus are restored from them."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Fields to change, as section.field=value, for example lora.rank=32 or profile.writer=lines.",
        autocompletion=complete_field,
    ),
]
WithoutText = Annotated[
    bool,
    typer.Option("--without-text", help="Leave the text of the utterances out, so that files can be shared."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables, and nothing else.")]


_Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="No progress, no notes: results, warnings and errors only."),
]


def with_quiet(command: Callable[..., None]) -> Callable[..., None]:
    """The same command with the option `--quiet` after its own."""

    @wraps(command)
    def wrapped(*, quiet: bool, **values: Any) -> None:
        _QUIET.set(quiet or bool(values.get("as_json")))
        if quiet:
            os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
        command(**values)

    own = signature(command, eval_str=True)
    option = Parameter("quiet", Parameter.KEYWORD_ONLY, default=False, annotation=_Quiet)
    wrapped.__signature__ = own.replace(parameters=[*own.parameters.values(), option])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {name: each.annotation for name, each in own.parameters.items()} | {"quiet": _Quiet}
    return wrapped


def open_console() -> Console:
    """A rich console on standard output for progress and notes; with `--quiet` it shows nothing."""
    from rich.console import Console

    return Console(quiet=_QUIET.get())


def open_output() -> Console:
    """A rich console on standard output for a command's result."""
    from rich.console import Console

    return Console()


def print_note(text: str) -> None:
    """Print a note, such as where a file was written; nothing with `--quiet` and `--json`."""
    if not _QUIET.get():
        typer.echo(text)


def print_json(content: object) -> None:
    """Print a result as JSON."""
    import json

    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))
