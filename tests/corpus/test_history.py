from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erc_llm.corpus import Corpus, Dialogue, Utterance, read_corpus, selection_split
from erc_llm.corpus.history import History, fading, first_lines, speakers_of
from tests.prompting.random_corpora import (
    PEOPLE,
    ROLES,
    changed,
    corpora,
    corpus_of,
    moments,
    relabelled,
    rewritten_after,
    rewritten_future,
    same_episode,
    scene_of,
    split_of,
)

relaxed = settings(max_examples=25, deadline=None)

# What may be known of one past scene: its id, the person's lines, how many own scenes ago, the labels.
Seen = tuple[str, tuple[int, ...], int, tuple[str | None, ...]]


def seen(history: History, dialogue: Dialogue, person: str) -> list[Seen]:
    return [(p.dialogue.id, p.positions, p.distance, p.labels) for p in history.before(dialogue, person)]


def rescanned(corpus: Corpus, now: Dialogue, name: str) -> list[Seen]:
    """What the issue says of the past of a speaker of a scene, found by reading the whole corpus again."""
    place, split = moments(corpus), split_of(corpus)
    found: list[Seen] = []
    for past in sorted(corpus.dialogues(), key=lambda d: place[d.id], reverse=True):
        if place[past.id] >= place[now.id] or (name in ROLES and not same_episode(past, now)):
            continue
        present = any(name in u.speakers for u in past.utterances)
        spoke = [k for k, u in enumerate(past.utterances) if u.text.strip() and {name, "#ALL#"} & {*u.speakers}]
        if not present or not spoke:
            continue
        visible = split[past.id] == "train" and not same_episode(past, now)
        labels = tuple(past.utterances[k].label if visible else None for k in spoke)
        found.append((past.id, tuple(spoke), len(found) + 1, labels))
    return found


def everything(history: History, dialogue: Dialogue, names: tuple[str, ...] = PEOPLE) -> list[Any]:
    """All that a history tells before a scene."""
    persons = [history.person(name, dialogue) for name in names]
    told = [(seen(history, dialogue, person), history.count(dialogue, person)) for person in persons]
    return [history.label_counts(dialogue), *told]


# Against a plain rescan


@relaxed
@given(corpora())
def test_the_past_is_what_reading_everything_again_finds(corpus: Corpus) -> None:
    history, place = History(corpus), moments(corpus)
    for dialogue in corpus.dialogues():
        for name in PEOPLE:
            expected = rescanned(corpus, dialogue, name)
            person = history.person(name, dialogue)
            found = seen(history, dialogue, person)
            assert history.count(dialogue, person) == len(expected)
            # Scenes of one time have no order among each other, so the rest is compared without it.
            assert [place[id_] for id_, *_ in found] == [place[id_] for id_, *_ in expected]
            assert [distance for *_, distance, _ in found] == list(range(1, len(expected) + 1))
            assert {(id_, at, labels) for id_, at, _, labels in found} == {(i, at, ls) for i, at, _, ls in expected}


@relaxed
@given(corpora())
def test_labels_of_everybody_are_those_of_train_in_earlier_episodes(corpus: Corpus) -> None:
    history, place = History(corpus), moments(corpus)
    for now in corpus.dialogues():
        earlier = [d for d in corpus.split("train") if place[d.id] < place[now.id] and not same_episode(d, now)]
        counts = Counter(u.label for d in earlier for u in d.utterances)
        assert history.label_counts(now) == tuple(counts[name] for name in corpus.labels.names)


@relaxed
@given(corpora(), st.integers(1, 4))
def test_at_most_so_many_scenes_are_the_latest_of_all(corpus: Corpus, most: int) -> None:
    history = History(corpus)
    for dialogue in corpus.dialogues():
        for name in PEOPLE:
            person = history.person(name, dialogue)
            assert history.before(dialogue, person, most) == history.before(dialogue, person)[:most]


@relaxed
@given(st.one_of(corpora(), corpora("some")), st.integers(1, 4))
def test_similar_people_are_those_that_looking_at_everybody_finds(corpus: Corpus, most: int) -> None:
    history = History(corpus)
    elsewhere = Dialogue("elsewhere", (Utterance("u0", ("Ben Ode",), "Hello."),), 1, 2, 2)
    for now in (*corpus.dialogues(), elsewhere):
        for name in PEOPLE:
            person = history.person(name, now)
            counts = {p: history.count(now, p) for p in history.persons() if p != person}
            nearest = sorted((abs(n - history.count(now, person)), p) for p, n in counts.items() if n)[:most]
            assert history.similar(now, person, most) == tuple(p for _, p in nearest)


# Leaks


