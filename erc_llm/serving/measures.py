"""Measures of the service in Prometheus' text format.

Input: what happens. Output: the text of `/metrics`.
Does not depend on: HTTP routes, models.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

__all__ = ["CONTENT_TYPE_LATEST", "Measures"]

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128)


class Measures:
    """Counters of a service, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "erc_llm_requests", "Requests by route and HTTP status.", ("route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "erc_llm_request_seconds", "Time to answer.", ("route",), buckets=_SECONDS, registry=self._registry
        )
        self._lines = Counter("erc_llm_lines", "Lines that were labelled.", registry=self._registry)
        self._batch = Histogram(
            "erc_llm_batch_dialogues", "Dialogues scored together.", buckets=_BATCH, registry=self._registry
        )

    def watch(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """Add a gauge, which is read when somebody asks."""
        Gauge(f"erc_llm_{name}", meaning, registry=self._registry).set_function(value)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def lines(self, number: int) -> None:
        """Count labelled lines."""
        self._lines.inc(number)

    def batch(self, dialogues: int) -> None:
        """Count a batch."""
        self._batch.observe(dialogues)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self._registry)
