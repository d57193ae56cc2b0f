"""The search space of a sweep: fields of a configuration, each with a range or a list of values.

    training.learning_rate: {low: 0.0003, high: 0.003, log: true}
    training.epochs: {low: 1, high: 3, step: 1}
    lora.rank: [8, 16, 32]

Input: a YAML file, and the configuration that it varies. Output: checked fields; `key=value` texts for a trial.
Does not depend on: how trials are run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from erc_llm.config import RunConfig
from erc_llm.config_files import Section, read_yaml
from erc_llm.errors import ConfigError

if TYPE_CHECKING:
    import optuna

_FIXED = ("name", "output", "tried")  # a sweep sets them itself


class Range(Section):
    """A range of numbers; whole ones if its ends and its step are."""

    model_config = ConfigDict(strict=True)

    low: int | float = Field(description="Smallest value.")
    high: int | float = Field(description="Largest value.")
    step: int | float | None = Field(None, gt=0, description="Distance between values.")
    log: bool = Field(False, description="Draw the logarithm evenly.")

    @model_validator(mode="after")
    def _ascends(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low={self.low} is not below high={self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log=true needs a low above 0, and no step")
        return self

    @property
    def examples(self) -> tuple[Any, ...]:
        """Its ends."""
        return self.low, self.high

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """A value for a trial."""
        if isinstance(self.low, int) and isinstance(self.high, int) and isinstance(self.step, int | None):
            return trial.suggest_int(name, self.low, self.high, step=self.step or 1, log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)


class Choice(Section):
    """A list of values."""

    values: list[Any] = Field(min_length=1, description="The values.")

    @property
    def examples(self) -> tuple[Any, ...]:
        """All of them."""
        return tuple(self.values)

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """A value for a trial; lists are drawn by their text, since Optuna stores plain values only."""
        return yaml.safe_load(trial.suggest_categorical(name, [one_line(value) for value in self.values]))


Space = Mapping[str, Range | Choice]


def read_space(path: Path, configure: Callable[[list[str]], RunConfig]) -> Space:
    """The search space in a file.

    Args:
        path: The YAML file.
        configure: The configuration with some `key=value` texts; every example of every field must be allowed in it.

    Raises:
        ConfigError: The file is no search space, or a value is not allowed in the configuration.
    """
    space: dict[str, Range | Choice] = {}
    mistakes = []
    for name, asked in read_yaml(path).items():
        try:
            space[name] = _field(asked)
        except ValidationError as error:
            mistakes += [f"{name}: {item['msg']}" for item in error.errors()]
            continue
        if name in _FIXED:
            mistakes.append(f"{name}: is set by the sweep; leave it out")
            continue
        for value in space[name].examples:
            try:
                configure([override(name, value)])
            except ConfigError as error:
                mistakes.append(str(error).splitlines()[-1].strip())
    if not space and not mistakes:
        mistakes.append("no field; expected such as `lora.rank: [8, 16]`")
    if mistakes:
        raise ConfigError(f"{path}: no search space\n" + "\n".join(f"  {m}" for m in dict.fromkeys(mistakes)))
    return space


def _field(asked: Any) -> Range | Choice:
    if isinstance(asked, list):
        return Choice(values=asked)
    return TypeAdapter(Range).validate_python(asked)


def override(name: str, value: Any) -> str:
    """The `key=value` text that sets a field."""
    return f"{name}={one_line(value)}"


def one_line(value: Any) -> str:
    """A value as YAML on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return text.removesuffix("...\n").strip()


def suggest(space: Space, trial: optuna.Trial) -> list[str]:
    """The `key=value` texts of a trial."""
    return [override(name, field.suggest(trial, name)) for name, field in space.items()]
