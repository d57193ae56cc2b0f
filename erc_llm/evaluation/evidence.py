"""The records that a comparison consists of: figures of systems, contrasts of pairs. Plain values, all of them frozen.

Figures are fractions between 0 and 1, losses are in nats (NLL) or squared probability (Brier). A contrast is always the
first system minus the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from erc_llm.evaluation.calibration_report import ReliabilityBin
from erc_llm.evaluation.example_scenes import Scenes
from erc_llm.evaluation.leakage import ManifestRow
from erc_llm.evaluation.significance import LEVEL
from erc_llm.metrics import Estimate, Headline
from erc_llm.published import HEADING, Reported


@dataclass(frozen=True, slots=True)
class RunMetrics:
    """One table: what it is called, its seed, its weighted F1, and how many of its answers are no label."""

    name: str
    seed: int | None
    weighted_f1: float
    invalid: int


@dataclass(frozen=True, slots=True)
class CalibrationMetrics:
    """What a system's probabilities are worth, on targets where every table has some.

    Attributes:
        calibration_error: Expected calibration error over 15 bins, mean over the runs.
        nll: Mean of -ln p(gold), in nats.
        brier: Mean Brier score, between 0 and 2.
        reliability: Of the first run, from unsure to sure.
    """

    calibration_error: Estimate
    nll: Estimate
    brier: Estimate
    reliability: tuple[ReliabilityBin, ...]


@dataclass(frozen=True, slots=True)
class SystemMetrics:
    """A system; with several runs all figures are means over them.

    Attributes:
        name: Of the system.
        runs: Its tables.
        headline: With intervals over dialogues and, where there are several, runs.
        classes: F1 of each label.
        calibration: None where some table has no probabilities.
    """

    name: str
    runs: tuple[RunMetrics, ...]
    headline: Headline
    classes: tuple[float, ...]
    calibration: CalibrationMetrics | None


@dataclass(frozen=True, slots=True)
class Contrast:
    """One figure of two systems on the same targets.

    Attributes:
        name: The figure, the label, or the level of a subgroup.
        targets: It is about so many.
        a: Figure of the first system.
        b: Figure of the second.
        estimate: a minus b with its 95 % interval.
        p_value: Of the permutation test; None where there is none.
        p_corrected: The same, corrected for the comparisons made beside it.
        lower_is_better: Of a loss.
    """

    name: str
    targets: int
    a: float
    b: float
    estimate: Estimate
    p_value: float | None = None
    p_corrected: float | None = None
    lower_is_better: bool = False

    @property
    def verdict(self) -> str:
        """`better` or `worse` where interval and corrected p-value both leave zero out, else `not shown`."""
        low, high = self.estimate.low, self.estimate.high
        if low is None or high is None or self.p_corrected is None or self.p_corrected >= LEVEL or low <= 0 <= high:
            return "not shown"
        return "better" if (low > 0) != self.lower_is_better else "worse"


@dataclass(frozen=True, slots=True)
class Division:
    """Weighted F1 by one way to divide the targets; `definition` says what the rows mean."""

    name: str
    definition: str
    rows: tuple[Contrast, ...]


@dataclass(frozen=True, slots=True)
class Agreement:
    """The answers of two runs, target by target; none of it knows that the targets of a dialogue belong together.

    Attributes:
        both: Targets that both have right; then those that only one has, or neither.
        flips: Targets on which they answer differently.
        kappa: Cohen's kappa; None where both always give one and the same answer.
        mcnemar: Descriptive p-value of only a against only b.
        oracle_accuracy: If the right one of the two could always be picked.
        oracle_weighted_f1: Likewise; where neither is right, the first one's answer counts.
    """

    both: int
    only_a: int
    only_b: int
    neither: int
    flips: int
    kappa: float | None
    mcnemar: float
    oracle_accuracy: float
    oracle_weighted_f1: float


@dataclass(frozen=True, slots=True)
class Pair:
    """The first system against another.

    Attributes:
        a: Name of the first.
        b: Name of the other.
        headline: Weighted F1, macro F1 and accuracy.
        by_episode: The same with episodes in place of dialogues; empty where that cannot be.
        standard_error: Of the difference in weighted F1; with several runs, of resamples that allow for few of them.
        detectable: Smallest true difference in weighted F1 that would be shown; None without an interval.
        losses: NLL and Brier; empty without probabilities.
        classes: F1 of each label.
        divisions: Weighted F1 in subgroups.
        agreement: Of the first run of each.
        scenes: Of the first run of each.
    """

    a: str
    b: str
    headline: tuple[Contrast, ...]
    by_episode: tuple[Contrast, ...]
    standard_error: float | None
    detectable: float | None
    losses: tuple[Contrast, ...]
    classes: tuple[Contrast, ...]
    divisions: tuple[Division, ...]
    agreement: Agreement
    scenes: Scenes


@dataclass(frozen=True)
class Comparison:
    """Everything `erc-llm compare` says.

    Attributes:
        labels: Label names.
        targets: Utterances with a gold label that all are scored on.
        dialogues: Their dialogues.
        episodes: Their episodes; None where unknown.
        corpus: Name, version and split, in words.
        systems: What was measured.
        pairs: The first system against each other.
        manifest: What each table was allowed to know; values are in the order of `tables`.
        tables: What each table is called.
        published: What others report; never among the measured.
        supports: Targets of each label.
        draws: Bootstrap resamples, and random swaps of the permutation test.
        seed: Of both.
        missing: Sentences about what the tables lack.
        notes: Sentences to keep in mind.
    """

    labels: tuple[str, ...]
    targets: int
    dialogues: int
    episodes: int | None
    corpus: str
    systems: tuple[SystemMetrics, ...]
    pairs: tuple[Pair, ...]
    manifest: tuple[ManifestRow, ...]
    tables: tuple[str, ...]
    published: tuple[Reported, ...]
    supports: tuple[int, ...]
    draws: int
    seed: int
    missing: tuple[str, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> Mapping[str, Any]:
        """All of it as plain values that JSON can hold; what others report has a key that says so."""
        values = asdict(self)
        values[HEADING] = values.pop("published")
        for pair, plain in zip(self.pairs, values["pairs"], strict=True):
            for contrast, row in zip(pair.headline, plain["headline"], strict=True):
                row["verdict"] = contrast.verdict
        return values
