"""Live sessions of the service without HTTP: order, failures, memory."""

from __future__ import annotations

from typing import Any

import pytest

from erc_llm.serving.sessions import NoSession, SessionRefused, Sessions


class Cached:
    """A live session whose cache grows by 10 bytes a line."""

    def __init__(self, _: str) -> None:
        self.cached_bytes = 0
        self.forgot = 0

    def say(self, speaker: tuple[str, ...], text: str) -> Any:
        if text == "fail":
            raise RuntimeError("broken")
        self.cached_bytes += 10
        return text

    def forget(self) -> None:
        self.cached_bytes, self.forgot = 0, self.forgot + 1


def sessions(**changed: Any) -> tuple[Sessions, list[Cached]]:
    made: list[Cached] = []

    def begin(name: str) -> Cached:
        made.append(Cached(name))
        return made[-1]

    options = {"most": 3, "seconds": 10.0, "lines": 5, "cache_bytes": 25, "now": lambda: 0.0} | changed
    return Sessions(begin, **options), made


def say(open_sessions: Sessions, name: str, text: str = "Hello.") -> Any:
    open_sessions.reserve(name)
    return open_sessions.say(name, ("Ada",), text)


def test_the_caches_of_the_session_silent_longest_are_freed_first() -> None:
    clock = iter(range(100))
    open_sessions, made = sessions(now=lambda: float(next(clock)), seconds=1000.0)
    names = [open_sessions.start("live") for _ in range(3)]
    for name in names:
        say(open_sessions, name)
    assert [live.cached_bytes for live in made] == [0, 10, 10]
    say(open_sessions, names[0])
    assert [live.cached_bytes for live in made] == [10, 0, 10]
    assert open_sessions.cached_bytes == 20


def test_one_line_at_a_time() -> None:
    open_sessions, _ = sessions()
    name = open_sessions.start("live")
    open_sessions.reserve(name)
    with pytest.raises(SessionRefused, match="one by one"):
        open_sessions.reserve(name)
    open_sessions.release(name)
    assert say(open_sessions, name) == (1, "Hello.")
    assert say(open_sessions, name) == (2, "Hello.")


def test_a_session_that_failed_has_ended() -> None:
    open_sessions, _ = sessions()
    name = open_sessions.start("live")
    with pytest.raises(RuntimeError, match="broken"):
        say(open_sessions, name, "fail")
    with pytest.raises(NoSession):
        open_sessions.state(name)


def test_silent_sessions_end_and_make_room() -> None:
    time = 0.0
    open_sessions, _ = sessions(now=lambda: time)
    names = [open_sessions.start("live") for _ in range(3)]
    with pytest.raises(SessionRefused):
        open_sessions.start("live")
    time = 9.0
    say(open_sessions, names[0])
    time = 12.0
    assert len(open_sessions) == 1
    assert open_sessions.state(names[0]) == (1, 7.0)
    open_sessions.start("live")
