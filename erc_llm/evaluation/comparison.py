"""Comparison of systems: paired differences with intervals and p-values, by label and subgroup, and their setups.

Input: named predictions tables on the same targets. Output: a `Comparison` of the first table's system with each other.
Does not depend on: files, the terminal.

Intervals resample whole dialogues (and, where a system has several, its runs); p-values swap whole dialogues. Weighted
F1 is over all labels, Neutral included; an invalid answer counts as wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from erc_llm import metrics
from erc_llm.corpus.dialogues import PARTS_OF_TRAIN
from erc_llm.errors import PredictionsError
from erc_llm.evaluation.calibration_report import reliability_bins
from erc_llm.evaluation.contrasts import Contrasts, Side, contrasts, sides
from erc_llm.evaluation.decided import decided_metrics
from erc_llm.evaluation.evidence import Agreement, CalibrationMetrics, Comparison, Pair, RunMetrics, SystemMetrics
from erc_llm.evaluation.example_scenes import who_wins_where
from erc_llm.evaluation.leakage import leakage_manifest
from erc_llm.evaluation.matching import Matched, NamedTable, On, match
from erc_llm.evaluation.report import FEW_DIALOGUES
from erc_llm.evaluation.significance import mcnemar
from erc_llm.evaluation.subgroups import factors
from erc_llm.evaluation.systems import System, apart, group, short_names
from erc_llm.evaluation.tallies import Tallies, known_everywhere, metrics_of, tally
from erc_llm.metrics import Floats, Headline, Integers
from erc_llm.published import reported_for

FEW_RUNS = 5  # with fewer runs, bootstrap resamples repeat the same runs


@dataclass(frozen=True)
class _Measured:
    """The input of every part of a comparison.

    Attributes:
        matched: The targets.
        systems: The systems, each with the indices of its tables.
        answers: For each table (targets,) indices of predicted labels.
        probabilities: For each table (targets, labels); None unless all have some.
    """

    matched: Matched
    systems: tuple[System, ...]
    answers: tuple[Integers, ...]
    probabilities: tuple[Floats, ...] | None

    @property
    def labels(self) -> tuple[str, ...]:
        return self.matched.first.info.labels


def compare(tables: Sequence[NamedTable], *, on: On = "all", draws: int = 10_000, seed: int = 0) -> Comparison:
    """Compare the system of the first table with each other one.

    Args:
        tables: At least two; several runs of one system are recognised by their metadata.
        on: `all` requires the same targets in every table; `intersection` takes those that all have.
        draws: Number of bootstrap resamples, and of random swaps for the p-values; at least 1.
        seed: Seed of both.

    Raises:
        PredictionsError: The tables cannot be compared, or all are runs of one system.
    """
    if len(tables) < 2 or draws < 1:
        raise PredictionsError(f"expected at least two tables and one draw, found {len(tables)} and {draws}")
    measured = _measure(match(tables, on), group(tables))
    matched = measured.matched
    ways, missing = factors(matched)
    n = len(measured.labels)
    divisions = [(way.level, len(way.levels)) for way in ways]
    tallies = tally(matched.gold, measured.answers, matched.dialogue, divisions, n, measured.probabilities)
    found = sides(tallies, measured.systems, draws, seed)
    of_pairs = contrasts(tallies, found, measured.labels, ways, draws, seed)
    episode = _episodes(matched)
    by_episode = None if episode is None else tally(matched.gold, measured.answers, episode, (), n)
    return Comparison(
        labels=measured.labels,
        targets=len(matched.gold),
        dialogues=len(tallies.support),
        episodes=None if by_episode is None else len(by_episode.support),
        corpus=_corpus(matched),
        systems=tuple(_system(measured, tallies, side) for side in found),
        decided=decided_metrics(matched, measured.systems),
        pairs=_pairs(measured, of_pairs, _clustered_by_episode(measured, by_episode, draws, seed)),
        manifest=leakage_manifest([named.table.info for named in tables]),
        tables=short_names(tables),
        published=reported_for(named.table.info for named in tables),
        supports=tuple(tallies.support[:, 0].sum(axis=0).tolist()),
        draws=draws,
        seed=seed,
        missing=(*missing, *_missing(measured, episode)),
        notes=(*matched.notes, *_notes(measured, tallies, by_episode)),
    )


def _measure(matched: Matched, systems: tuple[System, ...]) -> _Measured:
    if len(systems) < 2:
        raise PredictionsError(
            f"all {len(matched.tables)} tables are runs of one system, {systems[0].name}; give a table of another one"
        )
    every = range(len(matched.tables))
    found = [matched.probabilities(i) for i in every]
    probabilities = tuple(p for p in found if p is not None)
    with_all = len(probabilities) == len(found) and bool(known_everywhere(probabilities).any())
    return _Measured(matched, systems, tuple(matched.answers(i) for i in every), probabilities if with_all else None)


def _pairs(measured: _Measured, found: Sequence[Contrasts], by_episode: Sequence[Contrasts | None]) -> tuple[Pair, ...]:
    first = measured.systems[0]
    pairs = []
    for other, c, episodes in zip(measured.systems[1:], found, by_episode, strict=True):
        answers = measured.answers[first.runs[0]], measured.answers[other.runs[0]]
        pair = Pair(
            a=first.name,
            b=other.name,
            headline=c.headline,
            by_episode=episodes.headline if episodes else (),
            standard_error=c.standard_error,
            detectable=c.detectable,
            losses=c.losses,
            classes=c.classes,
            divisions=c.divisions,
            agreement=_agreement(measured.matched.gold, *answers, len(measured.labels)),
            scenes=who_wins_where(measured.matched, (first.name, other.name), answers),
        )
        pairs.append(pair)
    return tuple(pairs)


def _clustered_by_episode(
    measured: _Measured, tallies: Tallies | None, draws: int, seed: int
) -> Sequence[Contrasts | None]:
    if tallies is None or len(tallies.support) < 2:
        return [None] * (len(measured.systems) - 1)
    return contrasts(tallies, sides(tallies, measured.systems, draws, seed), measured.labels, (), draws, seed)


def _system(measured: _Measured, tallies: Tallies, side: Side) -> SystemMetrics:
    layout, points = tallies.layout, metrics_of(tallies)
    runs = []
    for run in side.system.runs:
        named = measured.matched.tables[run]
        invalid = int(np.sum(measured.answers[run] == metrics.INVALID))
        runs.append(
            RunMetrics(short_names(measured.matched.tables)[run], named.table.info.seed, float(points[run, 0]), invalid)
        )
    return SystemMetrics(
        name=side.system.name,
        runs=tuple(runs),
        headline=Headline(**{metric: side.estimate(layout.headline(metric)) for metric in metrics.HEADLINE}),
        classes=tuple(float(side.point[layout.label(i)]) for i in range(layout.labels)),
        calibration=_calibration(measured, tallies, side),
    )


def _calibration(measured: _Measured, tallies: Tallies, side: Side) -> CalibrationMetrics | None:
    if measured.probabilities is None:
        return None
    known = known_everywhere(measured.probabilities)
    gold = measured.matched.gold[known]
    layout, first = tallies.layout, measured.probabilities[side.system.runs[0]]
    return CalibrationMetrics(
        calibration_error=side.calibration_error(layout.calibration),
        nll=side.estimate(layout.nll),
        brier=side.estimate(layout.brier),
        reliability=tuple(reliability_bins(first[known], gold)),
    )


def _agreement(gold: Integers, a: Integers, b: Integers, n_labels: int) -> Agreement:
    right_a, right_b = a == gold, b == gold
    only_a, only_b = int(np.sum(right_a & ~right_b)), int(np.sum(right_b & ~right_a))
    oracle = np.where(right_b, b, a)
    scores = metrics.scores_from_confusion(metrics.confusion(gold, oracle, n_labels))
    return Agreement(
        both=int(np.sum(right_a & right_b)),
        only_a=only_a,
        only_b=only_b,
        neither=int(np.sum(~right_a & ~right_b)),
        flips=int(np.sum(a != b)),
        kappa=metrics.kappa(a, b),
        mcnemar=mcnemar(only_a, only_b),
        oracle_accuracy=float(scores.accuracy),
        oracle_weighted_f1=float(scores.weighted_f1),
    )


def _episodes(matched: Matched) -> Integers | None:
    """(targets,) number of the episode; a scene without one counts as an episode. None where unknown."""
    found = matched.with_column("episode")
    if found is None or found[0].episode is None:
        return None
    names = [found[0].episode[i] for i in found[1].tolist()]
    scenes = [matched.first.dialogue_id[i] for i in matched.rows[0].tolist()]
    keys = [("scene", scene) if name is None else ("episode", name) for name, scene in zip(names, scenes, strict=True)]
    order = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([order[key] for key in keys], dtype=np.int64)


def _corpus(matched: Matched) -> str:
    info = matched.first.info
    healed = ", gap-healed" if info.healed else ""
    return f"{info.corpus_name}, corpus version {info.corpus_version}{healed}, split {info.split}"


def _missing(measured: _Measured, episode: Integers | None) -> Iterator[str]:
    if episode is None:
        yield "No column 'episode': no check by episodes."
    if measured.probabilities is None:
        yield "Not every table has probabilities: nothing is said of calibration."
    if measured.matched.with_column("text") is None:
        yield "No column 'text': no example scenes; tables written without `--without-text` have it."


def _notes(measured: _Measured, tallies: Tallies, by_episode: Tallies | None) -> Iterator[str]:
    if measured.matched.without_gold:
        yield f"{measured.matched.without_gold:,} rows have no gold label and are left out."
    clusters = len(tallies.support)
    if clusters == 1:
        yield "All targets are from one dialogue: no intervals and no p-values, because whole dialogues are resampled."
    elif clusters < FEW_DIALOGUES:
        yield f"Only {clusters} dialogues: intervals from so few are usually too narrow."
    if by_episode is not None and 1 < len(by_episode.support) < FEW_DIALOGUES:
        yield f"Only {len(by_episode.support)} episodes: the check by them is rough, its intervals often too narrow."
    infos = [named.table.info for named in measured.matched.tables]
    if infos[0].split == "train" and all(info.folds is not None for info in infos):
        yield "Cross-fitted on train: each target is predicted by a model that was not trained on its episode."
    elif infos[0].split in PARTS_OF_TRAIN:
        yield f"Split '{infos[0].split}' is what systems are fitted or chosen on."
    for system in measured.systems:
        seeds = [measured.matched.tables[run].table.info.seed for run in system.runs]
        if len(seeds) > 1:
            few = "; so few say little of other seeds" * (len(seeds) < FEW_RUNS)
            unchecked = "" if system.checked else ", grouped by name: not all state the same recipe"
            yield f"{system.name} has {len(seeds)} runs (seeds {', '.join(map(str, seeds))}){unchecked}{few}."
    yield from apart(measured.matched.tables, measured.systems)
    if any(len(system.runs) > 1 for system in measured.systems):
        yield "p-values hold the runs as they are; what is told of single answers is about the first run of a system."
        if lone := [system.name for system in measured.systems if len(system.runs) == 1]:
            yield f"Of {', '.join(lone)} there is one run, compared as that run: no interval tells of other seeds."
