"""What a shell completes beside commands and options: packaged configurations, the embedded corpus, fields.

Input: the beginning of a word. Output: the words that begin so. With none, shells complete the names of files.
Does not depend on: torch, transformers.
"""

from __future__ import annotations


def complete_config(incomplete: str) -> list[str]:
    """Names of packaged configurations."""
    from erc_llm.config_files import packaged_configs

    return [name for name in packaged_configs() if name.startswith(incomplete)]


def complete_corpus(incomplete: str) -> list[str]:
    """The name of the embedded corpus; for an empty word the files alone."""
    return ["sample"] if incomplete and "sample".startswith(incomplete) else []


def complete_field(incomplete: str) -> list[str]:
    """Fields of a training run, each with its equals sign."""
    from erc_llm.cli.config_reference import field_names
    from erc_llm.config import RunConfig

    return [f"{name}=" for name in field_names(RunConfig) if name.startswith(incomplete)]
