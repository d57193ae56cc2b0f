"""Progress on a terminal: implements `erc_llm.runs.progress.Progress` with rich; and the settings of a process.

Input: a rich console. Output: lines, headings and bars on it.
Does not depend on: models, the work whose progress is shown.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from erc_llm.runs.progress import Bar


class ConsoleProgress:
    """Shows the progress of long work on a console, with bars if it is a terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @property
    def animated(self) -> bool:
        """Whether the console is a terminal."""
        return self.console.is_terminal

    def line(self, text: str, *, warning: bool = False) -> None:
        """Print one line; a warning is printed in yellow."""
        if warning:
            print_warning(text, self.console)
        else:
            self.console.print(text, markup=False, soft_wrap=True)

    def heading(self, text: str) -> None:
        """Print a rule across the console, with a text in it."""
        self.console.rule(text)

    def score(self, where: str, score: float, best: float, is_best: bool) -> None:
        """Print a selection score in per cent, and whether it is the best so far."""
        mark = "[bold green]new best[/]" if is_best else f"best is {100 * best:.2f}"
        self.console.print(f"{where}: selection weighted F1 [bold]{100 * score:.2f}[/] ({mark})")

    @contextmanager
    def bar(self, text: str, total: int, completed: int = 0, *, transient: bool = False) -> Iterator[Bar]:
        """Draw a bar; a transient one has a plain style and is removed at the end."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        chosen = Progress.get_default_columns() if transient else columns
        drawn = Progress(*chosen, console=self.console, disable=not self.animated, transient=transient)
        task = drawn.add_task(text, total=total, completed=completed, metrics="")
        with drawn:
            yield _ConsoleBar(drawn, task)

    def busy(self, text: str) -> AbstractContextManager[object]:
        """Show a spinner."""
        return self.console.status(text)


def print_warning(text: str, console: Console) -> None:
    """Print one line in yellow; on standard error if the console is quiet."""
    shown = Console(stderr=True) if console.quiet else console
    shown.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)


class _ConsoleBar:
    def __init__(self, drawn: Progress, task: TaskID) -> None:
        self._drawn = drawn
        self._task = task

    def update(self, completed: int, metrics: str | None = None) -> None:
        self._drawn.update(self._task, completed=completed)
        if metrics is not None:
            self._drawn.update(self._task, metrics=metrics)


def silence_libraries() -> None:
    """Silence the notices of libraries; their errors are still raised as exceptions.

    On a terminal, their bars of downloads and of loading weights appear after three seconds, and a note says when a
    model is converted.
    """
    import warnings

    from erc_llm.models.wheels import BAR_DELAY

    # huggingface_hub reads its variable at import, with these values.
    disabled = os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS", "").upper() in ("1", "ON", "TRUE", "YES")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if sys.stderr.isatty() and not disabled:
        os.environ.setdefault(BAR_DELAY, "3")
        _show_notes(logging.getLogger("erc_llm.models"))
    else:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    warnings.simplefilter("ignore", FutureWarning)
    for library in ("accelerate", "bitsandbytes"):
        logging.getLogger(library).setLevel(logging.ERROR)


def _show_notes(logger: logging.Logger) -> None:
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler())
        logger.setLevel(logging.INFO)


def prepare_scoring() -> None:
    """Like `silence_libraries`; also settings of memory that make long scoring on a CPU faster and smaller.

    For commands that run a language model, and the processes that they start. `erc_llm.load` does not change the whole
    process.
    """
    from erc_llm.models.devices import bound_kernel_cache, keep_freed_memory

    silence_libraries()
    keep_freed_memory()
    bound_kernel_cache()
