"""Library checks: installed versions against the ranges that this package declares, and optional libraries in use.

Input: a configuration. Output: findings.
Does not depend on: models, corpora, the hardware.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import metadata
from importlib.util import find_spec

from packaging.requirements import Requirement

from erc_llm.config import RunConfig
from erc_llm.planning.findings import Finding

_PACKAGE = "erc-llm"


def check_libraries(config: RunConfig | None) -> list[Finding]:
    """Errors for libraries that are missing or out of range; without a configuration, only of the required ones."""
    extras = () if config is None else tuple(needed_extras(config))
    try:
        declared = [Requirement(line) for line in metadata.requires(_PACKAGE) or ()]
    except metadata.PackageNotFoundError:
        return [
            Finding("note", "libraries", f"{_PACKAGE} is not installed, so the ranges of its libraries are unknown")
        ]
    found = [_check(each, extra) for each in declared if (extra := _used_by(each, extras)) is not None]
    return [*(finding for finding in found if finding), *_loggers(() if config is None else config.training.report_to)]


def needed_extras(config: RunConfig) -> Iterator[str]:
    """The extras of this package without which a configuration does not run."""
    if config.model.quantisation == "nf4":
        yield "qlora"
    if "tensorboard" in config.training.report_to:
        yield "tensorboard"
    if config.profile.writer == "llm" and config.profile.endpoint is not None:
        yield "endpoint"


def _used_by(requirement: Requirement, extras: Iterable[str]) -> str | None:
    """The extra that needs a requirement, `` for none in particular; None if it is not needed."""
    if requirement.name == _PACKAGE:
        return None
    if requirement.marker is None:
        return ""
    return next((extra for extra in ("", *extras) if requirement.marker.evaluate({"extra": extra})), None)


def _check(requirement: Requirement, extra: str) -> Finding | None:
    name, expected = requirement.name, f"{requirement.name}{requirement.specifier}"
    remedy = f"pip install '{expected}'"
    if extra:
        remedy += f", or pip install '{_PACKAGE}[{extra}]'"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding("error", f"libraries: {name}", f"{name} is not installed, expected {expected}", remedy)
    # A local part of the version, such as torch's +cpu, is ignored by ranges.
    if requirement.specifier.contains(version, prereleases=True):
        return None
    return Finding("error", f"libraries: {name}", f"{name} {version} is installed, expected {expected}", remedy)


def _loggers(names: Iterable[str]) -> Iterator[Finding]:
    """Loggers of `training.report_to` that are no extra of this package and are not installed."""
    for name in names:
        if name != "tensorboard" and find_spec(name) is None:
            yield Finding(
                "error",
                "training.report_to",
                f"{name} is not installed",
                f"pip install {name}, or leave it out of training.report_to",
            )
