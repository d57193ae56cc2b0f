"""The command `plan`: what a training run needs, before anything is downloaded.

Input: command-line arguments. Output: tables on the terminal, or JSON; exit code 1 if the run does not fit.
Does not depend on: torch and transformers.
"""

from __future__ import annotations

from typing import Annotated

import typer

from erc_llm.cli.completion import complete_config
from erc_llm.cli.options import AsJson, Overrides, open_output, print_json

_DOES_NOT_FIT = 1


def plan(
    config: Annotated[
        str,
        typer.Argument(
            help="YAML file, or a packaged configuration: llama2-7b-qlora, llama2-7b-qlora-8gb, ...",
            autocompletion=complete_config,
        ),
    ],
    overrides: Overrides = None,
    gpu: Annotated[str | None, typer.Option(help='The card to plan for, for example "RTX 4090".')] = None,
    memory: Annotated[str | None, typer.Option(help="Memory of a card that is not listed, for example 24GB.")] = None,
    utilisation: Annotated[
        float | None,
        typer.Option(min=0.01, max=1.0, help="Part of a card's rate that training reaches. Default: 0.30, a T4 0.17."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Plan memory, time and disk of a training run from the base model's config.json alone; no GPU is needed."""
    from erc_llm.cli.plan_view import as_dict, print_plan
    from erc_llm.config import load_config
    from erc_llm.errors import ConfigError
    from erc_llm.planning.cards import find_card, parse_memory
    from erc_llm.recipes.plan import plan_run

    if gpu is not None and memory is not None:
        raise ConfigError("--gpu and --memory both say how large the card is; give one of them")
    card = None if gpu is None else find_card(gpu)
    size = None if memory is None else parse_memory(memory)
    planned = plan_run(load_config(config, overrides or []), card=card, memory=size, utilisation=utilisation)
    if as_json:
        print_json(as_dict(planned))
    else:
        print_plan(planned, open_output())
    if planned.fit is not None and not planned.fit.fits:
        raise typer.Exit(_DOES_NOT_FIT)
