"""Approximate search: recall beside exact search, the own episode left out, the way back to exact search, refusals."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.neighbour_search import clustered, index_of
from erc_llm.corpus import EMORYNLP
from erc_llm.errors import ConfigError, ModelError
from erc_llm.models.hashes import file_sha256
from erc_llm.retrieval.approximate import find_cells
from erc_llm.retrieval.index import Index, build_index
from erc_llm.retrieval.store import packed, read_index
from tests.retrieval.test_index import TRAIN

LINES, QUERIES, K = 3000, 200, 8


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return clustered(LINES + QUERIES, 5)


@pytest.fixture(scope="module")
def exact(vectors: np.ndarray) -> Index:
    return index_of(vectors[:LINES])


@pytest.fixture(scope="module")
def near(exact: Index) -> Index:
    return replace(exact, cells=find_cells(exact.vectors))


def test_it_finds_nearly_all_and_the_same_similarities(exact: Index, near: Index, vectors: np.ndarray) -> None:
    queries, episodes = vectors[LINES:], ["another"] * QUERIES
    expected, found = (index.nearest(queries, episodes, K) for index in (exact, near))
    same = [len(set(ours) & set(theirs)) / K for ours, theirs in zip(found.rows, expected.rows, strict=True)]
    assert np.mean(same) > 0.95
    known = np.array(same) == 1
    assert known.mean() > 0.8
    np.testing.assert_array_equal(np.sort(found.rows[known]), np.sort(expected.rows[known]))
    np.testing.assert_allclose(found.similarities[known], expected.similarities[known], atol=2e-5)


def test_no_line_of_the_own_episode_is_found(near: Index) -> None:
    """The queries are lines of the index, whose most similar line is the line itself."""
    rows = np.arange(0, LINES, 7)
    nearest = near.nearest(near.vectors[rows], [near.episodes[i] for i in near.episode[rows]], K)
    assert np.isfinite(nearest.similarities).all()
    assert not (near.episode[nearest.rows] == near.episode[rows][:, None]).any()


def test_where_the_cells_hold_too_few_lines_search_is_exact(exact: Index, near: Index, vectors: np.ndarray) -> None:
    queries, episodes, k = vectors[LINES:][:20], ["another"] * 20, LINES - 1
    expected, found = (index.nearest(queries, episodes, k) for index in (exact, near))
    np.testing.assert_array_equal(found.rows, expected.rows)


def test_all_lines_but_a_few_in_the_own_episode(vectors: np.ndarray) -> None:
    exact = replace(index_of(vectors[:LINES]), episode=(np.arange(LINES) % 500 == 3).astype(np.int64))
    near = replace(exact, cells=find_cells(exact.vectors))
    expected, found = (index.nearest(vectors[LINES:], [exact.episodes[0]] * QUERIES, K) for index in (exact, near))
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(np.isfinite(found.similarities).sum(axis=1), 6)


def test_a_stored_index_is_searched_in_the_same_cells(near: Index, vectors: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "neighbours.index"
    path.write_bytes(packed(near))
    again = read_index(path, file_sha256(path), "")
    found, expected = (index.nearest(vectors[LINES:], ["another"] * QUERIES, K) for index in (again, near))
    np.testing.assert_array_equal(found.rows, expected.rows)
    assert packed(again) == packed(near)


def test_the_cells_are_always_the_same(near: Index) -> None:
    again = find_cells(near.vectors)
    assert near.cells is not None
    np.testing.assert_array_equal(again.cell, near.cells.cell)


def test_an_encoder_of_a_few_lines(tmp_path: Path) -> None:
    index = build_index(TRAIN, EMORYNLP, "all-minilm-l6-v2", "", "approximate")
    exact = build_index(TRAIN, EMORYNLP, "all-minilm-l6-v2", "")
    queries = index.embed(["What a joyful day"])
    np.testing.assert_array_equal(index.nearest(queries, ["x"], 4).rows, exact.nearest(queries, ["x"], 4).rows)


def test_word_vectors_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"`words` are sparse; use exact search, or an encoder"):
        build_index(TRAIN, EMORYNLP, "words", "", "approximate")


def test_without_the_library_the_install_line_is_named(near: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ModelError, match=r"needs faiss, which is not installed: pip install 'erc-llm\[neighbours\]'"):
        build_index(TRAIN, EMORYNLP, "all-minilm-l6-v2", "", "approximate")
    with pytest.raises(ModelError, match="not installed"):
        replace(near).nearest(near.vectors[:1], ["x"], K)
