"""Workers on Ray: each loads the model once and labels shard after shard; Ray Data hands the shards out.

A worker that dies is started again, and its shard given to a worker again. Ray is started on this machine, unless the
environment's RAY_ADDRESS names a cluster.

Input: a `Job` and its shards. Output: a `Done` for each shard, as they are finished.
Does not depend on: how a shard is labelled, where results are recorded.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from erc_llm.corpus.shards import Shard
from erc_llm.errors import UserError
from erc_llm.recipes.shard_worker import Done, Job, ShardWorker

_GOES_ON = "finished shards are kept, and the same command goes on"


def label_shards(job: Job, shards: Sequence[Shard], workers: int | None) -> Iterator[Done]:
    """Label shards, in any order.

    Args:
        job: What the workers need.
        shards: The shards.
        workers: Number of workers; None: one for each GPU, without GPUs one.

    Raises:
        UserError: A worker reports what concerns all shards, or workers cannot be kept running.
    """
    if not shards:
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    try:
        with _silent():
            ray.init(
                address=os.environ.get("RAY_ADDRESS") or "local",
                include_dashboard=None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        for row in _dataset(job, shards, workers).iter_rows():
            done = Done(**row)
            if done.stop is not None:
                raise UserError(f"{done.stop}; {_GOES_ON}")
            yield done
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise UserError(
            f"--engine ray: the workers could not be kept running: {_first_line(error)}; if memory is short, use fewer "
            f"--workers; {_GOES_ON}"
        ) from error
    finally:
        ray.shutdown()


@contextmanager
def _silent() -> Iterator[None]:
    """Discard what native code prints: Ray says on every start at which level it logs."""
    shown, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(shown, 2)
        os.close(shown)
        os.close(nowhere)


def _dataset(job: Job, shards: Sequence[Shard], workers: int | None) -> Any:
    """The results of all shards, computed as they are read."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext, from_items

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    has: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus, gpus = int(has.get("CPU", 0)), int(has.get("GPU", 0))
    count = workers or gpus or 1
    return from_items([asdict(shard) for shard in shards], override_num_blocks=len(shards)).map(
        _RayWorker,  # type: ignore[arg-type]  # Ray creates it in each worker
        fn_constructor_args=(job,),
        compute=ActorPoolStrategy(size=count),
        num_cpus=None if gpus else max(1, cpus // count),
        num_gpus=gpus / count if gpus else None,
    )


class _RayWorker:
    """A `ShardWorker` in a process of Ray Data, whose rows are dictionaries."""

    def __init__(self, job: Job) -> None:
        self._worker = ShardWorker(job)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return asdict(self._worker(Shard(**row)))


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
