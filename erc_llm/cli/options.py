"""Options, console and library settings that the commands share.

Input: nothing. Output: typer options, a rich console.
Does not depend on: torch, transformers.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

HealFrom = Annotated[
    str | None,
    typer.Option(help="Original EmoryNLP files; lines missing in the `aligned` corpus are restored from them."),
]
WithoutText = Annotated[
    bool, typer.Option("--without-text", help="Leave the text of the utterances out, so that tables can be shared.")
]


def open_console() -> Console:
    """A rich console on standard output."""
    from rich.console import Console

    return Console()


def quiet() -> None:
    """Silence the notices of libraries; their errors are still raised as exceptions."""
    import logging
    import warnings

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    warnings.simplefilter("ignore", FutureWarning)
    for library in ("accelerate", "bitsandbytes"):
        logging.getLogger(library).setLevel(logging.ERROR)


def prepare_scoring() -> None:
    """Like `quiet`; also let the process keep the memory that it frees, which makes scoring on a CPU faster.

    For commands that run a language model. Only a command may change the whole process; `erc_llm.load` does not.
    """
    from erc_llm.models.devices import keep_freed_memory

    quiet()
    keep_freed_memory()
