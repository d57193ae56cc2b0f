"""Small random corpora for the tests of histories and profiles, and what may be changed in them.

Few people, few words, few places in time, so that everything collides: scenes of one episode in different splits,
scenes of the same place in time, groups, roles such as `Guy`, empty lines, lines without a label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from erc_llm.corpus.dialogues import EVERYONE, Corpus, Dialogue, Utterance
from erc_llm.corpus.labels import EMORYNLP
from erc_llm.corpus.speakers import GENERIC_NAMES

SPLITS = ("train", "selection", "dev")
ROLES = ("Guy", "The Waiter")
PEOPLE = ("Ada Quill", "Ben Ode", "Cleo", *ROLES)
NEWCOMERS = ("Aaron New", "Zoe New", "Woman")  # before and after the others in the alphabet
_LABELS = ("Joyful", "Mad", "Sad")
_TEXTS = (
    *(f"{what} is {how} again" for what in ("the toast", "my train", "a tree") for how in ("late", "burning")),
    "the train and the toast are burning",
    "Oh!",
    "  ",
    "",
)

Change = Callable[[str, Dialogue], Dialogue | None]


def texts() -> st.SearchStrategy[str]:
    """Mostly a handful of words; sometimes nothing."""
    return st.sampled_from(_TEXTS)


@st.composite
def lines(draw: st.DrawFn, names: tuple[str, ...] = PEOPLE, least: int = 1, most: int = 6) -> tuple[Utterance, ...]:
    """Lines of one scene. Most have the scene's mood for a label, so that leanings can be strong."""
    mood = draw(st.sampled_from(_LABELS))
    groups = (names[:2], names[1:3], (EVERYONE,), (names[0], EVERYONE))
    who = st.sampled_from([*((name,) for name in names), *groups])
    line = st.tuples(who, texts(), st.sampled_from([mood, mood, mood, None, *_LABELS]))
    said = draw(st.lists(line, min_size=least, max_size=most))
    return tuple(Utterance(f"u{k}", speakers, text, label) for k, (speakers, text, label) in enumerate(said))


@st.composite
def corpora(draw: st.DrawFn, episodes: str | None = None) -> Corpus:
    """A corpus of two to eight scenes.

    Args:
        draw: Given by hypothesis.
        episodes: Which scenes tell their episode: `all`, `none`, or `some` (the first does, the last does not); by
            default all or none. Where not all do, the order of the files goes through the splits, or split after split.
    """
    episodes = episodes or draw(st.sampled_from(["all", "all", "none"]))
    place = st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 3))
    drawn = draw(st.lists(st.tuples(st.sampled_from(SPLITS), place, lines()), min_size=2, max_size=8))
    splits: dict[str, list[Dialogue]] = {split: [] for split in draw(st.permutations(SPLITS))}
    for i, (split, time, said) in enumerate(drawn):
        told = {"all": True, "none": False, "some": i == 0 or (i < len(drawn) - 1 and i % 3 > 0)}[episodes]
        splits[split].append(Dialogue(f"d{i}", said, *(time if told else ())))
    if episodes == "all":
        splits = {split: sorted(scenes, key=_time) for split, scenes in splits.items()}
        return corpus_of(splits)
    order = draw(st.sampled_from([(), tuple(f"d{i}" for i in range(len(drawn)))]))
    return replace(corpus_of(splits), order=order)


def corpus_of(splits: Mapping[str, Iterable[Dialogue]]) -> Corpus:
    """A corpus of these scenes, with the usual labels and roles."""
    scenes = {split: tuple(dialogues) for split, dialogues in splits.items()}
    return Corpus("random", "own", EMORYNLP, scenes, generic=frozenset(GENERIC_NAMES))


