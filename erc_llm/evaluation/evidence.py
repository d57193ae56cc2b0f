"""Records of a comparison: metrics of each system and contrasts of each pair.

Input: plain values. Output: frozen records that become JSON. Metrics are fractions between 0 and 1, losses are in nats
(NLL) or squared probability (Brier). A contrast is always the first system minus the second.
Does not depend on: how the values are computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from erc_llm.evaluation.calibration_report import ReliabilityBin
from erc_llm.evaluation.decided import DecidedMetrics
from erc_llm.evaluation.example_scenes import Scenes
from erc_llm.evaluation.leakage import ManifestRow
from erc_llm.evaluation.significance import LEVEL
from erc_llm.metrics import Estimate, Headline
from erc_llm.published import HEADING, Reported


@dataclass(frozen=True, slots=True)
class RunMetrics:
    """One table: its name, its seed, its weighted F1, and how many of its answers are invalid."""

    name: str
    seed: int | None
    weighted_f1: float
    invalid: int


@dataclass(frozen=True, slots=True)
class CalibrationMetrics:
    """Calibration of a system's probabilities, on targets for which every table has some.

    Attributes:
        calibration_error: Expected calibration error over 15 bins, mean over the runs.
        nll: Mean of -ln p(gold), in nats.
        brier: Mean Brier score, between 0 and 2.
        reliability: Bins of the first run, from the lowest confidence to the highest.
    """

    calibration_error: Estimate
    nll: Estimate
    brier: Estimate
    reliability: tuple[ReliabilityBin, ...]


@dataclass(frozen=True, slots=True)
class SystemMetrics:
    """A system; with several runs all metrics are means over them.

    Attributes:
        name: Name of the system.
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
    """One metric of two systems on the same targets.

    Attributes:
        name: The metric, the label, or the level of a subgroup.
        targets: Number of targets.
        a: Metric of the first system.
        b: Metric of the second.
        estimate: a minus b with its 95 % interval.
        p_value: p-value of the permutation test; None where there is none.
        p_corrected: The same, corrected over its family of comparisons.
        lower_is_better: True for a loss.
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
    """Weighted F1 by one way to divide the targets; `definition` explains the rows."""

    name: str
    definition: str
    rows: tuple[Contrast, ...]


@dataclass(frozen=True, slots=True)
class Agreement:
    """The answers of two runs, target by target; targets of one dialogue are taken as independent.

    Attributes:
        both: Targets that both have right.
        only_a: Targets that only the first has right.
        only_b: Targets that only the second has right.
        neither: Targets that neither has right.
        flips: Targets on which they answer differently.
        kappa: Cohen's kappa; None where both give one and the same answer throughout.
        mcnemar: Descriptive p-value of only a against only b.
        oracle_accuracy: Accuracy if the right one of the two were always picked.
        oracle_weighted_f1: Weighted F1 likewise; where neither is right, the first one's answer counts.
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
        headline: Contrasts of weighted F1, macro F1 and accuracy.
        by_episode: The same with episodes in place of dialogues; empty where episodes are unknown.
        standard_error: Standard error of the difference in weighted F1; with several runs, it allows for few of them.
        detectable: Smallest true difference in weighted F1 that would be shown; None without an interval.
        losses: Contrasts of NLL and Brier score; empty without probabilities.
        classes: Contrasts of each label's F1.
        divisions: Contrasts of weighted F1 in subgroups.
        agreement: Agreement of the first runs.
        scenes: Scenes won by the first runs.
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
    """The result of `erc-llm compare`.

    Attributes:
        labels: Label names.
        targets: Utterances with a gold label that all are scored on.
        dialogues: Their dialogues.
        episodes: Their episodes; None where unknown.
        corpus: Name, version and split, in words.
        systems: The systems that were measured.
        decided: Most probable and decided answers of each system; empty where no table states a decision rule.
        pairs: The first system against each other one.
        manifest: The leakage manifest; values are in the order of `tables`.
        tables: Names of the tables.
        published: Results that others report; never among the measured ones.
        supports: Targets of each label.
        draws: Number of bootstrap resamples, and of random swaps of the permutation test.
        seed: Seed of both.
        missing: Sentences about columns that the tables lack.
        notes: Sentences that limit what the comparison shows.
    """

    labels: tuple[str, ...]
    targets: int
    dialogues: int
    episodes: int | None
    corpus: str
    systems: tuple[SystemMetrics, ...]
    decided: tuple[DecidedMetrics, ...]
    pairs: tuple[Pair, ...]
    manifest: tuple[ManifestRow, ...]
    tables: tuple[str, ...]
    published: tuple[Reported, ...]
    supports: tuple[int, ...]
    draws: int
    seed: int
    missing: tuple[str, ...]
    notes: tuple[str, ...]

    def _repr_html_(self) -> str:
        """The headline numbers, for notebooks."""
        from erc_llm.evaluation.displays import comparison_html

        return comparison_html(self)

    def as_dict(self) -> Mapping[str, Any]:
        """Plain values for JSON; results that others report have a key of their own."""
        values = asdict(self)
        values[HEADING] = values.pop("published")
        for pair, plain in zip(self.pairs, values["pairs"], strict=True):
            for contrast, row in zip(pair.headline, plain["headline"], strict=True):
                row["verdict"] = contrast.verdict
        return values
