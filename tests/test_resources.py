"""The files that come with the package are found in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path

import pytest

from erc_llm import resources


def test_a_checkout_has_them_beside_the_package() -> None:
    assert list(resources.prompts_dir().glob("*.jinja"))
    assert list(resources.configs_dir().glob("*.yaml"))


def test_a_wheel_has_them_inside_and_inside_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "erc_llm"
    (tmp_path / "prompts").mkdir()
    (tmp_path / "configs").mkdir()
    (package / "prompts").mkdir(parents=True)
    monkeypatch.setattr(resources, "_PACKAGE", package)
    assert resources.prompts_dir() == package / "prompts"
    assert resources.configs_dir() == tmp_path / "configs"
