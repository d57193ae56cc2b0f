"""Functions in child processes that may be killed.

One server process for the whole test session imports the heavy libraries once and forks a child for each call, so that
a kill costs a fraction of a second.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

TIMEOUT = 900  # seconds; a training here takes about one, on a machine that has nothing else to do
PRELOADED = ["torch", "trl.trainer.sft_trainer", "peft", "datasets", "pyarrow", "transformers"]


def run_apart(target: Callable[..., None], *arguments: Any, after: float | None = None) -> int:
    """Call `target(*arguments)` in a child; returns its exit code, negative for a signal.

    Args:
        target: A function of a module.
        *arguments: What it gets; pickled.
        after: Kill it from outside after so many seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    child = context.Process(target=target, args=arguments)
    child.start()
    child.join(TIMEOUT if after is None else after)
    if child.is_alive():
        child.kill()
        child.join()
        assert after is not None, f"{target.__name__} hangs"
    assert child.exitcode is not None
    return child.exitcode
