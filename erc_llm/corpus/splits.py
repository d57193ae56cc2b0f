"""Parts of train: the selection split, the part that one cross-fitting fold leaves out, and the scenes to train on.

Whole episodes are moved, because scenes of one episode resemble each other.

Input: a corpus. Output: a corpus whose train is smaller, with a further split.
Does not depend on: configurations, models.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection
from dataclasses import replace

from erc_llm.corpus.dialogues import LEFT_OUT, SELECTION, Corpus, Dialogue
from erc_llm.errors import CorpusError


def selection_split(corpus: Corpus, fraction: float = 0.1, seed: int = 13) -> Corpus:
    """Move whole episodes of train into a `selection` split, for all choices made before the final evaluation.

    Episodes are drawn in a seeded order until they hold `fraction` of train's dialogues.

    Raises:
        CorpusError: Train is missing, or has fewer than two episodes, so that none would remain to train on.
    """
    train = corpus.split("train")
    names = sorted({episode_of(d) for d in train})
    if len(names) < 2:
        raise CorpusError(
            f"corpus '{corpus.name}': cannot cut a selection split, train has {len(names)} episode; give it two, "
            "or leave `episode` and `scene` out of its dialogues"
        )
    random.Random(seed).shuffle(names)
    drawn: set[str] = set()
    for name in names[:-1]:
        drawn.add(name)
        if sum(episode_of(d) in drawn for d in train) >= fraction * len(train):
            break
    return _held_out(corpus, drawn, SELECTION)


def fold_episodes(corpus: Corpus, folds: int, seed: int = 13) -> tuple[frozenset[str], ...]:
    """The episodes of train in `folds` parts that are alike in size and in label distribution.

    Episodes are taken in order of their number of targets, those of equal size in a seeded order. Each goes to the fold
    that stays closest to an equal share of the targets of each label, by chi-squared distance; of equally close ones,
    to the one with the fewest targets, then episodes. So no fold is empty.

    Raises:
        CorpusError: Train is missing, or has fewer episodes than folds.
    """
    counts: dict[str, Counter[str | None]] = {}
    for dialogue in corpus.split("train"):
        labels = (dialogue.utterances[k].label for k in dialogue.targets)
        counts.setdefault(episode_of(dialogue), Counter()).update(labels)
    if len(counts) < folds:
        raise CorpusError(
            f"corpus '{corpus.name}': cannot make {folds} folds of whole episodes, train has {len(counts)}; ask for "
            "fewer folds, or leave `episode` and `scene` out of its dialogues"
        )
    names = sorted(counts)
    random.Random(f"folds/{seed}").shuffle(names)
    names.sort(key=lambda name: -counts[name].total())  # the sort is stable, so equal sizes stay shuffled
    kinds = [*corpus.labels.names, None]
    share = {kind: sum(count[kind] for count in counts.values()) / folds for kind in kinds}
    held: list[Counter[str | None]] = [Counter() for _ in range(folds)]
    found: list[set[str]] = [set() for _ in range(folds)]

    def farther(fold: int, added: Counter[str | None]) -> tuple[float, int, int]:
        """By how much the fold's chi-squared distance from an equal share grows with an episode; the fold's sizes."""
        excess = {kind: held[fold][kind] - share[kind] for kind in kinds}
        grows = sum(added[k] * (added[k] + 2 * excess[k]) / max(share[k], 1.0) for k in kinds)
        return grows, held[fold].total(), len(found[fold])

    for name in names:
        fold = min(range(folds), key=lambda fold: farther(fold, counts[name]))
        held[fold] += counts[name]
        found[fold].add(name)
    return tuple(frozenset(part) for part in found)


def leave_out(corpus: Corpus, fold: int, folds: int, seed: int = 13) -> Corpus:
    """Move the episodes of one fold out of train, into a split `left_out`, unless that was done already.

    Args:
        corpus: A corpus with its whole train.
        fold: Number of the fold, from 1.
        folds: Number of folds.
        seed: Seed of `fold_episodes`.

    Raises:
        CorpusError: Train is missing, or has fewer episodes than folds.
    """
    if LEFT_OUT in corpus.splits:
        return corpus
    return _held_out(corpus, fold_episodes(corpus, folds, seed)[fold - 1], LEFT_OUT)


def episode_of(dialogue: Dialogue) -> str:
    """The dialogue's episode; without episodes, every dialogue counts as its own."""
    return dialogue.episode_id or dialogue.id


def _held_out(corpus: Corpus, episodes: Collection[str], name: str) -> Corpus:
    """The corpus with these episodes of train as a split of this name; dialogues keep their place in time."""
    train = corpus.split("train")
    kept = tuple(d for d in train if episode_of(d) not in episodes)
    held_out = tuple(d for d in train if episode_of(d) in episodes)
    splits = {"train": kept, name: held_out} | {k: v for k, v in corpus.splits.items() if k != "train"}
    order = () if corpus.timed else tuple(d.id for d in corpus.dialogues())
    return replace(corpus, splits=splits, order=order)


def labelled_scenes(corpus: Corpus, most: int | None, seed: int) -> tuple[Dialogue, ...]:
    """Dialogues of train that have labelled targets, in their order.

    Args:
        corpus: A corpus whose selection split was cut already.
        most: Number of dialogues to keep, drawn at random; None keeps all.
        seed: Seed of the draw, not negative.

    Raises:
        CorpusError: No target of train is labelled.
    """
    scenes = [d for d in corpus.split("train") if any(d.utterances[k].label is not None for k in d.targets)]
    if not scenes:
        raise CorpusError(f"corpus '{corpus.name}': no labelled utterance in train, so there is nothing to train on")
    if most is not None and most < len(scenes):
        chosen = set(random.Random(f"scenes/{seed}").sample(range(len(scenes)), most))
        scenes = [d for i, d in enumerate(scenes) if i in chosen]
    return tuple(scenes)