def scene_of(number: int, *said: tuple[str, str] | tuple[str, str, str | None], episode: int | None = None) -> Dialogue:
    """A scene from (speaker, text) or (speaker, text, label); names joined by `+` speak together.

    It is the first of an episode of its own unless `episode` is given; then it is that episode's scene `number`.
    """
    utterances = tuple(
        Utterance(f"u{k}", tuple(who.split("+")), text, *label) for k, (who, text, *label) in enumerate(said)
    )
    place = (number, 1) if episode is None else (episode, number)
    return Dialogue(f"s01_e{place[0]:02d}_c{place[1]:02d}", utterances, 1, *place)


def moments(corpus: Corpus) -> dict[str, Any]:
    """Dialogue id to its place in time: (season, episode, scene) where all have one, else the place in the files."""
    scenes = [dialogue for dialogues in corpus.splits.values() for dialogue in dialogues]
    if all(d.episode is not None for d in scenes):
        return {d.id: _time(d) for d in scenes}
    there = {d.id for d in scenes}
    ids = [*(name for name in corpus.order if name in there), *(d.id for d in scenes if d.id not in corpus.order)]
    return {name: i for i, name in enumerate(ids)}


def split_of(corpus: Corpus) -> dict[str, str]:
    """Dialogue id to the split it is in."""
    return {d.id: split for split, dialogues in corpus.splits.items() for d in dialogues}


def same_episode(one: Dialogue, other: Dialogue) -> bool:
    """Whether two scenes are of one episode; without episodes each scene is an episode of its own."""
    if one.episode is None or other.episode is None:
        return one.id == other.id
    return (one.season, one.episode) == (other.season, other.episode)


def changed(corpus: Corpus, change: Change) -> Corpus:
    """The corpus after `change`, which gets (split, scene) and gives another scene, or None to delete it."""
    splits = {}
    for split, dialogues in corpus.splits.items():
        after = [change(split, dialogue) for dialogue in dialogues]
        splits[split] = tuple(dialogue for dialogue in after if dialogue is not None)
    return replace(corpus, splits=splits)


def relabelled(dialogue: Dialogue) -> Dialogue:
    """Every label another one; a line without a label gets one, and some lose theirs."""
    following = dict(zip((None, *_LABELS), (*_LABELS, None), strict=True))
    return _with_lines(dialogue, [replace(u, label=following.get(u.label, "Mad")) for u in dialogue.utterances])


@st.composite
def rewritten_after(draw: st.DrawFn, dialogue: Dialogue, position: int) -> Dialogue:
    """The same scene up to line `position`, whose speakers stay; that line's words and all after it are others."""
    here = replace(dialogue.utterances[position], text=draw(texts()), label=draw(st.sampled_from(_LABELS)))
    after = draw(lines((*NEWCOMERS, *PEOPLE), least=0))
    return _with_lines(dialogue, [*dialogue.utterances[:position], here, *after])


@st.composite
def rewritten_future(draw: st.DrawFn, corpus: Corpus, now: Dialogue) -> Corpus:
    """The same corpus up to a scene; scenes of the same time or later are rewritten, deleted and added."""
    place = moments(corpus)

    def change(_: str, dialogue: Dialogue) -> Dialogue | None:
        if dialogue.id == now.id or place[dialogue.id] < place[now.id]:
            return dialogue
        if draw(st.booleans()):
            return None
        return replace(dialogue, utterances=draw(lines((*NEWCOMERS, *PEOPLE))))

    later = changed(corpus, change)
    timed = now.episode is not None
    time = draw(st.sampled_from([_time(now), (9, 1, 1)])) if timed else ()
    added = Dialogue("added", draw(lines((*NEWCOMERS, *PEOPLE))), *time)
    split = draw(st.sampled_from(SPLITS)) if timed else list(corpus.splits)[-1]
    return replace(later, splits={**later.splits, split: (*later.split(split), added)})


def _with_lines(dialogue: Dialogue, utterances: Iterable[Utterance]) -> Dialogue:
    return replace(dialogue, utterances=tuple(replace(u, id=f"u{k}") for k, u in enumerate(utterances)))


def _time(dialogue: Dialogue) -> tuple[int, int, int]:
    return (dialogue.season or 0, dialogue.episode or 0, dialogue.scene or 0)
