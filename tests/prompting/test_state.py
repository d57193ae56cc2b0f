"""What training questions are told: labels corrupted by a confusion matrix, never the clean gold label."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erc_llm.corpus.dialogues import Dialogue, Utterance
from erc_llm.corpus.labels import EMORYNLP
from erc_llm.prompting.state import corrupted_state, smoothed

N = len(EMORYNLP)
NEXT = [[float(column == (row + 1) % N) for column in range(N)] for row in range(N)]  # every label becomes the next one
MIXED = [[1.0 + 2 * (row == column) for column in range(N)] for row in range(N)]  # every draw shows
LINES = tuple(Utterance(f"u{k}", ("Ada",), "Hm", EMORYNLP.names[k % N]) for k in range(12))
SCENE = Dialogue("d", LINES)


def told(scene: Dialogue = SCENE, seed: int = 1, epoch: int = 0, dropout: float = 0.0) -> list[str | None] | None:
    return corrupted_state(scene, EMORYNLP, NEXT, dropout, seed, epoch)


def test_it_is_never_the_clean_gold_label() -> None:
    state = told()
    assert state is not None
    for utterance, label in zip(LINES, state, strict=True):
        assert utterance.label is not None
        assert label == EMORYNLP.names[(EMORYNLP.index(utterance.label) + 1) % N]


def test_labels_are_drawn_by_the_row_of_their_gold_label() -> None:
    row = [4.0, 1.0, 3.0, 0.0, 0.0, 1.0, 1.0]
    drawn: Counter[str | None] = Counter()
    for seed in range(400):
        drawn.update(corrupted_state(SCENE, EMORYNLP, [row] * N, 0.0, seed, 0) or [])
    total = drawn.total()
    for name, share in zip(EMORYNLP.names, row, strict=True):
        assert drawn[name] / total == pytest.approx(share / 10, abs=0.03)


def test_each_gold_label_has_a_row_of_its_own() -> None:
    rows = [[float((3 * row + 5 * column) % N) for column in range(N)] for row in range(N)]
    drawn = [[0] * N for _ in range(N)]
    for seed in range(500):
        state = corrupted_state(SCENE, EMORYNLP, rows, 0.0, seed, 0) or []
        for k, label in enumerate(state):
            assert label is not None
            drawn[k % N][EMORYNLP.index(label)] += 1
    for row, counts in zip(rows, drawn, strict=True):
        assert [n / sum(counts) for n in counts] == pytest.approx([n / sum(row) for n in row], abs=0.08)
        assert all(n == 0 for n, share in zip(counts, row, strict=True) if share == 0)


def test_a_share_of_scenes_is_told_nothing() -> None:
    silent = sum(told(seed=seed, dropout=0.3) is None for seed in range(1000))
    assert silent / 1000 == pytest.approx(0.3, abs=0.05)
    assert told(dropout=1.0) is None


def test_it_follows_from_run_epoch_and_scene() -> None:
    mixed = [[1.0] * N] * N

    def drawn(scene: Dialogue, seed: int, epoch: int) -> list[str | None] | None:
        return corrupted_state(scene, EMORYNLP, mixed, 0.0, seed, epoch)

    assert drawn(SCENE, 1, 0) == drawn(SCENE, 1, 0)
    others = [drawn(SCENE, 2, 0), drawn(SCENE, 1, 1), drawn(replace(SCENE, id="e"), 1, 0)]
    assert all(other != drawn(SCENE, 1, 0) for other in others)


def test_another_gold_label_changes_only_its_own_line() -> None:
    lines = [replace(u, label="Sad") if k == 3 else u for k, u in enumerate(LINES)]
    lines[7] = replace(lines[7], label=None)
    before, after = told(), told(replace(SCENE, utterances=tuple(lines)))
    assert before is not None
    assert after is not None
    assert [k for k in range(12) if before[k] != after[k]] == [3, 7]


@given(k=st.integers(0, 11), label=st.sampled_from(EMORYNLP.names), seed=st.integers(0, 99))
def test_what_other_lines_are_told_does_not_depend_on_a_gold_label(k: int, label: str, seed: int) -> None:
    lines = tuple(replace(u, label=label) if i == k else u for i, u in enumerate(LINES))
    before = corrupted_state(SCENE, EMORYNLP, MIXED, 0.0, seed, 0)
    after = corrupted_state(replace(SCENE, utterances=lines), EMORYNLP, MIXED, 0.0, seed, 0)
    assert before is not None
    assert after is not None
    assert (before[:k], before[k + 1 :]) == (after[:k], after[k + 1 :])


@pytest.mark.parametrize("change", [{"label": None}, {"target": False}], ids=["no label", "no target"])
def test_nor_on_whether_there_is_one(change: dict[str, Any]) -> None:
    k = 3
    lines = tuple(replace(u, **change) if i == k else u for i, u in enumerate(LINES))
    for seed in range(20):
        before = corrupted_state(SCENE, EMORYNLP, MIXED, 0.0, seed, 0) or []
        after = corrupted_state(replace(SCENE, utterances=lines), EMORYNLP, MIXED, 0.0, seed, 0) or []
        assert (before[:k], before[k + 1 :]) == (after[:k], after[k + 1 :])


def test_nor_on_whether_the_scene_could_have_been_told_nothing() -> None:
    for seed in range(20):
        some = corrupted_state(SCENE, EMORYNLP, MIXED, 0.5, seed, 0)
        assert some in (None, corrupted_state(SCENE, EMORYNLP, MIXED, 0.0, seed, 0))


def test_lines_without_a_label_and_context_only_lines_are_told_nothing() -> None:
    lines = (replace(LINES[0], label=None), replace(LINES[1], target=False), LINES[2])
    state = told(replace(SCENE, utterances=lines))
    assert state is not None
    assert state[:2] == [None, None]
    assert state[2] is not None


def test_a_label_that_the_split_lacks_is_confused_as_any_other() -> None:
    counts = [[8, 2], [0, 0]]
    assert smoothed(counts) == [[8.8, 2.2], [0.8, 0.2]]
    assert smoothed([[0, 0], [0, 0]]) == [[0.5, 0.5], [0.5, 0.5]]
    for told_never in (smoothed([[0, 3, 0], [0, 0, 0], [1, 0, 0]]), smoothed([[5, 0, 0]] * 3)):
        assert all(sum(row) > 0 for row in told_never), "every label can be drawn for"
        assert all(row[2] == 0 for row in told_never), "what is never predicted is never told"
