"""What a shell completes beside commands and options: packaged configurations, the embedded corpus, fields.

Input: the beginning of a word. Output: the words that begin so. With none, shells complete the names of files.
Does not depend on: torch, transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel


def complete_config(incomplete: str) -> list[str]:
    """Names of packaged configurations."""
    from erc_llm.config_files import packaged_configs

    return [name for name in packaged_configs() if name.startswith(incomplete)]


def complete_corpus(incomplete: str) -> list[str]:
    """The name of the embedded corpus; for an empty word the files alone."""
    return ["sample"] if incomplete and "sample".startswith(incomplete) else []


def complete_field(ctx: typer.Context, incomplete: str) -> list[str]:
    """Fields of a training run, each with its equals sign."""
    from erc_llm.config import RunConfig

    return _fields(RunConfig, ctx, incomplete)


def complete_baseline_field(ctx: typer.Context, incomplete: str) -> list[str]:
    """Fields of a baseline, each with its equals sign."""
    from erc_llm.baselines.baseline_config import BaselineConfig

    return _fields(BaselineConfig, ctx, incomplete)


def _fields(model: type[BaseModel], ctx: typer.Context, incomplete: str) -> list[str]:
    from erc_llm.cli.config_reference import field_names

    given = ctx.params.get("overrides") or []
    if "=" in incomplete or given[-1:] == ["="]:  # a value; bash makes words of its own of the sign and of the value
        return []
    return [f"{name}=" for name in field_names(model) if name.startswith(incomplete)]
