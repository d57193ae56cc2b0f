"""The token tree's definitions, and the rule that cuts a long scene into windows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erc_llm.trees.tree import TreeBuilder
from erc_llm.trees.windows import LineCost, Window, WindowCutter, cut_windows
from tests.trees.random_trees import random_tree

relaxed = settings(max_examples=40, deadline=None)


@relaxed
@given(seed=st.integers(0, 10**6), labels=st.sampled_from([1, 3, 5]))
def test_depth_root_path_and_ancestors_follow_from_the_parents(seed: int, labels: int) -> None:
    tree = random_tree(seed, labels)
    assert (tree.parent < np.arange(len(tree))).all()
    assert (tree.parent[: tree.trunk] == np.arange(tree.trunk) - 1).all()
    for node in range(len(tree)):
        above = [node]
        while tree.parent[above[-1]] >= 0:
            above.append(int(tree.parent[above[-1]]))
        assert tree.root_path(node).tolist() == above[::-1]
        assert tree.depth[node] == len(above) - 1
        assert set(np.flatnonzero(tree.ancestors[node])) == set(above)


@relaxed
@given(seed=st.integers(0, 10**6))
def test_a_question_reads_its_trunk_prefix_its_pieces_and_one_answer(seed: int) -> None:
    tree = random_tree(seed)
    for question in tree.questions:
        path = tree.root_path(question.last)
        attached = int(tree.parent[question.start])
        assert attached < tree.trunk
        assert path[: attached + 1].tolist() == list(range(attached + 1))
        assert (path[attached + 1 :] >= question.start).all()
        for answer in question.answers:
            assert tree.root_path(answer[-1]).tolist() == [*path, *answer]
            assert all(question.start <= node < question.stop for node in answer)


def test_answers_that_begin_alike_share_nodes_within_a_question_only() -> None:
    builder = TreeBuilder()
    after = builder.add_trunk("line", [1, 2])
    for target in range(2):
        builder.add_question(target, after, [("question", [3])], [(0, [5, 6, 9]), (1, [5, 9]), (2, [4, 9])])
    tree = builder.build()
    first, second = tree.questions
    assert first.answers[0][0] == first.answers[1][0]
    assert len({node for answer in first.answers for node in answer}) == 6
    assert not set(range(first.start, first.stop)) & set(range(second.start, second.stop))
    assert [tree.token_ids[list(a)].tolist() for a in second.answers] == [[5, 6, 9], [5, 9], [4, 9]]
    assert len(tree) == 2 + 2 * (1 + 6)


def test_the_trunk_cannot_grow_behind_a_question() -> None:
    builder = TreeBuilder()
    builder.add_question(0, builder.add_trunk("line", [1]), [("question", [2])], [])
    with pytest.raises(AssertionError, match="complete"):
        builder.add_trunk("line", [3])


def test_spans_cover_every_node_once_in_order() -> None:
    tree = random_tree(3)
    assert [node for span in tree.spans for node in range(span.start, span.stop)] == list(range(len(tree)))


def costs(lengths: list[int]) -> list[LineCost]:
    return [LineCost(length) for length in lengths]


def test_a_scene_within_the_budget_is_one_window() -> None:
    assert cut_windows(costs([10, 20, 30]), 60) == (Window(0, 3, 0),)


def test_a_window_opens_at_the_line_that_no_longer_fits_and_looks_back_over_half_the_budget() -> None:
    # 40 + 40 + 30 > 100: the third line opens a window; 30 + 40 > 50, so no line before it comes along.
    assert cut_windows(costs([40, 40, 30]), 100) == (Window(0, 2, 0), Window(2, 3, 2))
    # 30 + 30 + 30 + 20 > 100: the fourth opens one, and 20 + 30 fit into 50.
    assert cut_windows(costs([30, 30, 30, 20]), 100) == (Window(0, 3, 0), Window(2, 4, 3))


budgets = st.integers(16, 200)
scenes = budgets.flatmap(lambda b: st.tuples(st.lists(st.integers(1, b // 2), min_size=1, max_size=60), st.just(b)))


@relaxed
@given(scenes)
def test_every_line_is_asked_about_in_exactly_one_window_that_fits(scene: tuple[list[int], int]) -> None:
    lengths, budget = scene
    windows = cut_windows(costs(lengths), budget)
    assert [k for w in windows for k in range(w.first_target, w.stop)] == list(range(len(lengths)))
    for window in windows:
        assert 0 <= window.start <= window.first_target < window.stop
        assert sum(lengths[window.start : window.stop]) <= budget
    for before, after in pairwise(windows):
        assert before.start <= after.start <= after.first_target == before.stop
        overlap = sum(lengths[after.start : after.first_target + 1])
        assert overlap <= budget // 2
        assert after.start == 0 or overlap + lengths[after.start - 1] > budget // 2, "an earlier line would still fit"


@relaxed
@given(scenes)
def test_a_window_depends_on_nothing_later(scene: tuple[list[int], int]) -> None:
    lengths, budget = scene

    def window_of(target: int, known: list[int]) -> tuple[int, int]:
        (found,) = (w for w in cut_windows(costs(known), budget) if w.first_target <= target < w.stop)
        return found.start, found.first_target

    for target in range(len(lengths)):
        assert window_of(target, lengths[: target + 1]) == window_of(target, lengths)
        assert window_of(target, [*lengths[: target + 1], budget // 2, 1, budget // 2]) == window_of(target, lengths)


@relaxed
@given(scenes)
def test_a_live_cutter_cuts_as_the_batch_does(scene: tuple[list[int], int]) -> None:
    lengths, budget = scene
    cutter, starts = WindowCutter(budget), []
    for length in lengths:
        opened = cutter.add(LineCost(length))
        assert not starts or opened == (starts[-1] != cutter.start) or cutter.start == starts[-1]
        starts.append(cutter.start)
    expected = [w.start for w in cut_windows(costs(lengths), budget) for _ in range(w.first_target, w.stop)]
    assert starts == expected


def test_a_limit_on_lines_keeps_half_of_them() -> None:
    expected = (Window(0, 4, 0), Window(3, 7, 4), Window(6, 9, 7))
    assert cut_windows(costs([1] * 9), 100, 4) == expected
    assert cut_windows(costs([1] * 4), 100, 4) == (Window(0, 4, 0),)


@relaxed
@given(scenes, st.integers(2, 12))
def test_windows_keep_to_both_limits(scene: tuple[list[int], int], most: int) -> None:
    lengths, budget = scene
    windows, cutter, starts = cut_windows(costs(lengths), budget, most), WindowCutter(budget, most), []
    assert [k for w in windows for k in range(w.first_target, w.stop)] == list(range(len(lengths)))
    for window in windows:
        assert window.stop - window.start <= most
        assert sum(lengths[window.start : window.stop]) <= budget
        seen = window.first_target + 1 - window.start
        earlier = sum(lengths[max(window.start - 1, 0) : window.first_target + 1])
        assert window.start == 0 or seen == most // 2 or earlier > budget // 2, "an earlier line would still fit"
    for length in lengths:
        cutter.add(LineCost(length))
        starts.append(cutter.start)
    assert starts == [w.start for w in windows for _ in range(w.first_target, w.stop)]


@relaxed
@given(st.lists(st.integers(1, 500), min_size=1, max_size=20), budgets)
def test_a_line_longer_than_the_budget_still_gets_a_window(lengths: list[int], budget: int) -> None:
    windows = cut_windows(costs(lengths), budget)
    assert [k for w in windows for k in range(w.first_target, w.stop)] == list(range(len(lengths)))
    for window in windows:
        assert sum(lengths[window.start : window.stop]) <= budget or window.stop == window.start + 1


@relaxed
@given(scenes, st.lists(st.sampled_from("ABC"), min_size=60, max_size=60), st.integers(1, 20))
def test_who_is_introduced_counts_once_in_a_window(scene: tuple[list[int], int], who: list[str], size: int) -> None:
    lengths, budget = scene
    given_costs = [LineCost(n, {name: size}) for n, name in zip(lengths, who, strict=False)]
    for window in cut_windows(given_costs, budget):
        lines = range(window.start, window.stop)
        taken = sum(lengths[k] for k in lines) + size * len({who[k] for k in lines})
        assert taken <= budget or len(lines) == 1
