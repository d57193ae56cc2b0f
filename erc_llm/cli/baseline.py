"""The command `baseline`: trains encoder baselines and runs EmoNet's ablation.

Input: command-line arguments. Output: run directories and predictions tables, written by `recipes.baseline`.
Does not depend on: torch and transformers until the command runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from erc_llm.cli.completion import complete_baseline_field, complete_config
from erc_llm.cli.options import WithoutText, open_console, open_output, print_note, silence_libraries
from erc_llm.errors import UserError

if TYPE_CHECKING:
    from erc_llm.baselines.baseline_config import BaselineConfig
    from erc_llm.calibration.record import F1Decide
    from erc_llm.corpus import Corpus


def baseline(
    config: Annotated[
        str,
        typer.Argument(
            help="YAML file, or a packaged one: emonet, emonet-mpnet, emonet-roberta-large.",
            autocompletion=complete_config,
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Fields to change, as section.field=value, for example kind=compm.",
            autocompletion=complete_baseline_field,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an unfinished run; a finished one is only used to predict.")
    ] = False,
    predict: Annotated[
        list[str] | None,
        typer.Option(help="Also predict this split, into SPLIT.parquet in the run directory. Repeatable."),
    ] = None,
    decide: Annotated[
        Literal["probable", "weighted_f1", "macro_f1"] | None,
        typer.Option(
            help="With --predict: correct the scores by a prior and a calibration, and answer by a rule, all found on "
            "the selection split. Default: uncorrected, the most probable label."
        ),
    ] = None,
    ablate: Annotated[
        bool,
        typer.Option(
            "--ablate", help="Train the five rows of EmoNet's ablation instead of one model; finished runs are reused."
        ),
    ] = False,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="With --ablate: seeds, such as 13,14,15; each row is trained once per seed. Default: the "
            "configuration's seed."
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="With --ablate: the split to evaluate. Default: selection.")] = None,
    without_text: WithoutText = False,
) -> None:
    """Train an encoder baseline (plain encoder, CoMPM or EmoNet) and predict with it, or run EmoNet's ablation."""
    from erc_llm.baselines.baseline_config import load_baseline
    from erc_llm.recipes.data import open_corpus, print_warnings

    splits = predict or []
    if decide is not None and (not splits or "selection" in splits):
        raise UserError("--decide: needs --predict with other splits than selection, on which the rule is found")
    if ablate and predict:
        raise UserError("--ablate: evaluates one split, given by --split; leave --predict out")
    if not ablate and (seeds is not None or split is not None):
        raise UserError("--seeds and --split require --ablate; without it, use seed=NUMBER and --predict SPLIT")
    loaded = load_baseline(config, overrides or [])
    wanted, scored = [loaded.seed] if seeds is None else _seeds(seeds), split or "selection"
    corpus = open_corpus(loaded.corpus, loaded.label_set())
    for name in [scored] if ablate else splits:
        corpus.split(name)  # a wrong name fails before anything is trained
    silence_libraries()
    print_warnings(corpus, open_console())
    try:
        if ablate:
            _ablate(loaded, corpus, wanted, scored, not without_text)
        else:
            _train(loaded, corpus, resume, splits, decide, not without_text)
    except KeyboardInterrupt:
        again = "the same command" + ("" if ablate else " with --resume")
        typer.echo(f"erc-llm: interrupted; {again} continues from the last checkpoint, if there is one", err=True)
        raise typer.Exit(130) from None


def _train(
    config: BaselineConfig, corpus: Corpus, resume: bool, splits: list[str], decide: F1Decide | None, with_text: bool
) -> None:
    from erc_llm.recipes.baseline import train_reported
    from erc_llm.recipes.console import ConsoleProgress

    progress = ConsoleProgress(open_console())
    trained = train_reported(config, corpus, resume=resume, with_text=with_text, progress=progress)
    print_note(f"run: {trained.folder}")
    for split in splits:
        path = trained.write(split, decide=decide, with_text=with_text, progress=progress)
        print_note(f"predictions of {split} ({corpus.version}) written to {path}")


def _ablate(config: BaselineConfig, corpus: Corpus, seeds: list[int], split: str, with_text: bool) -> None:
    from rich.markdown import Markdown

    from erc_llm.recipes.baseline import ablate_reported
    from erc_llm.recipes.console import ConsoleProgress

    progress = ConsoleProgress(open_console())
    done = ablate_reported(config, corpus, seeds, split, with_text=with_text, progress=progress)
    open_output().print(Markdown(done.markdown))
    print_note(f"written to {done.path} and .json")


def _seeds(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 0 or max(found) >= 2**32 or len(set(found)) < len(found):
        raise UserError(f"--seeds {text}: expected different whole numbers from 0 to 2**32 - 1, such as 13,14,15")
    return found
