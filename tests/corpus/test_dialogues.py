from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erc_llm.corpus import EMORYNLP, Corpus, Dialogue, Utterance, labelled_scenes, selection_split
from erc_llm.errors import CorpusError


def scene(episode: int | None, number: int, text: str = "Mind the step.") -> Dialogue:
    name = f"s01_e{episode or 0:02d}_c{number:02d}"
    lines = (Utterance("u1", ("Ada",), text, "Sad"), Utterance("u2", ("Bo",), "", target=False))
    return Dialogue(name, lines, None if episode is None else 1, episode, number)


def corpus(episodes: int = 10, scenes: int = 4) -> Corpus:
    train = tuple(scene(e, s) for e in range(1, episodes + 1) for s in range(1, scenes + 1))
    return Corpus("small", "own", EMORYNLP, {"train": train, "dev": (scene(99, 1),)})


def test_a_dialogue_tells_its_place_in_time_and_its_targets() -> None:
    dialogue = scene(3, 2)
    assert dialogue.episode_id == "s01_e03"
    assert dialogue.time == (1, 3, 2)
    assert dialogue.targets == (0,)
    assert scene(None, 1).episode_id is None
    assert scene(None, 1).time is None


def test_records_are_frozen() -> None:
    whole = corpus()
    with pytest.raises(FrozenInstanceError):
        whole.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        whole.splits["train"] = ()  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        whole.split("dev")[0].utterances[0].label = "Mad"  # type: ignore[misc]


def test_an_unknown_split_names_those_there_are() -> None:
    with pytest.raises(CorpusError, match="no split 'test' in corpus 'small'; it has: train, dev"):
        corpus().split("test")


def test_the_hash_follows_the_content_and_nothing_else() -> None:
    whole = corpus()
    assert replace(whole, name="x", version="compm", warnings=("odd",), files=(("a", "b"),)).sha256 == whole.sha256
    changed = {"train": (scene(1, 1, "Mind the gap."), *whole.split("train")[1:]), "dev": whole.split("dev")}
    assert replace(whole, splits=changed).sha256 != whole.sha256
    assert replace(whole, splits={"train": whole.split("dev"), "dev": whole.split("train")}).sha256 != whole.sha256


@given(st.integers(2, 15), st.integers(1, 5), st.floats(0.01, 0.9), st.integers(0, 1000))
def test_selection_takes_whole_episodes_and_leaves_some(episodes: int, scenes: int, fraction: float, seed: int) -> None:
    whole = corpus(episodes, scenes)
    cut = selection_split(whole, fraction, seed)
    kept, held_out = cut.split("train"), cut.split("selection")
    assert kept
    assert held_out
    assert not {d.episode_id for d in kept} & {d.episode_id for d in held_out}
    assert sorted(d.id for d in kept + held_out) == sorted(d.id for d in whole.split("train"))
    assert cut.split("dev") == whole.split("dev")
    assert [d.time for d in held_out] == sorted(d.time or () for d in held_out)


def test_selection_is_about_the_fraction_asked_for() -> None:
    cut = selection_split(corpus(episodes=20, scenes=5), fraction=0.1)
    assert len(cut.split("selection")) == 10


def test_selection_depends_on_the_seed_alone() -> None:
    drawn = [selection_split(corpus(), seed=seed).split("selection") for seed in (13, 13, 14)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_without_episodes_every_dialogue_is_drawn_for_itself() -> None:
    train = tuple(replace(scene(None, n), id=f"train_{n:04d}") for n in range(10))
    cut = selection_split(Corpus("c", "compm", EMORYNLP, {"train": train}), fraction=0.3)
    assert len(cut.split("selection")) == 3


def test_selection_needs_two_episodes() -> None:
    with pytest.raises(CorpusError, match="train has 1 episode; give it two, or leave `episode`"):
        selection_split(corpus(episodes=1))
    with pytest.raises(CorpusError, match="no split 'train'"):
        selection_split(replace(corpus(), splits={"dev": (scene(1, 1),)}))


def test_a_few_training_scenes_are_drawn_by_seed_and_kept_in_order() -> None:
    drawn = [tuple(d.id for d in labelled_scenes(corpus(), 4, seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    order = [d.id for d in corpus().split("train")]
    assert sorted(drawn[0], key=order.index) == list(drawn[0])
    assert len(labelled_scenes(corpus(), None, 1)) == len(labelled_scenes(corpus(), 99, 1)) == len(order)


def test_training_scenes_have_labelled_targets() -> None:
    """A scene without a label is left out, and so is one whose only label is not asked about."""
    unlabelled = replace(scene(1, 1), utterances=(Utterance("u1", ("Ada",), "Mind the step."),))
    no_target = replace(scene(1, 2), utterances=(Utterance("u1", ("Ada",), "Mind it.", "Sad", target=False),))
    whole = replace(corpus(), splits={"train": (unlabelled, no_target, scene(1, 3))})
    assert labelled_scenes(whole, None, 1) == (scene(1, 3),)
    with pytest.raises(CorpusError, match="no labelled utterance in train"):
        labelled_scenes(replace(whole, splits={"train": (unlabelled, no_target)}), None, 1)
