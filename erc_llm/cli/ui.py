"""The command `ui`: a page on this machine to look at conversations, labels, errors and training runs.

Input: command-line arguments. Output: a page in a browser, until the command is ended.
Does not depend on: torch, transformers and FastAPI until the command runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erc_llm.cli.options import HealFrom, open_console, prepare_scoring
from erc_llm.errors import UserError

HOST = "127.0.0.1"  # the page reads files and has no password, so no other machine reaches it


def ui(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]...",
            help="Runs, exports, or configurations (their base models alone); without any, those in `runs` and "
            "`adapters`. Runs that are still trained are followed.",
        ),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(help="Corpus to open conversations from, and to write speaker profiles from; or `none`."),
    ] = None,
    tables: Annotated[
        list[Path] | None,
        typer.Option("--table", help="A predictions table whose errors are shown; those in the runs too. Repeatable."),
    ] = None,
    watch: Annotated[
        list[Path] | None,
        typer.Option(help="A run, or a folder of runs, to follow while they are trained; default: runs. Repeatable."),
    ] = None,
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free one.", min=0, max=65535)] = 8000,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting of the runs, such as model.device; see predict. Repeatable."),
    ] = None,
    heal_from: HealFrom = None,
) -> None:
    """Open a page: label conversations live, compare runs, step through errors, follow a training run."""
    try:
        from erc_llm.hosting.listen import answer, open_socket
        from erc_llm.ui.app import Shown, create_app
    except ImportError as error:
        raise UserError(f"the page needs {error.name}, which is not installed: pip install 'erc-llm[ui]'") from error
    prepare_scoring()
    from erc_llm.recipes.ui import UiOptions, find_shown, loader
    from erc_llm.ui.systems import System, open_system

    options = UiOptions(
        sources=tuple(sources or ()),
        corpus=corpus,
        heal_from=heal_from,
        tables=tuple(tables or ()),
        watch=tuple(watch or ()),
        overrides=tuple(changes or ()),
    )
    with open_socket(HOST, port) as door:
        found = find_shown(options)
        systems: list[System] = []
        for source in found.sources:
            systems.append(open_system(source, options.overrides, [system.name for system in systems]))
        door.listen()
        app = create_app(Shown(systems, found.corpora, found.tables, found.watched), loader(options, open_console()))
        typer.echo(f"the page is at http://{HOST}:{door.getsockname()[1]} (to end: Ctrl-C)")
        answer(app, door, 5.0)
