"""What training questions are told: labels corrupted by a confusion matrix, never the clean gold label."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from erc_llm.corpus.dialogues import Dialogue, Utterance
from erc_llm.corpus.labels import EMORYNLP
from erc_llm.prompting.state import corrupted_state, smoothed

N = len(EMORYNLP)
NEXT = [[float(column == (row + 1) % N) for column in range(N)] for row in range(N)]  # every label becomes the next one
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
