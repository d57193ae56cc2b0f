"""The order of a training: every scene once an epoch, budgets kept, the same steps however they are split."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from erc_llm.errors import ConfigError
from erc_llm.tuning.order import StepOrder, order_steps


def _plan(sizes: list[int], *, parts: int, **rest: Any) -> StepOrder:
    """A plan for enough scenes; `order_steps` refuses fewer scenes than parts, which has a test of its own."""
    usable = sum(size > 0 for size in sizes)
    assume(usable == 0 or usable >= parts)
    return order_steps(sizes, parts=parts, **rest)


SIZES = st.lists(st.integers(0, 400), min_size=1, max_size=40)
BUDGET = st.integers(64, 1000)
PARTS = st.integers(1, 6)
SEED = st.integers(0, 5)


def _scenes(schedule: StepOrder, epoch: int) -> list[int]:
    return [scene for batch in schedule.batches() if batch.epoch == epoch for scene in batch.scenes]


@given(sizes=SIZES, budget=BUDGET, parts=PARTS, seed=SEED)
def test_the_hash_is_of_the_scenes_of_steps_and_not_of_their_forests(
    sizes: list[int], budget: int, parts: int, seed: int
) -> None:
    one, split = (_plan(sizes, parts=p, epochs=2, tokens_per_step=budget, seed=seed) for p in (1, parts))
    assert (one.sha256 == split.sha256) == (_steps(one) == _steps(split))
    other = _plan(sizes, parts=1, epochs=2, tokens_per_step=budget, seed=seed + 1)
    assert (one.sha256 == other.sha256) == (_steps(one) == _steps(other))


def _steps(schedule: StepOrder) -> list[set[int]]:
    return [{scene for batch in step for scene in batch.scenes} for step in schedule.steps]


@given(sizes=SIZES, budget=BUDGET, parts=PARTS, seed=SEED, epochs=st.integers(1, 3))
def test_every_usable_scene_comes_once_an_epoch(
    sizes: list[int], budget: int, parts: int, seed: int, epochs: int
) -> None:
    schedule = _plan(sizes, epochs=epochs, tokens_per_step=budget, parts=parts, seed=seed)
    usable = Counter(i for i, size in enumerate(sizes) if size > 0)
    for epoch in range(epochs):
        assert Counter(_scenes(schedule, epoch)) == usable
    assert _scenes(schedule, epochs) == []
    for step in schedule.steps:
        assert len({batch.epoch for batch in step}) <= 1, "a step belongs to one epoch"


@given(sizes=SIZES, budget=BUDGET, seed=SEED)
def test_a_step_keeps_its_budget_unless_it_is_a_single_scene(sizes: list[int], budget: int, seed: int) -> None:
    for step in _steps(order_steps(sizes, epochs=2, tokens_per_step=budget, parts=1, seed=seed)):
        assert sum(sizes[scene] for scene in step) <= budget or len(step) == 1


@given(sizes=SIZES, budget=BUDGET, parts=PARTS, seed=SEED)
def test_several_parts_exceed_the_budget_only_for_lack_of_scenes(
    sizes: list[int], budget: int, parts: int, seed: int
) -> None:
    steps = _steps(_plan(sizes, epochs=1, tokens_per_step=budget, parts=parts, seed=seed))
    for step in steps[:-1]:  # the last one may have taken in a remainder that was too small for a step
        assert sum(sizes[scene] for scene in step) <= budget or len(step) <= parts


@given(sizes=SIZES, budget=BUDGET, seed=SEED)
def test_steps_are_full(sizes: list[int], budget: int, seed: int) -> None:
    """Two neighbouring steps of an epoch never fit into one budget together."""
    steps = _steps(order_steps(sizes, epochs=1, tokens_per_step=budget, parts=1, seed=seed))
    used = [sum(sizes[scene] for scene in step) for step in steps]
    assert all(left + right > budget for left, right in pairwise(used))


@given(sizes=SIZES, budget=BUDGET, parts=PARTS, seed=SEED, epochs=st.floats(0.05, 3.0))
def test_the_same_seed_gives_the_same_order(
    sizes: list[int], budget: int, parts: int, seed: int, epochs: float
) -> None:
    first, again = (_plan(sizes, epochs=epochs, tokens_per_step=budget, parts=parts, seed=seed) for _ in range(2))
    assert first == again


def test_seeds_and_epochs_differ_in_order() -> None:
    orders = {
        tuple(_scenes(order_steps([10] * 30, epochs=2, tokens_per_step=64, parts=1, seed=seed), epoch))
        for seed in range(3)
        for epoch in range(2)
    }
    assert len(orders) == 6


@given(sizes=st.lists(st.integers(1, 100), min_size=4, max_size=40), seed=SEED)
def test_the_number_of_parts_does_not_change_the_steps(sizes: list[int], seed: int) -> None:
    """Every full step has four scenes or more; only a remainder of fewer joins the step before it."""
    one, two, four = (
        _steps(order_steps(sizes, epochs=1, tokens_per_step=400, parts=parts, seed=seed)) for parts in (1, 2, 4)
    )
    for split in (two, four):
        assert split[:-1] == one[: len(split) - 1]
        assert set.union(*split) == set.union(*one)
        assert len(one) - len(split) in (0, 1)
    if len(one[-1]) >= 4:
        assert one == two == four


@given(sizes=SIZES, budget=BUDGET, parts=PARTS, seed=SEED)
def test_every_part_of_a_step_has_a_scene(sizes: list[int], budget: int, parts: int, seed: int) -> None:
    schedule = _plan(sizes, epochs=1, tokens_per_step=budget, parts=parts, seed=seed)
    usable = sum(size > 0 for size in sizes)
    for step in schedule.steps:
        assert all(batch.scenes for batch in step) or not usable
        if usable >= parts:
            assert len(step) == parts


@given(sizes=st.lists(st.integers(1, 100), min_size=8, max_size=40), seed=SEED)
def test_parts_of_a_step_are_of_about_equal_size(sizes: list[int], seed: int) -> None:
    for step in order_steps(sizes, epochs=1, tokens_per_step=800, parts=2, seed=seed).steps:
        loads = [sum(sizes[scene] for scene in batch.scenes) for batch in step]
        assert max(loads) - min(loads) <= max(sizes[scene] for batch in step for scene in batch.scenes)


@given(sizes=st.lists(st.integers(1, 100), min_size=2, max_size=40), epochs=st.floats(0.05, 3.0), seed=SEED)
def test_a_fraction_of_an_epoch_is_a_fraction_of_its_scenes(sizes: list[int], epochs: float, seed: int) -> None:
    schedule = order_steps(sizes, epochs=epochs, tokens_per_step=200, parts=1, seed=seed)
    whole = math.floor(epochs)
    assert all(len(_scenes(schedule, epoch)) == len(sizes) for epoch in range(whole))
    rest = len(_scenes(schedule, whole))
    if epochs > whole:
        assert rest == max(1, round((epochs - whole) * len(sizes)))
        complete = order_steps(sizes, epochs=whole + 1, tokens_per_step=200, parts=1, seed=seed)
        assert set(_scenes(schedule, whole)) <= set(_scenes(complete, whole))
    else:
        assert rest == 0


def test_a_fraction_is_the_beginning_of_the_whole_epoch() -> None:
    sizes = [50] * 20
    half = order_steps(sizes, epochs=0.5, tokens_per_step=100, parts=1, seed=3)
    whole = order_steps(sizes, epochs=1, tokens_per_step=100, parts=1, seed=3)
    assert half.steps == whole.steps[:5]


@pytest.mark.parametrize(("scenes", "parts"), [(1, 2), (3, 4)])
def test_fewer_scenes_than_forests_are_refused(scenes: int, parts: int) -> None:
    """transformers takes exactly `parts` forests for a step, so none may lack."""
    with pytest.raises(ConfigError, match=f"{parts} forests a step .* not {scenes}"):
        order_steps([50] * scenes, epochs=3, tokens_per_step=1000, parts=parts, seed=0)
