"""The command `baseline`; `erc_llm.cli.app` puts it beside the others.

Thin over `erc_llm.baselines`; heavy libraries are imported inside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from erc_llm.cli.options import open_console, quiet
from erc_llm.errors import UserError

if TYPE_CHECKING:
    from erc_llm.baselines.baseline_config import BaselineConfig
    from erc_llm.corpus import Corpus


def baseline(
    config: Annotated[str, typer.Argument(help="A YAML file, or emonet or emonet-roberta-large.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as kind=compm.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run, or predict by it.")] = False,
    predict: Annotated[
        list[str] | None, typer.Option(help="Also predict this split, to SPLIT.parquet in the run. Repeatable.")
    ] = None,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="EmoNet's five rows instead of one training; finished ones are kept.")
    ] = False,
    seeds: Annotated[
        str | None, typer.Option(help="With --ablate: one training of each row per seed; by default the seed given.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="With --ablate: the split that is scored; by default selection.")
    ] = None,
    without_text: Annotated[bool, typer.Option("--without-text", help="Leave out what was said, to share it.")] = False,
) -> None:
    """Train an encoder baseline (encoder, CoMPM, EmoNet) and write its predictions; or run EmoNet's ablation."""
    from erc_llm.baselines.baseline_config import load_baseline
    from erc_llm.recipes.data import open_corpus, print_warnings

    if ablate and predict:
        raise UserError("--ablate: scores one split, named by --split; leave out --predict")
    if not ablate and (seeds is not None or split is not None):
        raise UserError("--seeds and --split are for --ablate; without it: seed=NUMBER, and --predict SPLIT")
    loaded = load_baseline(config, overrides or [])
    wanted, scored = [loaded.seed] if seeds is None else _seeds(seeds), split or "selection"
    corpus = open_corpus(loaded.corpus, loaded.label_set())
    for name in [scored] if ablate else predict or []:
        corpus.split(name)  # a wrong name is told before anything is trained
    quiet()
    print_warnings(corpus, open_console())
    try:
        if ablate:
            _ablate(loaded, corpus, wanted, scored, not without_text)
        else:
            _train(loaded, corpus, resume, predict or [], not without_text)
    except KeyboardInterrupt:
        again = "the same command" + ("" if ablate else " with --resume")
        typer.echo(f"erc-llm: interrupted; {again} goes on from the last checkpoint", err=True)
        raise typer.Exit(130) from None


def _train(config: BaselineConfig, corpus: Corpus, resume: bool, splits: list[str], with_text: bool) -> None:
    from erc_llm.baselines.training import train_baseline
    from erc_llm.recipes.console import ConsoleProgress

    progress = ConsoleProgress(open_console())
    trained = train_baseline(config, corpus, resume=resume, with_text=with_text, progress=progress)
    typer.echo(f"run: {trained.folder}")
    for split in splits:
        path = trained.write(split, with_text=with_text, progress=progress)
        typer.echo(f"predictions of {split} ({corpus.version}) written to {path}")


def _ablate(config: BaselineConfig, corpus: Corpus, seeds: list[int], split: str, with_text: bool) -> None:
    from rich.markdown import Markdown

    from erc_llm.baselines.ablation import run_ablation
    from erc_llm.recipes.console import ConsoleProgress

    console = open_console()
    done = run_ablation(config, corpus, seeds, split, with_text=with_text, progress=ConsoleProgress(console))
    console.print(Markdown(done.markdown))
    console.print(f"written to {done.path} and .json", markup=False, soft_wrap=True)


def _seeds(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 0 or max(found) >= 2**32 or len(set(found)) < len(found):
        raise UserError(f"--seeds {text}: expected different whole numbers from 0 to 2**32 - 1, such as 13,14,15")
    return found
