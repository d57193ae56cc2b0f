"""The command `benchmark`; `erc_llm.cli` puts it beside the others.

Thin over `erc_llm.recipes.benchmark`; heavy libraries are imported inside.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erc_llm.commands import open_console, quiet


def benchmark(
    name: Annotated[str, typer.Argument(help="`emorynlp`, or a YAML file of systems.")],
    data: Annotated[
        Path, typer.Option(help="Folder with original/ and aligned/; one is enough where all is trained on it.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for tables and reports.")] = Path("benchmark"),
    runs: Annotated[Path | None, typer.Option(help="Folder of run directories; by default in --out.")] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Score this split; by default all but train. Repeatable.")
    ] = None,
    draws: Annotated[int, typer.Option(help="Bootstrap draws, and swaps of the permutation test.", min=100)] = 10_000,
    without_text: Annotated[bool, typer.Option("--without-text", help="Leave out what was said, to share it.")] = False,
) -> None:
    """Train the finalists, or take them where they are trained, score every split that is there, and compare."""
    from erc_llm.recipes.benchmark import Place, find_versions, run_benchmark
    from erc_llm.recipes.benchmark_config import read_finalists

    finalists = read_finalists(name)
    place = Place(find_versions(data, finalists), runs or out / "runs", out, not without_text)
    quiet()
    try:
        reports = run_benchmark(finalists, place, split or [], draws, open_console())
    except KeyboardInterrupt:
        typer.echo("erc-llm: interrupted; the same command goes on", err=True)
        raise typer.Exit(130) from None
    for report in reports:
        typer.echo(f"report: {report / 'comparison.html'}")
