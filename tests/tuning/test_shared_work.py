"""Work that processes share: each does its part, and all get the results in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from erc_llm.tuning.callbacks import CheckpointCallback
from erc_llm.tuning.processes import shared_work
from tests.tuning.logs import unseen_log


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_the_shares_of_all_processes_are_the_whole_in_order(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    items: list[str] = list("abcdefg")
    parts: list[list[Any]] = []
    done: list[str] = []

    def work(share: Sequence[str]) -> list[str]:
        done.extend(share)
        return [item.upper() for item in share]

    monkeypatch.setenv("WORLD_SIZE", str(count))

    def gather(mine: list[Any]) -> list[Any]:
        parts.append(mine)
        return [pair for part in parts[-count:] for pair in part]

    monkeypatch.setattr("accelerate.utils.gather_object", gather)
    for rank in range(count):
        monkeypatch.setenv("RANK", str(rank))
        found = shared_work(items, work)
    assert found == list("ABCDEFG"), "the last process gets what all have sent"
    assert sorted(done) == items, "nothing is done twice"


class Control:
    should_save = False


class At:
    """The state of a training run at a step."""

    max_steps = 100

    def __init__(self, step: int) -> None:
        self.global_step, self.logging_steps = step, 5


@pytest.mark.parametrize(("count", "minutes", "asked"), [(1, 1.0, 10), (2, 1.0, 2), (2, 0.0, 10)])
def test_several_processes_agree_on_a_checkpoint_at_logged_steps_only(
    count: int, minutes: float, asked: int, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU waits for whatever is agreed on. Checkpoints at every step need no clock."""
    monkeypatch.setenv("WORLD_SIZE", str(count))
    agreed: list[bool] = []
    monkeypatch.setattr("erc_llm.tuning.callbacks.of_main_process", lambda due: agreed.append(due) or due)
    callback = CheckpointCallback(minutes, unseen_log(tmp_path))
    for step in range(1, 11):
        callback.on_step_end(At(step), At(step), Control())  # type: ignore[arg-type]
    assert len(agreed) == asked