@relaxed
@given(st.one_of(corpora(), corpora("some")))
def test_sources_are_strictly_earlier_and_labels_of_train_and_of_other_episodes(corpus: Corpus) -> None:
    history, place, split = History(corpus), moments(corpus), split_of(corpus)
    for dialogue in corpus.dialogues():
        for name in PEOPLE:
            for past in history.before(dialogue, history.person(name, dialogue)):
                assert place[past.dialogue.id] < place[dialogue.id]
                if any(label is not None for label in past.labels):
                    assert split[past.dialogue.id] == "train"
                    assert not same_episode(past.dialogue, dialogue)


@relaxed
@given(st.one_of(corpora(), corpora("some")))
def test_labels_of_dev_and_selection_are_never_seen(corpus: Corpus) -> None:
    other = changed(corpus, lambda split, d: d if split == "train" else relabelled(d))
    before, after = History(corpus), History(other)
    for dialogue in corpus.dialogues():
        assert everything(before, dialogue) == everything(after, dialogue)


@relaxed
@given(corpora(), st.data())
def test_labels_of_the_own_episode_are_never_seen(corpus: Corpus, data: st.DataObject) -> None:
    now = data.draw(st.sampled_from(list(corpus.dialogues())))
    other = changed(corpus, lambda _, d: relabelled(d) if same_episode(d, now) else d)
    assert everything(History(corpus), now) == everything(History(other), now)


def test_labels_of_the_own_episode_are_not_seen_where_another_scene_tells_no_episode() -> None:
    """One scene without an episode puts all of them in the order of the files; episodes are still episodes."""
    earlier, now = scene_of(1, ("Ada", "One.", "Sad"), episode=1), scene_of(2, ("Ada", "Two.", "Sad"), episode=1)
    stray = Dialogue("stray", (Utterance("u0", ("Ben",), "Three.", "Mad"),))
    corpus = corpus_of({"train": [stray, earlier, now]})
    history = History(corpus)
    assert not history.timed
    assert seen(history, now, "Ada") == [(earlier.id, (0,), 1, (None,))]
    assert sum(history.label_counts(now)) == 1
    other = changed(corpus, lambda _, d: relabelled(d) if d.id == earlier.id else d)
    assert history.label_counts(now) == History(other).label_counts(now)


@relaxed
@given(corpora(), st.data())
def test_later_scenes_are_never_seen(corpus: Corpus, data: st.DataObject) -> None:
    now = data.draw(st.sampled_from(list(corpus.dialogues())))
    other = data.draw(rewritten_future(corpus, now))
    assert everything(History(corpus), now) == everything(History(other), now)


@relaxed
@given(corpora(), st.data())
def test_nothing_of_the_scene_itself_is_its_past(corpus: Corpus, data: st.DataObject) -> None:
    now = data.draw(st.sampled_from(list(corpus.dialogues())))
    other = data.draw(rewritten_after(now, 0))
    rewritten = changed(corpus, lambda _, d: other if d.id == now.id else d)
    assert everything(History(corpus), now) == everything(History(rewritten), other)


def test_labels_of_earlier_train_episodes_are_seen() -> None:
    """Otherwise the tests above would hold of a history that shows no label at all."""
    past, now = scene_of(1, ("Ada", "One.", "Sad"), ("Ada", "Two.")), scene_of(2, ("Ada", "Three.", "Mad"))
    history = History(corpus_of({"dev": [now], "train": [past]}))
    assert seen(history, now, "Ada") == [(past.id, (0, 1), 1, ("Sad", None))]
    assert history.label_counts(now) == (0, 0, 0, 0, 0, 1, 0)


# Time


def test_splits_are_one_time_line() -> None:
    scenes = [scene_of(i, ("Ada", f"Line {i}.")) for i in range(1, 6)]
    history = History(
        corpus_of({"dev": [scenes[1], scenes[3]], "train": [scenes[0], scenes[4]], "selection": [scenes[2]]})
    )
    assert history.timed
    assert [past.dialogue for past in history.before(scenes[4], "Ada")] == scenes[3::-1]
    assert history.before(scenes[0], "Ada") == ()


def test_seasons_go_before_episodes_and_episodes_before_scenes() -> None:
    said = (Utterance("u0", ("Ada",), "Hello."),)
    times = [(1, 2, 30), (1, 10, 1), (1, 10, 2), (2, 1, 1)]
    scenes = [Dialogue(str(time), said, *time) for time in times]
    history = History(corpus_of({"train": scenes[::-1]}))
    assert [history.count(scene, "Ada") for scene in scenes] == [0, 1, 2, 3]


