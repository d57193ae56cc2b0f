"""Learning-rate schedules: maps the name in a configuration to the scheduler of transformers.

Input: the field `training.schedule`. Output: the name that `transformers.get_scheduler` takes.
Does not depend on: torch, the number of steps.
"""

from __future__ import annotations

from typing import Literal

LrSchedule = Literal["cosine", "linear", "constant"]

_SCHEDULERS = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant_with_warmup",  # transformers' `constant` ignores its warm-up steps
}


def scheduler_name(schedule: LrSchedule) -> str:
    """Name of the scheduler of transformers that warms up and then follows the schedule."""
    return _SCHEDULERS[schedule]
