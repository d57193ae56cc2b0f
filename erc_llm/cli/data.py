"""The commands that inspect data and configurations: `data`, `config`, `render` and `profile`.

Input: command-line arguments. Output: text on the terminal, and files if requested.
Does not depend on: torch and transformers until a command runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erc_llm.cli.completion import complete_config, complete_corpus
from erc_llm.cli.options import (
    AsJson,
    HealFrom,
    Overrides,
    open_console,
    open_output,
    print_json,
    print_note,
    silence_libraries,
)

CorpusPath = Annotated[
    str,
    typer.Argument(help="Corpus file or folder; `sample` is the embedded corpus.", autocompletion=complete_corpus),
]
ConfigName = Annotated[
    str,
    typer.Option(
        "--config",
        help="YAML file or packaged configuration, for the label set, prompt and tokenizer.",
        autocompletion=complete_config,
    ),
]


def data(
    path: CorpusPath,
    heal_from: HealFrom = None,
    config: ConfigName = "sample",
    as_json: AsJson = False,
) -> None:
    """Show the content of a corpus: splits, label distribution, speakers, checksums and warnings."""
    from erc_llm.cli.corpus_view import print_summary
    from erc_llm.config import load_config
    from erc_llm.corpus.summary import summarise
    from erc_llm.recipes.data import open_whole

    loaded = load_config(config)
    summary = summarise(open_whole(loaded, path, heal_from))
    if as_json:
        print_json(summary.as_dict())
    else:
        print_summary(summary, open_output())


def config() -> None:
    """Print every configuration field with its type, default, range and meaning, as Markdown."""
    from erc_llm.cli.config_reference import reference

    typer.echo(reference(), nl=False)


def render(
    corpus: CorpusPath,
    dialogue: Annotated[str | None, typer.Option(help="Id of the dialogue. Default: the first one.")] = None,
    utterance: Annotated[
        int | None, typer.Option(help="Number of an utterance, from 1: show only the prompt for this utterance.")
    ] = None,
    tokens: Annotated[bool, typer.Option(help="Show every token with its id.")] = False,
    heal_from: HealFrom = None,
    config: ConfigName = "smollm2-135m",
    overrides: Overrides = None,
) -> None:
    """Show a prompt exactly as the model gets it, with trained tokens highlighted and token counts."""
    from erc_llm.build import build_prompter
    from erc_llm.cli.prompt_view import print_prompt
    from erc_llm.config import load_config
    from erc_llm.models.loading import load_tokenizer
    from erc_llm.recipes.data import open_whole

    loaded = load_config(config, overrides or [])
    read = open_whole(loaded, corpus, heal_from)
    silence_libraries()
    prompter = build_prompter(loaded, loaded.label_set(), load_tokenizer(loaded.model.base), past=read)
    print_prompt(prompter, read, dialogue, utterance, tokens, open_output())


def export_prompts(
    corpus: CorpusPath,
    out: Annotated[Path, typer.Option(help="Folder of the dataset, which `datasets.load_from_disk` reads.")],
    split: Annotated[
        str,
        typer.Option(
            help="Split whose labelled utterances are written. train is without the episodes that training holds out, "
            "which are the split selection; with training.evaluations=0 none are."
        ),
    ] = "train",
    heal_from: HealFrom = None,
    config: ConfigName = "smollm2-135m",
    overrides: Overrides = None,
) -> None:
    """Write the prompts of a split as a dataset for other trainers: TRL's prompt and completion, one row per target."""
    from erc_llm.config import load_config
    from erc_llm.recipes.data import open_whole, print_warnings, with_selection
    from erc_llm.recipes.export_prompts import export_prompts

    loaded = load_config(config, overrides or [])
    read = open_whole(loaded, corpus, heal_from)
    if loaded.holds_out_selection:
        read = with_selection(read, loaded.corpus)
    silence_libraries()
    print_warnings(read, open_console())
    rows = export_prompts(loaded, read, split, out)
    print_note(f"{rows} prompts of {split} ({read.version}) written to {out}")


def profile(
    corpus: CorpusPath,
    out: Annotated[Path | None, typer.Option(help="Write all profiles to this .jsonl file, one per row.")] = None,
    split: Annotated[str | None, typer.Option(help="With --out: only this split. Default: all splits.")] = None,
    speaker: Annotated[
        str | None, typer.Option(help="With --at: show the profile of this speaker, given by full name.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="With --speaker: id of the dialogue before which the profile is shown.")
    ] = None,
    heal_from: HealFrom = None,
    config: ConfigName = "smollm2-135m",
    allow_remote: Annotated[
        bool, typer.Option(help="Allow dialogue text to be sent to a profile.endpoint on another machine.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Show a speaker's profile before a dialogue, its sources and a time line of emotions, or write all profiles."""
    from erc_llm.cli.profile_view import check_options, find_scene, open_view
    from erc_llm.config import load_config
    from erc_llm.recipes.data import open_whole, print_warnings

    check_options(out, split, speaker, at)
    loaded, console = load_config(config, overrides or []), open_console()
    silence_libraries()
    from erc_llm.build import training_view

    read = training_view(open_whole(loaded, corpus, heal_from), loaded)
    print_warnings(read, console)
    if out is not None:
        if split is not None:
            read.split(split)  # a wrong name fails before anything is loaded
        open_view(loaded, read, console, ask_server=True, allow_remote=allow_remote).write(out, split, console)
    elif speaker is not None and at is not None:
        person = loaded.corpus.aliases.get(speaker, speaker)
        found, dialogue = find_scene(read, at, person)
        open_view(loaded, read, console).show(person, found, dialogue, open_output())
