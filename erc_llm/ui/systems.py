"""The systems that the page asks: runs, exports and base models, each with its ways to answer.

A way to answer is a calibration and a decision rule. All ways of a run follow from the same scores, so that the page
changes between them without asking the model again.

Input: sources, as `erc-llm predict` takes them. Output: `System` records; predictors, loaded when first asked.
Does not depend on: HTTP, conversations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from erc_llm.calibration.choose import choose_correction
from erc_llm.calibration.store import CALIBRATION, read_calibration
from erc_llm.errors import ConfigError, ModelError
from erc_llm.predictions import Correction
from erc_llm.predictor import LabelledUtterance, Predictor
from erc_llm.runs.directory import Run
from erc_llm.runs.opened import open_run

Load = Callable[[str, Predictor | None], Predictor]  # a source, and a predictor whose base model it may share

_RULES = {
    "weighted_f1": "decided for weighted F1",
    "macro_f1": "decided for macro F1",
    "weights": "decided by weights",
}


@dataclass(frozen=True, slots=True)
class Way:
    """A way to answer.

    Attributes:
        name: `uncalibrated`, `probable`, or the name of a decision rule.
        words: Description for the user.
        correction: From scores to probabilities and an answer.
    """

    name: str
    words: str
    correction: Correction


@dataclass(frozen=True, slots=True)
class System:
    """A run, an export or a base model.

    Attributes:
        source: The source it was opened from.
        name: Its name, different for each system of the page.
        words: What it is, for the user.
        labels: Names of its labels, in order.
        ways: Its ways to answer; the first has no calibration, all others have the run's.
        usual: Name of the way that `erc-llm predict` uses.
        adapted: Whether it is an adapter on a base model.
    """

    source: str
    name: str
    words: str
    labels: tuple[str, ...]
    ways: tuple[Way, ...]
    usual: str
    adapted: bool

    @property
    def calibrated(self) -> bool:
        """Whether the run has a calibration."""
        return len(self.ways) > 1


@dataclass(frozen=True, slots=True)
class Answers:
    """What a system says about a line.

    Attributes:
        plain: Probability of each label without calibration, in the order of the system's labels.
        calibrated: The same with the run's calibration; None without one.
        answers: Name of each way to the label that it gives.
    """

    plain: tuple[float, ...]
    calibrated: tuple[float, ...] | None
    answers: dict[str, str]


def open_system(source: str, overrides: Sequence[str] = (), taken: Sequence[str] = ()) -> System:
    """Open a source without loading its model.

    Args:
        source: A run directory, an export, a configuration or the name of one.
        overrides: `key=value` texts; see `erc_llm.predictor.load`.
        taken: Names of other systems; the name is different from all of them.

    Raises:
        UserError: It cannot be opened, or its calibration is damaged.
    """
    opened = open_run(source, overrides)
    run, config = opened.run, opened.config
    name = config.name if run is not None else f"{config.model.base} without adapter"
    wanted, number = name, 1
    while name in taken:
        number += 1
        name = f"{wanted} ({number})"
    kind = "base model alone" if run is None else f"run {run.manifest.run_id}"
    words = f"{kind}; base {config.model.base}, context {config.prompt.context}, profile {config.profile.writer}"
    ways, usual = _ways(run)
    return System(source, name, words, config.label_set().names, ways, usual, run is not None)


def _ways(run: Run | None) -> tuple[tuple[Way, ...], str]:
    plain = Correction() if run is None else choose_correction(run, calibration="none")
    if run is None or not (run.folder / CALIBRATION).is_file():
        return (Way("uncalibrated", "most probable label", plain),), "uncalibrated"
    stored = read_calibration(run)
    rules = [each.decision.rule for each in stored.decisions]
    ways = (
        Way("uncalibrated", "most probable label, uncalibrated", plain),
        Way("probable", "most probable label, calibrated", stored.correction("probable")),
        *(Way(rule, _RULES[rule], stored.correction(rule)) for rule in rules),
    )
    return ways, stored.decide or "uncalibrated"


def answers_of(system: System, line: LabelledUtterance) -> Answers:
    """What each way of a system says about a line, from the scores that its predictor gave."""
    scores = np.array([line.log_likelihoods[name] for name in system.labels])
    plain = system.ways[0].correction.probabilities(scores)
    corrected = np.array([line.probabilities[name] for name in system.labels])
    answers = {}
    for number, way in enumerate(system.ways):
        answers[way.name] = system.labels[int(way.correction.decide(corrected if number else plain))]
    return Answers(tuple(plain.tolist()), tuple(corrected.tolist()) if system.calibrated else None, answers)


class Models:
    """The predictors of the systems; for one thread only.

    Args:
        systems: The systems.
        load: Loads the predictor of a source with its calibration, if it has one, and without a decision rule.
    """

    def __init__(self, systems: Sequence[System], load: Load) -> None:
        self._systems, self._load = systems, load
        self._loaded: dict[int, Predictor] = {}

    def predictor(self, number: int) -> Predictor:
        """The predictor of a system; the first call loads it, on the base model of another adapter if they share one.

        Raises:
            UserError: It cannot be loaded.
        """
        if number not in self._loaded:
            self._loaded[number] = self._shared(number) or self._load(self._systems[number].source, None)
        return self._loaded[number]

    def _shared(self, number: int) -> Predictor | None:
        for other, predictor in self._loaded.items() if self._systems[number].adapted else ():
            if self._systems[other].adapted:
                try:
                    return self._load(self._systems[number].source, predictor)
                except (ConfigError, ModelError):
                    continue  # they have another base model or use it differently; alone, it says what else is wrong
        return None
