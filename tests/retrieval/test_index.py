"""The index over train: nearest lines against a plain computation, leaks, odd queries, and storage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from erc_llm.corpus import EMORYNLP, Dialogue, Utterance
from erc_llm.errors import CorpusError, ModelError, RunError
from erc_llm.models.hashes import file_sha256
from erc_llm.retrieval.index import Index, Neighbours, build_index
from erc_llm.retrieval.store import packed, read_index

LINES = (
    ("I am so happy today!", "Joyful"),
    ("I am happy for you.", "Joyful"),
    ("Get out of my house!", "Mad"),
    ("Get out!", "Mad"),
    ("The train leaves at noon.", "Neutral"),
    ("It leaves at noon.", "Neutral"),
)


def scene(number: int, lines: tuple[tuple[str, str | None], ...], episode: int) -> Dialogue:
    utterances = (Utterance(f"u{k}", ("Ada",), text, label) for k, (text, label) in enumerate(lines))
    return Dialogue(f"d{number}", tuple(utterances), 1, episode, number)


TRAIN = (scene(1, LINES[:2], 1), scene(2, LINES[2:4], 2), scene(3, LINES[4:], 3))


@pytest.fixture(scope="module")
def index() -> Index:
    return build_index(TRAIN, EMORYNLP, "words", "ab" * 32)


def asked(text: str, episode: int = 9) -> Dialogue:
    return scene(7, ((text, None),), episode)


def test_the_nearest_lines_are_those_of_a_plain_computation(index: Index) -> None:
    dialogues = [asked("So happy!"), asked("Get out of the train.", 2)]
    nearest = index.of_targets(dialogues, 4)
    vectors = index.vectors.toarray()
    queries = index.embed([d.utterances[0].text for d in dialogues]).toarray()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    for row, (query, episode) in enumerate(zip(queries, ("s01_e09", "s01_e02"), strict=True)):
        similar = [
            -np.inf if index.episodes[index.episode[i]] == episode else float(query @ v) for i, v in enumerate(vectors)
        ]
        expected = sorted(range(len(vectors)), key=lambda i: (-similar[i], i))[:4]
        assert nearest.rows[row].tolist() == expected
        np.testing.assert_allclose(nearest.similarities[row], [similar[i] for i in expected], atol=1e-5)


def test_the_distribution_is_that_of_the_paper(index: Index) -> None:
    found = Neighbours(index, k=3, temperature=0.2).of([asked("So happy!")])[0]
    nearest = index.of_targets([asked("So happy!")], 3)
    weights = np.exp(nearest.similarities[0].astype(float) / 0.2)
    expected = np.zeros(7)
    for row, weight in zip(nearest.rows[0], weights, strict=True):
        expected[index.label[row]] += weight
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-6)
    assert EMORYNLP.names[int(found.argmax())] == "Joyful"


def test_a_line_of_its_own_episode_is_never_a_neighbour(index: Index) -> None:
    """The very line is in the index, under another label than the only one that is left."""
    query = asked("Get out!", 2)
    nearest = index.of_targets([query], len(index))
    own = {i for i, episode in enumerate(index.episode) if index.episodes[episode] == "s01_e02"}
    known = nearest.rows[0][np.isfinite(nearest.similarities[0])].tolist()
    assert own
    assert not own & set(known)
    assert Neighbours(index, 6, 0.1).of([query])[0][EMORYNLP.index("Mad")] == 0


def test_gold_labels_of_the_own_episode_change_nothing() -> None:
    changed = replace(TRAIN[1], utterances=tuple(replace(u, label="Sad") for u in TRAIN[1].utterances))
    before, after = (
        Neighbours(build_index(train, EMORYNLP, "words", ""), 4, 0.1).of([TRAIN[1]])
        for train in (TRAIN, (TRAIN[0], changed, TRAIN[2]))
    )
    np.testing.assert_array_equal(before, after)


def test_without_episodes_a_dialogue_is_its_own() -> None:
    plain = tuple(replace(d, season=None, episode=None, scene=None) for d in TRAIN)
    found = Neighbours(build_index(plain, EMORYNLP, "words", ""), 6, 0.1).of([plain[1]])
    assert (found[:, EMORYNLP.index("Mad")] == 0).all()


@pytest.mark.parametrize("text", ["...", "\u2014", "zyzzyva qwertz"])
def test_a_query_that_resembles_nothing_gets_the_label_distribution(index: Index, text: str) -> None:
    found = Neighbours(index, 2, 0.05).of([asked(text)])[0]
    np.testing.assert_allclose(found, (np.bincount(index.label, minlength=7) + 1) / (len(index) + 7))


def test_lines_that_share_no_word_do_not_count(index: Index) -> None:
    """Among many neighbours of a short line most are arbitrary; they have no weight."""
    found = Neighbours(index, 6, 5.0).of([asked("Today")])[0]
    assert found[EMORYNLP.index("Joyful")] == 1


def test_equal_lines_are_neighbours_in_the_order_of_the_index() -> None:
    """EmoryNLP has nearly a hundred lines that read What?; fewer neighbours are the first of more."""
    train = [scene(i, (("What?", EMORYNLP.names[i % 7]), ("No way.", "Mad")), i) for i in range(1, 41)]
    repeated = build_index(train, EMORYNLP, "words", "")
    nearest = repeated.of_targets([asked("What?", 99)], 64)
    assert nearest.rows[0, :40].tolist() == list(range(0, 80, 2))
    for k in (1, 8, 16, 39):
        fewer = repeated.of_targets([asked("What?", 99)], k)
        assert fewer.rows.tolist() == nearest.rows[:, :k].tolist()


def test_an_index_of_one_episode_knows_nothing_of_it() -> None:
    alone = build_index(TRAIN[:1], EMORYNLP, "words", "")
    np.testing.assert_allclose(Neighbours(alone, 4, 0.1).of(TRAIN[:1]), 1 / 7)


def test_more_neighbours_than_lines_are_all_lines(index: Index) -> None:
    many, all_of_them = (Neighbours(index, k, 0.1).of([asked("Get out!")]) for k in (1000, len(index)))
    np.testing.assert_array_equal(many, all_of_them)


def test_no_dialogues_and_no_labels(index: Index) -> None:
    assert Neighbours(index, 4, 0.1).of([]).shape == (0, 7)
    with pytest.raises(CorpusError, match="no labelled line"):
        build_index([asked("Hello.")], EMORYNLP, "words", "")


def test_one_line_is_as_in_a_batch(index: Index) -> None:
    neighbours = Neighbours(index, 3, 0.1)
    batch = neighbours.of([asked("So happy!"), asked("Get out of here!")])
    np.testing.assert_array_equal(neighbours.of_line("Get out of here!", "s01_e09"), batch[1])


def stored(index: Index, folder: Path) -> Path:
    path = folder / "neighbours.index"
    path.write_bytes(packed(index))
    return path


def test_a_stored_index_answers_the_same(index: Index, tmp_path: Path) -> None:
    path = stored(index, tmp_path)
    again = read_index(path, file_sha256(path), "make it again")
    assert (again.labels, again.episodes, again.train_sha256) == (index.labels, index.episodes, index.train_sha256)
    query = [asked("So happy!"), asked("Get out!", 2)]
    np.testing.assert_array_equal(Neighbours(again, 4, 0.1).of(query), Neighbours(index, 4, 0.1).of(query))


def test_a_stored_index_holds_no_text(index: Index) -> None:
    content = packed(index).lower()
    assert not any(word in content for word in (b"happy", b"house", b"noon"))


def test_another_or_no_file_is_refused(index: Index, tmp_path: Path) -> None:
    path = stored(index, tmp_path)
    with pytest.raises(RunError, match=r"has hash .*fitted with 0000.*; make it again"):
        read_index(path, "0" * 64, "make it again")
    with pytest.raises(RunError, match=r"is missing; make it again"):
        read_index(tmp_path / "nowhere.index", "0" * 64, "make it again")


def test_an_encoder_gives_neighbours_too_and_another_one_is_refused(tmp_path: Path) -> None:
    index = build_index(TRAIN, EMORYNLP, "all-minilm-l6-v2", "")
    query = [asked("What a joyful day, I feel great")]
    found = Neighbours(index, 2, 0.05).of(query)[0]
    assert EMORYNLP.names[int(found.argmax())] == "Joyful"
    path = stored(index, tmp_path)
    again = read_index(path, file_sha256(path), "")
    np.testing.assert_allclose(Neighbours(again, 2, 0.05).of(query)[0], found, atol=1e-6)
    with pytest.raises(ModelError, match=r"encoder of hash 0000.*'all-minilm-l6-v2' here has"):
        replace(again, encoder_sha256="0" * 64, loaded=None).embed(["hello"])
