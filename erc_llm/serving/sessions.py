"""Live sessions of the service: bounded in number, in time and in the memory of their caches.

Input: a function that begins a live session, and lines. Output: labelled lines.
Does not depend on: HTTP. Lines are added in the model's thread; all else may be called from any thread.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from erc_llm.predictor import LabelledUtterance


class Live(Protocol):
    """The part of `erc_llm.LiveSession` that the service uses."""

    @property
    def cached_bytes(self) -> int:
        """Memory of its caches."""

    def say(self, speaker: tuple[str, ...], text: str) -> LabelledUtterance:
        """Add the next line and label it."""

    def forget(self) -> None:
        """Free the caches."""


class NoSession(Exception):
    """There is no such session: it never was, has ended, or has failed."""


class SessionRefused(Exception):
    """The session takes no line now, or no session can begin; `status` is the HTTP status that says so."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True, eq=False)
class _Entry:
    live: Live
    used: float  # time of the latest line or of the beginning
    lines: int = 0
    busy: bool = False


class Sessions:
    """The live sessions.

    Args:
        begin: Begins a session with a dialogue's id.
        most: Sessions at a time.
        seconds: Time after its last line at which a session ends.
        lines: Most lines of a session.
        cache_bytes: Memory for the caches of all sessions.
        now: The clock, in seconds.
    """

    def __init__(
        self,
        begin: Callable[[str], Live],
        most: int,
        seconds: float,
        lines: int,
        cache_bytes: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._begin, self._most, self._seconds = begin, most, seconds
        self._lines, self._cache_bytes, self._now = lines, cache_bytes, now
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            self._end_old()
            return len(self._entries)

    @property
    def cached_bytes(self) -> int:
        """Memory of all caches, in bytes."""
        with self._lock:
            return sum(entry.live.cached_bytes for entry in self._entries.values())

    def start(self, dialogue_id: str) -> str:
        """Begin a session; returns its id.

        Raises:
            SessionRefused: There are as many as there may be.
        """
        with self._lock:
            self._end_old()
            if len(self._entries) >= self._most:
                raise SessionRefused(
                    f"{self._most} live sessions are open, which is the most; end one (DELETE), or try again later", 429
                )
            name = secrets.token_urlsafe(16)
            self._entries[name] = _Entry(self._begin(dialogue_id), self._now())
            return name

    def end(self, name: str) -> None:
        """End a session.

        Raises:
            NoSession: There is none of that name.
        """
        with self._lock:
            self._entry(name)
            del self._entries[name]

    def state(self, name: str) -> tuple[int, float]:
        """Number of lines so far, and seconds until the session ends.

        Raises:
            NoSession: There is none of that name.
        """
        with self._lock:
            entry = self._entry(name)
            return entry.lines, max(0.0, entry.used + self._seconds - self._now())

    def reserve(self, name: str) -> None:
        """Take a session for the next line, so that two lines sent at once have an order.

        Raises:
            NoSession: There is none of that name.
            SessionRefused: Another line of it is in work, or it has as many lines as it may have.
        """
        with self._lock:
            entry = self._entry(name)
            if entry.busy:
                raise SessionRefused("the line before is still in work; send lines of a session one by one", 409)
            if entry.lines >= self._lines:
                raise SessionRefused(f"the session has {self._lines} lines, which is the most; begin another one", 409)
            entry.busy = True

    def release(self, name: str) -> None:
        """Give a session back whose line was not said."""
        with self._lock:
            if name in self._entries:
                self._entries[name].busy = False

    def say(self, name: str, speakers: tuple[str, ...], text: str) -> tuple[int, LabelledUtterance]:
        """Label the next line of a reserved session; call it in the model's thread. Returns its number and label.

        Raises:
            NoSession: The session was ended meanwhile.
        """
        with self._lock:
            entry = self._entry(name)
        try:
            line = entry.live.say(speakers, text)
        except BaseException:
            with self._lock:
                self._entries.pop(name, None)  # its caches are incomplete
            raise
        with self._lock:
            entry.lines, entry.used, entry.busy = entry.lines + 1, self._now(), False
            self._free_caches(entry)
            return entry.lines, line

    def _entry(self, name: str) -> _Entry:
        self._end_old()
        if name not in self._entries:
            raise NoSession("there is no such live session: it has ended, or never began; begin one by POST /v1/live")
        return self._entries[name]

    def _end_old(self) -> None:
        oldest = self._now() - self._seconds
        for name in [name for name, entry in self._entries.items() if entry.used < oldest and not entry.busy]:
            del self._entries[name]

    def _free_caches(self, latest: _Entry) -> None:
        """Free caches of the sessions silent longest until all fit; a session in work keeps its own."""
        total = sum(entry.live.cached_bytes for entry in self._entries.values())
        for entry in sorted(self._entries.values(), key=lambda e: e.used):
            if total <= self._cache_bytes:
                return
            if entry is not latest and not entry.busy:
                total -= entry.live.cached_bytes
                entry.live.forget()
        if total > self._cache_bytes:
            latest.live.forget()
