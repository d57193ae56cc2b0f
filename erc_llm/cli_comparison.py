"""The command `compare`; `erc_llm.cli` puts it beside the others.

Thin over `erc_llm.evaluation`; neither torch nor transformers is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from erc_llm.commands import open_console
from erc_llm.errors import UserError

# What a comparison does not look at; text is needed once.
_UNUSED = ("raw_answer", "log_likelihoods", "label_mass")


def compare(
    predictions: Annotated[
        list[str],
        typer.Argument(
            help="Predictions tables; the first is compared with each other. NAME=FILE says which system's run it is."
        ),
    ],
    on: Annotated[
        Literal["all", "intersection"],
        typer.Option(help="intersection: only utterances that all tables have, also of different corpora."),
    ] = "all",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for comparison.md with its figures, comparison.html and comparison.json."),
    ] = None,
    draws: Annotated[int, typer.Option(help="Bootstrap draws, and swaps of the permutation test.", min=100)] = 10_000,
    seed: Annotated[int, typer.Option(help="Of the draws.", min=0)] = 0,
) -> None:
    """Which system is better, by how much, how sure, and where; several seeds of a system are grouped."""
    from erc_llm.evaluation.comparison import compare as evidence
    from erc_llm.evaluation.comparison_report import sections, title
    from erc_llm.evaluation.matching import Named
    from erc_llm.evaluation.sections import print_sections
    from erc_llm.predictions import read_predictions

    if len(predictions) < 2:
        raise UserError("compare: give at least two predictions tables; `erc-llm evaluate` is for one")
    given = [_named(text) for text in predictions]
    if len({path.resolve() for _, path in given}) < len(given):
        raise UserError("compare: a table is given twice; a system never differs from itself")
    tables: list[Named] = []
    for system, path in given:
        has_text = any(named.table.text is not None for named in tables)
        tables.append(Named(str(path), read_predictions(path, (*_UNUSED, "text") if has_text else _UNUSED), system))
    comparison = evidence(tables, on=on, draws=draws, seed=seed)
    print_sections(title(comparison), sections(comparison), open_console())
    if out is not None:
        from erc_llm.evaluation.comparison_pages import write_comparison

        for written in write_comparison(comparison, out):
            typer.echo(f"written: {written}")


def _named(text: str) -> tuple[str | None, Path]:
    """System and file of NAME=FILE; a file whose name has an equals sign is still a file."""
    name, equals, path = text.partition("=")
    return (None, Path(text)) if not equals or not name or Path(text).exists() else (name, Path(path))
