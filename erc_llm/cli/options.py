"""What all commands share: common options, a console, quiet libraries.

Does not depend on: torch, transformers.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

HealFrom = Annotated[str | None, typer.Option(help="Original EmoryNLP files, to restore lines `aligned` lacks.")]


def open_console() -> Console:
    """Standard output, as rich sees it."""
    from rich.console import Console

    return Console()


def quiet() -> None:
    """Keep the libraries' notices off the screen; their errors still arrive as exceptions."""
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
    """`quiet`, and let the process keep the memory that it frees, which makes scoring on a CPU faster.

    For commands that run a language model. Only a command may change the whole process; `erc_llm.load` does not.
    """
    from erc_llm.models.devices import keep_freed_memory

    quiet()
    keep_freed_memory()
