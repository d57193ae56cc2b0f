"""The command `validate`, and its report on a terminal.

Input: command-line arguments. Output: findings and trained tokens on the terminal; exit code 2 if there is an error.
Does not depend on: torch and transformers until the command runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from erc_llm.cli.completion import complete_config
from erc_llm.cli.options import Overrides, open_console, open_output, silence_libraries

if TYPE_CHECKING:
    from rich.console import Console

    from erc_llm.planning.findings import Finding, Report, TrainedPrompt

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def validate(
    config: Annotated[
        str,
        typer.Argument(
            help="YAML file, or a packaged configuration: smollm2-135m, llama2-7b-qlora, sample, ...",
            autocompletion=complete_config,
        ),
    ],
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Validate for continuing an unfinished run.")] = False,
) -> None:
    """Check a configuration, its files, the model and this machine before training; report all findings together."""
    silence_libraries()
    from erc_llm.recipes.validate import validate as run_checks

    with open_console().status("checking"):
        report = run_checks(config, overrides or [], resume=resume)
    print_report(report, open_output())
    raise typer.Exit(report.exit_code)


def print_report(report: Report, console: Console) -> None:
    """Print all findings with their remedies, the trained tokens, and how many errors and warnings there are."""
    for finding in report.findings:
        _print_finding(finding, console)
    if report.prompts:
        console.print("trained tokens, each in brackets, after the last text before them:")
        for prompt in report.prompts:
            _print_prompt(prompt, console)
    counts = [len(report.of(severity)) for severity in ("error", "warning")]
    told = [
        f"{count} {word}{'' if count == 1 else 's'}" for count, word in zip(counts, ("error", "warning"), strict=True)
    ]
    style = "bold red" if counts[0] else "bold green"
    console.print(", ".join(told), style=style, highlight=False)


def _print_finding(finding: Finding, console: Console) -> None:
    from rich.text import Text

    text = Text(f"{finding.severity:<8}", style=_STYLES[finding.severity])
    text.append(f"{finding.where}: ", style="bold" if finding.severity != "note" else "dim")
    text.append(finding.found, style="dim" if finding.severity == "note" else "not bold")
    console.print(text, soft_wrap=True)
    if finding.remedy:
        console.print(f"        remedy: {finding.remedy}", style="dim", markup=False, highlight=False, soft_wrap=True)


def _print_prompt(prompt: TrainedPrompt, console: Console) -> None:
    from rich.text import Text

    text = Text(f"  {prompt.dialogue}, line {prompt.line}: ", style="dim")
    text.append(f"...{prompt.before}".replace("\n", "⏎"))
    for token in prompt.tokens:
        text.append(f"[{token}]".replace("\n", "⏎"), style="bold black on green")
    console.print(text, soft_wrap=True)
