"""The profile writer `statistics`: states significant leanings of a person's emotions, from decayed counts.

An emotion is mentioned only if chance does not explain it.

Input: a `ProfileContext`. Output: sentences on emotions relative to all persons, on a recent shift, and on how much and
with whom the person talks.
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

_CHANCE = 0.05  # fraction of profiles that may state a leaning which is chance
_ALIKE = 0.15  # intraclass correlation of a person's labels in a scene; 0.14 on EmoryNLP's train, mean of the labels
_LEAST = 5  # independent labels that the evidence of a leaning must be worth
_FEWEST_SCENES = 2  # a label must occur in this many scenes to be mentioned; the mood of one scene is not the person
_LATELY = 3  # maximum scenes that count as recent
_LEAST_RECENT, _LEAST_USUAL = 3, 10  # independent labels that the evidence of a shift must be worth, recent and before


class StatisticsWriter:
    """Writes leanings relative to all persons, a recent shift, and how much and with whom the person talks.

    Leanings and shifts pass a test that chance passes in at most one of twenty profiles (all labels together); they are
    stated with the number of labels that their evidence is worth. The sentences leave the person's name out, because
    the prompt puts it before them.
    """

    def write(self, context: ProfileContext) -> Profile:
        """The sentences that the evidence supports; its sources are all scenes of the context."""
        sentences = [*_shift(context), *_leanings(context), _talk(context)]
        labels = {s.dialogue.id: sum(label is not None for label in s.labels) for s in context.scenes}
        return Profile(
            context.speaker,
            tuple(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences),
            tuple(labels),
            tuple(scene for scene, count in labels.items() if count),
            sum(len(scene.positions) for scene in context.scenes),
            sum(labels.values()),
        )


@dataclass(frozen=True, slots=True)
class _Tally:
    """Weighted label counts of some scenes.

    Attributes:
        shares: Label name to its weighted relative frequency; labels that do not occur are missing.
        scenes: Label name to the number of scenes in which it occurs.
        count: Effective sample size: the number of independent labels of equal weight that are worth as much.
    """

    shares: Mapping[str, float]
    scenes: Mapping[str, int]
    count: float


def _tally(scenes: Sequence[tuple[PastScene, float]]) -> _Tally:
    """Count labels of weighted scenes; old scenes count less, and so do labels of one scene, which share its mood."""
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
        seen_enough = z < 0 or own.scenes[label] >= _FEWEST_SCENES
        if seen_enough and abs(z) >= _strong(len(context.everyone)):
            found.append((-abs(z), f"{'more' if z > 0 else 'less'} {label.lower()}"))
    if not found:
        return []
    return [f"{' and '.join(text for _, text in sorted(found)[:2])} than most (worth {own.count:.0f} labels)"]


def _shift(context: ProfileContext) -> list[str]:
    """The label that is unusually frequent in the last few labelled scenes, relative to this person's earlier ones."""
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
    """Deviation of a share among `count` labels from the usual one among `usual_count`, in standard normal deviates.

    The signed root of twice the log-likelihood ratio (Wilks 1938). It keeps its significance level for rare labels and
    small counts; a difference divided by its standard error does not.
    """
    if not 0 < usual < 1:
        return 0.0
    surprise = sum(p * log(p / q) for p, q in ((share, usual), (1 - share, 1 - usual)) if p > 0)
    deviation = sqrt(2 * max(surprise, 0.0) / (1 / count + 1 / usual_count))
    return deviation if share > usual else -deviation


@cache
def _strong(kinds: int) -> float:
    """Deviates that chance exceeds in one profile of twenty, over all labels (Bonferroni): 2.69 for 7 labels."""
    return NormalDist().inv_cdf(1 - _CHANCE / (2 * kinds))


def _talk(context: ProfileContext) -> str:
    """How much the person talks relative to an equal share of the lines, and whose lines they mostly follow."""
    ratio = 0.0
    partners = defaultdict[str, float](float)
    for scene, weight in zip(context.scenes, context.weights, strict=True):
        lines = scene.dialogue.utterances
        ratio += weight * len(scene.positions) * len(speakers_of(scene.dialogue)) / len(lines)
        for k in scene.positions:
            before = lines[k - 1].speakers if k else ()
            for other in set(before) - set(lines[k].speakers) - {EVERYONE, context.speaker}:
                partners[other] += weight
    ratio /= sum(context.weights)
    much = "talks a lot" if ratio > 1.25 else "talks little" if ratio < 0.75 else "talks as much as others"
    ranked = sorted(partners, key=lambda name: (-partners[name], name))[:2]
    return f"{much}, mostly with {' and '.join(map(first_name, ranked))}" if ranked else much