def test_scenes_of_the_same_place_in_time_do_not_see_each_other() -> None:
    one, later = scene_of(1, ("Ada", "One.", "Sad"), episode=1), scene_of(2, ("Ada", "Two."), episode=1)
    twin = replace(one, id="twin")
    history = History(corpus_of({"train": [one], "dev": [twin, later]}))
    assert history.before(one, "Ada") == history.before(twin, "Ada") == ()
    assert {past.dialogue.id: past.distance for past in history.before(later, "Ada")}.keys() == {one.id, "twin"}
    assert [past.distance for past in history.before(later, "Ada")] == [1, 2]


def test_without_episodes_the_order_of_the_files_counts() -> None:
    scenes = [Dialogue(id_, (Utterance("u0", ("Ada",), "Hello.", "Sad"),)) for id_ in ("z", "a", "m")]
    history = History(corpus_of({"train": scenes[:2], "dev": scenes[2:]}))
    assert not history.timed
    assert [past.dialogue.id for past in history.before(scenes[2], "Ada")] == ["a", "z"]
    assert [past.labels for past in history.before(scenes[2], "Ada")] == [("Sad",), ("Sad",)]
    assert history.label_counts(scenes[1])[5] == 1


def test_one_scene_without_an_episode_is_enough_to_keep_the_order_of_the_files() -> None:
    first, second = scene_of(2, ("Ada", "Two.")), scene_of(1, ("Ada", "One."))
    stray = Dialogue("stray", (Utterance("u0", ("Ada",), "Three."),))
    history = History(corpus_of({"train": [first, second, stray]}))
    assert not history.timed
    assert [past.dialogue for past in history.before(stray, "Ada")] == [second, first]


def test_a_scene_that_is_cut_from_train_keeps_its_place_in_the_file() -> None:
    scenes = [Dialogue(f"d{i}", (Utterance("u0", ("Ada",), "Hello.", "Sad"),)) for i in range(6)]
    cut = selection_split(corpus_of({"train": scenes[:5], "dev": scenes[5:]}), fraction=0.3)
    history, places = History(cut), [int(d.id[1:]) for d in cut.split("selection")]
    assert places[0] < 4, "or the order of the file would be that of the splits"
    for place, scene in enumerate(scenes):
        assert [past.dialogue.id for past in history.before(scene, "Ada")] == [f"d{i}" for i in range(place)][::-1]
        assert history.label_counts(scene)[5] == len({*range(place)} - {*places, 5})


@relaxed
@given(corpora("none"), st.floats(0.1, 0.8), st.integers(0, 99))
def test_without_episodes_cutting_a_selection_split_moves_nobody_in_time(
    corpus: Corpus, fraction: float, seed: int
) -> None:
    rest = {split: scenes for split, scenes in corpus.splits.items() if split != "selection"}
    whole = replace(corpus, splits=rest)
    if len(whole.split("train")) < 2:
        return
    cut = selection_split(whole, fraction, seed)
    place, split = moments(whole), split_of(cut)
    assert cut.sha256 == whole.sha256
    assert [d.id for d in cut.dialogues()] == sorted(place, key=lambda name: place[name])
    hidden = changed(whole, lambda _, d: unlabelled(d) if split[d.id] == "selection" else d)
    before, after = History(hidden), History(cut)
    for dialogue in whole.dialogues():
        assert everything(before, dialogue) == everything(after, dialogue)


def unlabelled(dialogue: Dialogue) -> Dialogue:
    return replace(dialogue, utterances=tuple(replace(u, label=None) for u in dialogue.utterances))


def test_a_scene_from_elsewhere_comes_where_its_time_says_or_after_everything() -> None:
    scenes = [scene_of(i, ("Ada", "Hello.", "Sad")) for i in (1, 3)]
    history = History(corpus_of({"train": scenes}))
    own = (Utterance("u0", ("Ada",), "Hi."),)
    assert history.count(Dialogue("mine", own, 1, 2, 1), "Ada") == 1
    assert history.count(Dialogue("mine", own), "Ada") == 2
    assert sum(history.label_counts(Dialogue("mine", own))) == 2
    sibling = history.before(Dialogue("mine", own, 1, 3, 9), "Ada")
    assert [past.labels for past in sibling] == [(None,), ("Sad",)]


def test_an_empty_corpus_has_no_past() -> None:
    history = History(corpus_of({}))
    now = scene_of(1, ("Ada", "Hello."))
    assert history.before(now, "Ada") == ()
    assert history.label_counts(now) == (0,) * 7
    assert list(history.persons()) == []


# People


