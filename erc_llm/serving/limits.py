"""Limits of the service: what a client may send, and what the service keeps.

Input: numbers from the command line. Output: a frozen record.
Does not depend on: HTTP, models.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may send, and what the service keeps.

    Attributes:
        body_bytes: Size of a request.
        body_seconds: Time that a client has to send its request.
        lines: Lines of a dialogue, or of a live session.
        characters: Characters of a line.
        seconds: Time that a request may wait for its result.
        waiting: Requests that wait for the model.
        batch_lines: Lines of different requests that the model scores together; 1: every request alone.
        sessions: Live sessions at a time.
        session_seconds: Time after its last line at which a live session ends.
        cache_bytes: Memory for the key-value caches of all live sessions. Above it the caches of the sessions that have
            been silent longest are freed, and computed again with their next line.
    """

    body_bytes: int = 1_000_000
    body_seconds: float = 10.0
    lines: int = 500
    characters: int = 4_000
    seconds: float = 60.0
    waiting: int = 256
    batch_lines: int = 256
    sessions: int = 100
    session_seconds: float = 900.0
    cache_bytes: int = 2**30
