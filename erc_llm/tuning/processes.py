"""Processes that train together: they agree on one value, and share work that any of them can do.

Input: values of this process. Output: the main process's value, or the results of all processes in order.
Does not depend on: models, prompts, what the values mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from erc_llm.models.devices import process_count, process_rank

T = TypeVar("T")
R = TypeVar("R")


def of_main_process(value: T) -> T:
    """Return the main process's value in every process; all must call this at the same step."""
    from accelerate.utils import broadcast_object_list

    agreed: list[T] = broadcast_object_list([value])
    return agreed[0]


def of_all_processes(value: T) -> list[T]:
    """Return the values of all processes, in the order of their ranks; all must call this at the same step."""
    if process_count() == 1:
        return [value]
    from accelerate.utils import gather_object

    found: list[T] = gather_object([value])
    return found


def shared_work(items: Sequence[T], work: Callable[[Sequence[T]], Sequence[R]]) -> list[R]:
    """Results for all items, in order, in every process; each process works on a share of them.

    All processes must call this at the same step, with the same items. Every process takes each n-th item, so that long
    items, which often stand together, are spread.

    Args:
        items: The items.
        work: Returns one result per item.
    """
    count = process_count()
    if count == 1:
        return list(work(items))
    from accelerate.utils import gather_object

    mine = range(process_rank(), len(items), count)
    found = list(zip(mine, work([items[i] for i in mine]), strict=True))
    return [result for _, result in sorted(gather_object(found), key=lambda pair: pair[0])]
