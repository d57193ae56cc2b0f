"""The commands that look at data and configurations: `data`, `config`, `render` and `profile`.

Does not depend on: torch and transformers until a command runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from erc_llm.cli.options import HealFrom, open_console, quiet

CorpusPath = Annotated[str, typer.Argument(help="A corpus file or folder; `sample` is the embedded corpus.")]


ConfigName = Annotated[str, typer.Option("--config", help="A configuration, for label set, prompt and tokenizer.")]


def data(
    path: CorpusPath,
    heal_from: HealFrom = None,
    config: ConfigName = "sample",
    json_out: Annotated[Path | None, typer.Option("--json", help="Also write the summary as JSON.")] = None,
) -> None:
    """What is in a corpus: splits, labels, speakers, checksums and warnings."""
    import json

    from erc_llm.cli.corpus_view import print_summary
    from erc_llm.config import load_config
    from erc_llm.corpus.summary import summarise
    from erc_llm.files import write_text
    from erc_llm.recipes.data import open_corpus

    loaded = load_config(config)
    section = loaded.corpus.model_copy(update={"path": path, "heal_from": heal_from})
    summary = summarise(open_corpus(section, loaded.label_set(), cut_selection=False))
    print_summary(summary, open_console())
    if json_out:
        write_text(json_out, json.dumps(summary.as_dict(), indent=2, ensure_ascii=False) + "\n")


def config() -> None:
    """Every field of a configuration, with its type, default, range and meaning, as Markdown."""
    from erc_llm.cli.config_reference import reference

    typer.echo(reference(), nl=False)


def render(
    corpus: CorpusPath,
    dialogue: Annotated[str | None, typer.Option(help="Id of the scene; the first one by default.")] = None,
    utterance: Annotated[int | None, typer.Option(help="Number of a line: show exactly its prompt.")] = None,
    tokens: Annotated[bool, typer.Option(help="Show token by token, with ids.")] = False,
    heal_from: HealFrom = None,
    config: ConfigName = "smollm2-135m",
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, as for train.")] = None,
) -> None:
    """A prompt exactly as the model gets it, trained tokens highlighted, with token counts."""
    from erc_llm.build import build_prompter
    from erc_llm.cli.prompt_view import print_prompt
    from erc_llm.config import load_config
    from erc_llm.models.loading import load_tokenizer
    from erc_llm.recipes.data import open_corpus

    loaded = load_config(config, overrides or [])
    section = loaded.corpus.model_copy(update={"path": corpus, "heal_from": heal_from})
    read = open_corpus(section, loaded.label_set(), cut_selection=False)
    quiet()
    prompter = build_prompter(loaded, loaded.label_set(), load_tokenizer(loaded.model.base), past=read)
    print_prompt(prompter, read, dialogue, utterance, tokens, open_console())


def profile(
    corpus: CorpusPath,
    out: Annotated[Path | None, typer.Option(help="Write every profile as a row of this .jsonl file.")] = None,
    split: Annotated[str | None, typer.Option(help="With --out: this split only; all by default.")] = None,
    speaker: Annotated[str | None, typer.Option(help="Print the profile of this person, by full name ...")] = None,
    at: Annotated[str | None, typer.Option(help="... before the scene of this id.")] = None,
    heal_from: HealFrom = None,
    config: ConfigName = "smollm2-135m",
    allow_remote: Annotated[bool, typer.Option(help="Dialogue text may go to a remote profile.endpoint.")] = False,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as profile.writer=lines.")] = None,
) -> None:
    """What prompts say of each speaker's past: every profile as a row, or one with a time line of emotions."""
    from erc_llm.cli.profile_view import check_asked, find_scene, open_view
    from erc_llm.config import load_config
    from erc_llm.recipes.data import open_corpus, print_warnings

    check_asked(out, split, speaker, at)
    loaded, console = load_config(config, overrides or []), open_console()
    section = loaded.corpus.model_copy(update={"path": corpus, "heal_from": heal_from})
    quiet()
    from erc_llm.build import training_view

    read = training_view(open_corpus(section, loaded.label_set(), cut_selection=False), loaded)
    print_warnings(read, console)
    if out is not None:
        if split is not None:
            read.split(split)  # a wrong name is told before anything is loaded
        open_view(loaded, read, console, ask_server=True, allow_remote=allow_remote).write(out, split, console)
    elif speaker is not None and at is not None:
        person = section.aliases.get(speaker, speaker)
        found, dialogue = find_scene(read, at, person)
        open_view(loaded, read, console).show(person, found, dialogue, console)
