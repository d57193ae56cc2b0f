"""The command `serve`: a run as an HTTP service.

Input: command-line arguments. Output: answers on a socket, until it is told to end.
Does not depend on: torch, transformers and FastAPI until the command runs.
"""

from __future__ import annotations

import os
from typing import Annotated, Literal

import typer

from erc_llm.cli.options import HealFrom, open_console, prepare_scoring
from erc_llm.errors import UserError
from erc_llm.serving.limits import Limits

KEY = "ERC_LLM_API_KEY"
LIMITS = "Limits"
_DEFAULT = Limits()


def serve(
    source: Annotated[
        str, typer.Argument(help="Run directory, or an export; or a configuration, for its base model alone.")
    ],
    corpus: Annotated[
        str | None,
        typer.Argument(help="Corpus from which speaker profiles are written, if the run has any; or `none`."),
    ] = None,
    host: Annotated[
        str, typer.Option(help=f"Address to listen on. Any but this machine's own needs a key in ${KEY}.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free one.", min=0, max=65535)] = 8000,
    decide: Annotated[
        Literal["auto", "probable", "weighted_f1", "macro_f1", "weights"],
        typer.Option(help="How the label is chosen; see `erc-llm predict --help`."),
    ] = "auto",
    calibration: Annotated[
        Literal["auto", "none", "run"], typer.Option(help="Whether the run's calibration is applied; see predict.")
    ] = "auto",
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting of the run, such as model.device; see predict. Repeatable."),
    ] = None,
    heal_from: HealFrom = None,
    batch_lines: Annotated[
        int,
        typer.Option(
            help="Lines of different requests that are scored together; 1: every request alone.",
            min=1,
            rich_help_panel=LIMITS,
        ),
    ] = _DEFAULT.batch_lines,
    waiting: Annotated[
        int, typer.Option(help="Requests that may wait; more get 503.", min=1, rich_help_panel=LIMITS)
    ] = _DEFAULT.waiting,
    timeout: Annotated[
        float, typer.Option(help="Seconds that a request may wait for its result.", min=1, rich_help_panel=LIMITS)
    ] = _DEFAULT.seconds,
    lines: Annotated[
        int, typer.Option(help="Lines of a dialogue or a live session.", min=1, rich_help_panel=LIMITS)
    ] = _DEFAULT.lines,
    sessions: Annotated[
        int, typer.Option(help="Live sessions at a time.", min=1, rich_help_panel=LIMITS)
    ] = _DEFAULT.sessions,
    session_minutes: Annotated[
        float,
        typer.Option(help="Minutes without a line after which a live session ends.", min=0.1, rich_help_panel=LIMITS),
    ] = _DEFAULT.session_seconds / 60,
    cache_mb: Annotated[
        int,
        typer.Option(
            help="Memory for the caches of live sessions, in MB; above it those of silent ones are computed again.",
            min=1,
            rich_help_panel=LIMITS,
        ),
    ] = _DEFAULT.cache_bytes // 2**20,
) -> None:
    """Serve a run over HTTP: label dialogues, and live sessions line by line; /docs describes the requests."""
    try:
        from erc_llm.hosting.listen import answer, check_door, open_socket
        from erc_llm.serving.app import create_app
    except ImportError as error:
        raise UserError(
            f"a service needs {error.name}, which is not installed: pip install 'erc-llm[serve]'"
        ) from error
    key = os.environ.get(KEY) or None
    check_door(host, key)
    prepare_scoring()
    from erc_llm.recipes.predict import PredictOptions, open_live

    options = PredictOptions(
        source=source,
        corpus=corpus,
        heal_from=heal_from,
        decide=decide,
        calibration=calibration,
        overrides=tuple(changes or ()),
    )
    limits = Limits(
        waiting=waiting,
        seconds=timeout,
        batch_lines=batch_lines,
        lines=lines,
        sessions=sessions,
        session_seconds=60 * session_minutes,
        cache_bytes=cache_mb * 2**20,
    )
    with open_socket(host, port) as door:
        predictor = open_live(options, open_console())
        door.listen()  # from here on requests wait instead of failing
        shown = f"[{host}]" if ":" in host else host
        typer.echo(f"serving {source} at http://{shown}:{door.getsockname()[1]} (requests: /docs; to end: Ctrl-C)")
        answer(create_app(predictor, limits, key), door, timeout)
