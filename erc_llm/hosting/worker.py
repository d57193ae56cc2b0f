"""The model's thread: everything that uses the model runs here, one job after the other.

Dialogues that wait at the same time are scored together, in one call. Lines of live sessions go first, because
somebody waits for them. A job whose client has gone is left out. If a batch fails, its dialogues are scored again one
by one, so that one bad dialogue spoils no other.

Input: dialogues and calls. Output: futures of their results.
Does not depend on: HTTP.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from erc_llm.corpus.dialogues import Dialogue
from erc_llm.predictor import LabelledUtterance


class Labeller(Protocol):
    """The part of `erc_llm.Predictor` that the thread uses."""

    def predict_all(self, dialogues: Sequence[Dialogue]) -> Sequence[Sequence[LabelledUtterance]]:
        """Label every target of each dialogue."""


class Busy(Exception):
    """Too many jobs wait already, or the service is ending."""


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """A dialogue to label, or something else to call."""

    work: Dialogue | Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)


class ModelWorker:
    """A thread that owns the model.

    Args:
        labeller: Labels dialogues; None if there are only calls.
        waiting: Most jobs that wait.
        batch_lines: Lines of different dialogues that are scored together; a longer dialogue is scored alone.
        on_batch: Called with the number of dialogues of each batch.
    """

    def __init__(
        self,
        labeller: Labeller | None,
        waiting: int,
        batch_lines: int = 1,
        on_batch: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._labeller = labeller
        self._most = waiting
        self._batch_lines = batch_lines
        self._on_batch = on_batch
        self._calls: deque[_Job] = deque()
        self._dialogues: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of jobs that wait."""
        return len(self._calls) + len(self._dialogues)

    @property
    def alive(self) -> bool:
        """Whether the thread takes jobs."""
        return self._thread.is_alive() and not self._ending

    def label(self, dialogue: Dialogue) -> Future[Sequence[LabelledUtterance]]:
        """The labels of a dialogue's lines.

        Raises:
            Busy: Too many jobs wait.
        """
        assert self._labeller is not None, "this thread has no labeller, so it takes calls only"
        return self._add(_Job(dialogue), self._dialogues)

    def call(self, work: Callable[[], Any]) -> Future[Any]:
        """The result of a call that uses the model.

        Raises:
            Busy: Too many jobs wait.
        """
        return self._add(_Job(work), self._calls)

    def stop(self) -> None:
        """Finish what is running; what waits ends with `Busy`."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._thread.join()

    def _add(self, job: _Job, queue: deque[_Job]) -> Future[Any]:
        with self._changed:
            if self._ending:
                raise Busy("the service is ending")
            if self.waiting >= self._most:
                raise Busy(f"{self._most} requests wait already; try again later")
            queue.append(job)
            self._changed.notify_all()
        return job.future

    def _run(self) -> None:
        while jobs := self._next():
            _settle(jobs[0], jobs[0].work) if callable(jobs[0].work) else self._score(jobs)
        for job in (*self._calls, *self._dialogues):
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(Busy("the service is ending"))

    def _next(self) -> list[_Job]:
        """A call, or the dialogues of the next batch; empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ending or self.waiting)
            if self._ending:
                return []
            if self._calls:
                return [self._calls.popleft()]
            jobs, lines = [self._dialogues.popleft()], 0
            while self._dialogues:
                lines += _lines(jobs[-1])
                if lines + _lines(self._dialogues[0]) > self._batch_lines:
                    break
                jobs.append(self._dialogues.popleft())
            return jobs

    def _score(self, jobs: Sequence[_Job]) -> None:
        wanted = [job for job in jobs if job.future.set_running_or_notify_cancel()]
        if not wanted:
            return
        self._on_batch(len(wanted))
        assert self._labeller is not None
        try:
            found = self._labeller.predict_all([job.work for job in wanted if isinstance(job.work, Dialogue)])
        except Exception as error:
            if len(wanted) == 1:
                wanted[0].future.set_exception(error)
                return
            for job in wanted:
                self._alone(job)
            return
        for job, lines in zip(wanted, found, strict=True):
            job.future.set_result(lines)

    def _alone(self, job: _Job) -> None:
        assert isinstance(job.work, Dialogue)
        assert self._labeller is not None
        try:
            job.future.set_result(self._labeller.predict_all([job.work])[0])
        except Exception as error:
            job.future.set_exception(error)


def _settle(job: _Job, work: Callable[[], Any]) -> None:
    if not job.future.set_running_or_notify_cancel():
        return
    try:
        job.future.set_result(work())
    except Exception as error:
        job.future.set_exception(error)


def _lines(job: _Job) -> int:
    assert isinstance(job.work, Dialogue)
    return len(job.work.utterances)
