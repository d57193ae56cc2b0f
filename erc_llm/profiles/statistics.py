"""The writer `statistics`: what is known of a person as decayed counts, in plain English.

A feeling is mentioned only where chance does not explain it.

Input: a `ProfileContext`. Output: sentences on leanings of emotion relative to everybody, on a recent shift, and on how
much and to whom the person talks.
Does not depend on: tokenizers, models, prompts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import log, sqrt
from statistics import NormalDist

from erc_llm.corpus.dialogues import EVERYONE
from erc_llm.corpus.history import PastScene, speakers_of
from erc_llm.profiles.profiler import Profile, ProfileContext
from erc_llm.prompting.names import first_name

_CHANCE = 0.05  # share of profiles that may tell what is chance
_ALIKE = 0.15  # intraclass correlation of a person's labels in a scene; 0.14 on EmoryNLP's train, mean of the labels
_LEAST = 5  # labels that a leaning's evidence must be worth
_FEWEST_SCENES = 2  # that a label must have been seen in to be told of; one scene's mood is not the person
_LATELY = 3  # scenes that are lately, at most
_LEAST_RECENT, _LEAST_USUAL = 3, 10  # labels that a shift's evidence must be worth, lately and before


class StatisticsWriter:
    """Decayed counts in plain English: leanings relative to everybody, a recent shift, how much and to whom one talks.

    A leaning or a shift is told only where chance would tell one in twenty profiles at most, all labels together, with
    the number of labels that its evidence is worth. The sentences are about nobody by name; the prompt puts the name
    before them.
    """

    name = "statistics"

    def write(self, context: ProfileContext) -> Profile:
        """The sentences that the evidence carries; all scenes that still weigh something were counted."""
        said = [*_shift(context), *_leanings(context), _talk(context)]
        labels = {s.dialogue.id: sum(label is not None for label in s.labels) for s in context.scenes}
        return Profile(
            context.speaker,
            tuple(f"{sentence[0].upper()}{sentence[1:]}." for sentence in said),
            tuple(labels),
            tuple(scene for scene, count in labels.items() if count),
            sum(len(scene.positions) for scene in context.scenes),
            sum(labels.values()),
        )


@dataclass(frozen=True, slots=True)
class _Tally:
    """Labels of some scenes.

    Attributes:
        shares: Label name to its share, by weight; a label that was never seen is missing.
        scenes: Label name to how many scenes have it.
        count: How many independent labels of equal weight would tell as much.
    """

    shares: Mapping[str, float]
    scenes: Mapping[str, int]
    count: float


def _tally(scenes: Sequence[tuple[PastScene, float]]) -> _Tally:
    """Of scenes with their weights. What fades counts less, and so do labels that share a scene and thus its mood."""
    weighed, seen, spread = defaultdict[str, float](float), Counter[str](), 0.0
    for scene, weight in scenes:
        labels = [label for label in scene.labels if label is not None]
        seen.update(set(labels))
        for label in labels:
            weighed[label] += weight
        spread += weight * weight * len(labels) * (1 + (len(labels) - 1) * _ALIKE)
    total = sum(weighed.values())
    if not total:
        return _Tally({}, {}, 0.0)
    # Kish's effective sample size, of weights and of clusters (Survey Sampling, 1965)
    return _Tally({label: weight / total for label, weight in weighed.items()}, seen, total * total / spread)


def _leanings(context: ProfileContext) -> list[str]:
    own = _tally(list(zip(context.scenes, context.weights, strict=True)))
    everyone = sum(context.everyone.values())
    if own.count < _LEAST or not everyone:
        return []
    found = []
    for label, count in context.everyone.items():
        z = _deviation(own.shares.get(label, 0.0), count / everyone, own.count, everyone)
        told = z < 0 or own.scenes[label] >= _FEWEST_SCENES
        if told and abs(z) >= _strong(len(context.everyone)):
            found.append((-abs(z), f"{'more' if z > 0 else 'less'} {label.lower()}"))
    if not found:
        return []
    return [f"{' and '.join(text for _, text in sorted(found)[:2])} than most (worth {own.count:.0f} labels)"]


def _shift(context: ProfileContext) -> list[str]:
    """The label that the last few labelled scenes have unusually often, by this person's own measure."""
    pairs = zip(context.scenes, context.weights, strict=True)
    labelled = [(scene, weight) for scene, weight in pairs if any(label is not None for label in scene.labels)]
    lately = [(scene, weight) for scene, weight in labelled[:_LATELY] if weight >= 0.5]  # within the half-life
    now, then = _tally(lately), _tally([(scene, 1.0) for scene, _ in labelled[len(lately) :]])
    if now.count < _LEAST_RECENT or then.count < _LEAST_USUAL:
        return []
    kinds = len(context.everyone)
    found = [(_strong(kinds), "")]
    for label, share in now.shares.items():
        usual = (then.shares.get(label, 0.0) * then.count + 1) / (then.count + kinds)
        if now.scenes[label] >= _FEWEST_SCENES:
            found.append((_deviation(share, usual, now.count, then.count), label))
    label = max(found)[1]
    return [f"lately more {label.lower()} than usual (worth {now.count:.0f} labels)"] if label else []


def _deviation(share: float, usual: float, count: float, usual_count: float) -> float:
    """How far a share among `count` is from the usual one among `usual_count`, in standard normal deviates.

    The signed root of twice the log-likelihood ratio (Wilks 1938), which keeps its level for rare labels and few of
    them, where a difference divided by its standard error does not.
    """
    if not 0 < usual < 1:
        return 0.0
    surprise = sum(p * log(p / q) for p, q in ((share, usual), (1 - share, 1 - usual)) if p > 0)
    deviation = sqrt(2 * max(surprise, 0.0) / (1 / count + 1 / usual_count))
    return deviation if share > usual else -deviation


@cache
def _strong(kinds: int) -> float:
    """Deviates that chance exceeds in one profile of twenty, so many labels being looked at (Bonferroni): 2.69 of 7."""
    return NormalDist().inv_cdf(1 - _CHANCE / (2 * kinds))


def _talk(context: ProfileContext) -> str:
    """How much of a scene is the person's, against an equal share, and whose lines they answer."""
    ratio = 0.0
    partners = defaultdict[str, float](float)
    for scene, weight in zip(context.scenes, context.weights, strict=True):
        said = scene.dialogue.utterances
        ratio += weight * len(scene.positions) * len(speakers_of(scene.dialogue)) / len(said)
        for k in scene.positions:
            before = said[k - 1].speakers if k else ()
            for other in set(before) - set(said[k].speakers) - {EVERYONE, context.speaker}:
                partners[other] += weight
    ratio /= sum(context.weights)
    much = "talks a lot" if ratio > 1.25 else "talks little" if ratio < 0.75 else "talks as much as others"
    ranked = sorted(partners, key=lambda name: (-partners[name], name))[:2]
    return f"{much}, mostly with {' and '.join(map(first_name, ranked))}" if ranked else much
