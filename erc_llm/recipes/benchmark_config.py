"""Benchmark configuration: reads the list of systems that a benchmark compares.

Input: a YAML file, or the name of a packaged one. Output: a frozen `BenchmarkConfig`.
Does not depend on: models, corpora.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from erc_llm.config_files import Section, read_yaml
from erc_llm.errors import ConfigError
from erc_llm.resources import configs_dir


class BenchmarkSystem(Section):
    """A system: a language model (`config`) or an encoder (`baseline`)."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$", description="Name of its tables and run directories.")
    config: str | None = Field(None, description="Configuration of a language model, as for `erc-llm train`.")
    baseline: str | None = Field(None, description="Configuration of an encoder, as for `erc-llm baseline`.")
    overrides: tuple[str, ...] = Field((), description="`key=value` texts on top of it.")
    trained_on: Literal["original", "aligned", "same"] = Field(
        "same",
        description="same: train separately on each corpus version. Otherwise train on the named version and "
        "restore missing lines "
        "from it at prediction time.",
    )
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = Field(
        (13,), min_length=1, description="One training run per seed."
    )
    average: bool = Field(
        False, description="Evaluate one adapter that is the average of the training runs, instead of each."
    )
    folds: int | None = Field(
        None,
        ge=2,
        le=100,
        description="Cross-fit a config with this number of folds, instead of one run per seed.",
    )
    calibration: Literal["none", "nll", "weighted_f1"] = Field(
        "none", description="As for `erc-llm calibrate --fit-for`; with a decision rule, none is nll."
    )
    decide: Literal["probable", "weighted_f1", "macro_f1", "weights"] = Field(
        "weighted_f1",
        description="Decision rule of the answers that are compared, found on a held-out part of train; the most "
        "probable labels are scored beside them.",
    )

    @model_validator(mode="after")
    def _is_one_of_two(self) -> BenchmarkSystem:
        if (self.config is None) == (self.baseline is None):
            raise ValueError("expected exactly one of config and baseline")
        for_config = self.average or self.calibration != "none" or self.trained_on != "same" or self.folds is not None
        if self.baseline is not None and for_config:
            raise ValueError("average, calibration, folds and trained_on apply to a config, not to a baseline")
        if self.baseline is not None and self.decide == "weights":
            raise ValueError("decide=weights applies to a config with calibration=weighted_f1, not to a baseline")
        if self.decide == "weights" and self.calibration != "weighted_f1":
            raise ValueError("decide=weights needs calibration=weighted_f1")
        if self.folds is not None and (self.average or len(self.seeds) > 1 or self.calibration == "weighted_f1"):
            raise ValueError("folds: a cross-fitting has one seed, averages its folds, and calibrates itself (nll)")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"expected different seeds, found {list(self.seeds)}; remove the duplicates")
        if self.average and len(self.seeds) < 2:
            raise ValueError("an average needs at least two seeds")
        return self


class BenchmarkConfig(Section):
    """The systems; the first is compared with each of the others."""

    systems: tuple[BenchmarkSystem, ...] = Field(min_length=2)


def read_benchmark_config(source: str) -> BenchmarkConfig:
    """Read a packaged benchmark configuration, or a YAML file.

    Raises:
        ConfigError: There is no such file, or it has mistakes; all are listed.
    """
    packaged = configs_dir() / "benchmarks" / f"{source}.yaml"
    path = Path(source) if Path(source).is_file() else packaged
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in packaged.parent.glob("*.yaml")))
        raise ConfigError(f"{source}: no such benchmark; expected {known}, or a YAML file")
    try:
        found = BenchmarkConfig.model_validate(read_yaml(path))
    except ValidationError as error:
        mistakes = "\n".join(f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{path}: not a benchmark configuration\n{mistakes}") from error
    names = [system.name for system in found.systems]
    if len(set(names)) < len(names):
        raise ConfigError(f"{path}: two systems have the same name: {', '.join(names)}")
    return found