def test_groups_and_all_count_for_each_member_and_are_nobody_of_their_own() -> None:
    past = scene_of(1, ("#ALL#", "Hey!"), ("Ada+Ben", "Well."), ("Cleo", "No."), ("Ben", "Yes."))
    now = scene_of(2, ("Ada", "So."))
    history = History(corpus_of({"train": [past, now]}))
    positions = {p: [s.positions for s in history.before(now, p)] for p in ("Ada", "Ben", "Cleo")}
    assert positions == {"Ada": [(0, 1)], "Ben": [(0, 1, 3)], "Cleo": [(0, 2)]}
    assert set(history.persons()) == {"Ada", "Ben", "Cleo"}
    assert history.before(now, "#ALL#") == history.before(now, "Ada+Ben") == ()


def test_a_role_lives_within_one_episode() -> None:
    scenes = [scene_of(i, ("Guy", "Taxi!"), ("Ada", "No."), episode=e) for e in (1, 2) for i in (1, 2)]
    history = History(corpus_of({"train": scenes}))
    assert [history.count(scene, history.person("Guy", scene)) for scene in scenes] == [0, 1, 0, 1]
    assert [history.count(scene, history.person("Ada", scene)) for scene in scenes] == [0, 1, 2, 3]


def test_a_role_of_a_corpus_without_episodes_lives_within_one_scene() -> None:
    scenes = [Dialogue(f"d{i}", (Utterance("u0", ("Guy",), "Taxi!"),)) for i in range(3)]
    history = History(corpus_of({"train": scenes}))
    assert [history.count(scene, history.person("Guy", scene)) for scene in scenes] == [0, 0, 0]


def test_empty_lines_are_nobodys_past() -> None:
    silent, spoken = scene_of(1, ("Ada", "  "), ("Ben", "Ada?")), scene_of(2, ("Ada", ""), ("Ada", "Yes."))
    now = scene_of(3, ("Ada", "Hello."))
    history = History(corpus_of({"train": [silent, spoken, now]}))
    assert seen(history, now, "Ada") == [(spoken.id, (1,), 1, (None,))]
    assert [u.text for u in history.before(now, "Ada")[0].lines] == ["Yes."]


def test_distance_is_counted_in_ones_own_scenes() -> None:
    scenes = [scene_of(i, ("Ada" if i in (1, 5) else "Ben", "Hello.")) for i in range(1, 7)]
    history = History(corpus_of({"train": scenes}))
    assert [(p.dialogue.id, p.distance) for p in history.before(scenes[5], "Ada")] == [
        (scenes[4].id, 1),
        (scenes[0].id, 2),
    ]


def test_speakers_of_a_scene_come_in_the_order_of_their_first_line() -> None:
    scene = scene_of(1, ("#ALL#", "Hey!"), ("Ben+Ada", "Oh."), ("Cleo", "No."), ("Ada+Dan", "Yes."), ("Ben", "Ah."))
    assert speakers_of(scene) == ("Ben", "Ada", "Cleo", "Dan")
    assert first_lines(scene.utterances) == {1: ("Ben", "Ada"), 2: ("Cleo",), 3: ("Dan",)}


@relaxed
@given(corpora())
def test_everybody_has_one_first_line_and_it_is_the_first(corpus: Corpus) -> None:
    for dialogue in corpus.dialogues():
        found = [(k, s) for k, speakers in first_lines(dialogue.utterances).items() for s in speakers]
        assert tuple(s for _, s in found) == speakers_of(dialogue)
        for k, speaker in found:
            assert k == min(i for i, u in enumerate(dialogue.utterances) if speaker in u.speakers)


# Fading


@given(st.floats(0, 60), st.floats(0.1, 60))
def test_half_is_left_after_the_half_life(distance: float, half_life: float) -> None:
    assert fading(0, half_life) == 1
    assert fading(half_life, half_life) == 0.5
    assert fading(distance + half_life, half_life) == pytest.approx(fading(distance, half_life) / 2)
    assert fading(distance + 1, half_life) < fading(distance, half_life)


# The whole of EmoryNLP


@pytest.fixture(scope="module")
def original(emorynlp: Path) -> Corpus:
    return selection_split(read_corpus(emorynlp / "original"))


@pytest.mark.emorynlp
def test_everything_emorynlp_knows_of_a_scene_was_before_it(original: Corpus) -> None:
    history, place, split = History(original), moments(original), split_of(original)
    assert history.timed
    scenes, labelled = 0, 0
    for dialogue in original.dialogues():
        for speaker in speakers_of(dialogue):
            for past in history.before(dialogue, history.person(speaker, dialogue)):
                scenes += 1
                assert place[past.dialogue.id] < place[dialogue.id]
                if any(label is not None for label in past.labels):
                    labelled += 1
                    assert split[past.dialogue.id] == "train"
                    assert past.dialogue.episode_id != dialogue.episode_id
    assert scenes > labelled > 100_000
