"""The folds of a cross-fitting: whole episodes of train, alike in size and labels, and the corpus without one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erc_llm.corpus import EMORYNLP, Corpus, Dialogue, Utterance, read_sample
from erc_llm.corpus.dialogues import LEFT_OUT
from erc_llm.corpus.splits import episode_of, fold_episodes, leave_out, selection_split
from erc_llm.errors import CorpusError

Labels = tuple[str | None, ...]


def scene(episode: int | None, number: int, labels: Sequence[str | None]) -> Dialogue:
    lines = tuple(Utterance(f"u{k}", ("Ada",), "Mind the step.", label) for k, label in enumerate(labels))
    return Dialogue(f"e{episode or 0}_c{number}", lines, None if episode is None else 1, episode, number)


def corpus_of(*episodes: Sequence[Labels]) -> Corpus:
    """Episodes as the labels of their scenes, and an unlabelled dev split."""
    train = tuple(scene(e, s, labels) for e, scenes in enumerate(episodes, 1) for s, labels in enumerate(scenes, 1))
    return Corpus("small", "own", EMORYNLP, {"train": train, "dev": (scene(99, 1, [None]),)})


def targets_of(corpus: Corpus, folds: Sequence[frozenset[str]]) -> list[Counter[str | None]]:
    """Number of targets of each label in each fold."""
    counts: list[Counter[str | None]] = [Counter() for _ in folds]
    for dialogue in corpus.split("train"):
        (fold,) = (i for i, part in enumerate(folds) if episode_of(dialogue) in part)
        counts[fold].update(dialogue.utterances[k].label for k in dialogue.targets)
    return counts


corpora = st.builds(
    lambda episodes: corpus_of(*episodes),
    st.lists(
        st.lists(
            st.lists(st.sampled_from([*EMORYNLP.names, None]), max_size=8).map(tuple),
            min_size=1,
            max_size=3,
        ),
        min_size=5,
        max_size=25,
    ),
)


@settings(deadline=None)
@given(corpus=corpora, folds=st.integers(2, 5), seed=st.integers(0, 99))
def test_folds_are_a_partition_of_the_episodes(corpus: Corpus, folds: int, seed: int) -> None:
    parts = fold_episodes(corpus, folds, seed)
    assert len(parts) == folds
    assert sorted(name for part in parts for name in part) == sorted({episode_of(d) for d in corpus.split("train")})
    assert fold_episodes(corpus, folds, seed) == parts


@settings(deadline=None)
@given(corpus=corpora, folds=st.integers(2, 5), seed=st.integers(0, 99))
def test_no_fold_is_empty(corpus: Corpus, folds: int, seed: int) -> None:
    assert all(fold_episodes(corpus, folds, seed))


def test_episodes_without_targets_are_spread_over_the_folds() -> None:
    """Their scenes are context only; a fold of nothing would leave nothing out."""
    corpus = corpus_of([("Sad",)], [()], [()])
    assert [len(part) for part in fold_episodes(corpus, 3)] == [1, 1, 1]


def test_episodes_of_other_labels_go_to_folds_of_their_own() -> None:
    """No fold stays empty where episodes have no label in common."""
    episodes: list[Sequence[Labels]] = [[(name, name)] for name in EMORYNLP.names[:4]]
    assert [len(part) for part in fold_episodes(corpus_of(*episodes), 4)] == [1, 1, 1, 1]
    assert sorted(len(part) for part in fold_episodes(corpus_of(*episodes), 2)) == [2, 2]


@settings(max_examples=300, deadline=None)
@given(corpus=corpora, folds=st.integers(2, 5), seed=st.integers(0, 99))
def test_sizes_differ_from_the_mean_by_few_episodes(corpus: Corpus, folds: int, seed: int) -> None:
    """Labels count before sizes; by sizes alone, the largest episode would be the limit."""
    sizes = [count.total() for count in targets_of(corpus, fold_episodes(corpus, folds, seed))]
    episodes = Counter[str]()
    for dialogue in corpus.split("train"):
        episodes[episode_of(dialogue)] += len(dialogue.targets)
    assert max(abs(size - sum(sizes) / folds) for size in sizes) <= 2 * max(episodes.values())


@settings(max_examples=50, deadline=None)
@given(data=st.data(), folds=st.integers(2, 5), seed=st.integers(0, 99))
def test_episodes_of_alike_labels_are_divided_evenly(data: st.DataObject, folds: int, seed: int) -> None:
    """With one label everywhere, sizes alone count: the largest and the smallest fold differ by at most an episode."""
    lengths = data.draw(st.lists(st.integers(1, 30), min_size=folds, max_size=20))
    corpus = corpus_of(*([("Sad",) * length] for length in lengths))
    sizes = [count.total() for count in targets_of(corpus, fold_episodes(corpus, folds, seed))]
    assert max(sizes) - min(sizes) <= max(lengths)


@pytest.mark.parametrize("folds", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_the_sample_is_divided_evenly_in_size_and_labels(folds: int, seed: int) -> None:
    corpus = read_sample()
    counts = targets_of(corpus, fold_episodes(corpus, folds, seed))
    by_episode: dict[str, Counter[str | None]] = {}
    for dialogue in corpus.split("train"):
        labels = (dialogue.utterances[k].label for k in dialogue.targets)
        by_episode.setdefault(episode_of(dialogue), Counter()).update(labels)
    largest = max(count.total() for count in by_episode.values())
    assert max(c.total() for c in counts) - min(c.total() for c in counts) <= largest
    for label in corpus.labels.names:
        found = [count[label] for count in counts]
        assert max(found) - min(found) <= 2 * max(count[label] for count in by_episode.values()), label


def test_labels_are_balanced_better_than_by_chance() -> None:
    """Forty episodes of equal size, each with a favourite label; compared with episodes dealt out at random."""
    draw = np.random.default_rng(5)
    names = EMORYNLP.names
    episodes = []
    for _ in range(40):
        favourite = draw.integers(7)
        episodes.append([tuple(names[favourite if draw.random() < 0.6 else draw.integers(7)] for _ in range(20))])
    corpus = corpus_of(*episodes)

    def spread(folds: Sequence[frozenset[str]]) -> float:
        counts = targets_of(corpus, folds)
        return sum(float(np.std([count[name] for count in counts])) for name in names)

    balanced = [spread(fold_episodes(corpus, 5, seed)) for seed in range(5)]
    ids = sorted({episode_of(d) for d in corpus.split("train")})
    dealt = []
    for _ in range(20):
        order = [ids[i] for i in draw.permutation(len(ids))]
        dealt.append(spread([frozenset(order[i::5]) for i in range(5)]))
    assert max(balanced) < min(dealt)
    assert np.mean(balanced) < 0.5 * np.mean(dealt)


def test_another_seed_gives_other_folds() -> None:
    corpus = corpus_of(*([("Sad", "Mad")] for _ in range(12)))
    found = [{frozenset(part) for part in fold_episodes(corpus, 3, seed)} for seed in (1, 1, 2, 3)]
    assert found[0] == found[1]
    assert found[0] != found[2] != found[3]


def test_the_order_of_the_scenes_and_further_splits_do_not_matter() -> None:
    corpus = read_sample()
    shuffled = tuple(reversed(corpus.split("train")))
    other = replace(corpus, splits={"train": shuffled})
    assert fold_episodes(other, 3) == fold_episodes(corpus, 3)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_fold_is_left_out_of_train_with_its_whole_episodes(number: int) -> None:
    corpus = read_sample()
    cut = leave_out(corpus, number, 3, seed=7)
    train, left_out = cut.split("train"), cut.split(LEFT_OUT)
    assert {episode_of(d) for d in left_out} == fold_episodes(corpus, 3, 7)[number - 1]
    assert not {episode_of(d) for d in left_out} & {episode_of(d) for d in train}
    assert sorted(d.id for d in (*train, *left_out)) == sorted(d.id for d in corpus.split("train"))
    assert [d for d in corpus.split("train") if d in train] == list(train), "train keeps its order"
    assert [d for d in corpus.split("train") if d in left_out] == list(left_out)
    assert {k: v for k, v in cut.splits.items() if k not in ("train", LEFT_OUT)} == {
        k: v for k, v in corpus.splits.items() if k != "train"
    }


def test_a_corpus_without_a_fold_keeps_its_hashes_and_the_order_of_time() -> None:
    corpus = read_sample()
    cut = leave_out(corpus, 1, 3)
    assert (cut.sha256, cut.train_sha256) == (corpus.sha256, corpus.train_sha256)
    assert [d.id for d in cut.dialogues()] == [d.id for d in corpus.dialogues()]
    again = selection_split(cut, 0.3)
    assert (again.sha256, again.train_sha256) == (corpus.sha256, corpus.train_sha256)
    assert [d.id for d in again.dialogues()] == [d.id for d in corpus.dialogues()]


def test_a_fold_is_left_out_once() -> None:
    corpus = read_sample()
    cut = leave_out(corpus, 2, 3)
    assert leave_out(cut, 2, 3) == cut
    selected = selection_split(cut, 0.3)
    assert leave_out(selected, 2, 3) == selected, "a selection split that was cut afterwards stays"


def test_the_selection_split_is_drawn_from_what_a_fold_keeps() -> None:
    corpus = read_sample()
    for number in (1, 2, 3):
        cut = selection_split(leave_out(corpus, number, 3), 0.3)
        parts = [{episode_of(d) for d in cut.split(name)} for name in ("train", "selection", LEFT_OUT)]
        assert all(parts)
        assert len(set.union(*parts)) == sum(map(len, parts)), "no episode is in two of them"


def test_without_episodes_every_dialogue_is_its_own() -> None:
    scenes = tuple(scene(None, number, ["Sad", "Mad"]) for number in range(8))
    order = tuple(d.id for d in scenes)
    corpus = Corpus("small", "own", EMORYNLP, {"train": scenes[2:], "dev": scenes[:2]}, order=order)
    parts = fold_episodes(corpus, 3)
    assert sorted(len(part) for part in parts) == [2, 2, 2]
    assert {name for part in parts for name in part} == {d.id for d in scenes[2:]}
    for number, part in enumerate(parts, 1):
        cut = leave_out(corpus, number, 3)
        assert {d.id for d in cut.split(LEFT_OUT)} == part
        assert [d.id for d in cut.dialogues()] == list(order), "everyone keeps the place in time"


def test_unlabelled_targets_count_for_the_size() -> None:
    corpus = corpus_of(*([(None,) * 4] for _ in range(6)))
    assert [count.total() for count in targets_of(corpus, fold_episodes(corpus, 3))] == [8, 8, 8]


def test_more_folds_than_episodes_are_refused() -> None:
    corpus = corpus_of(*([("Sad",)] for _ in range(3)))
    assert [len(part) for part in fold_episodes(corpus, 3)] == [1, 1, 1]
    for cut in (fold_episodes, lambda corpus, folds: leave_out(corpus, 1, folds)):
        with pytest.raises(CorpusError, match=r"'small': cannot make 4 folds of whole episodes, train has 3; .* fewer"):
            cut(corpus, 4)


def test_a_corpus_without_train_is_refused() -> None:
    corpus = Corpus("small", "own", EMORYNLP, {"dev": (scene(1, 1, ["Sad"]),)})
    with pytest.raises(CorpusError, match="no split 'train'"):
        fold_episodes(corpus, 2)
