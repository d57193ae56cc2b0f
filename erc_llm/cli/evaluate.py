"""The evaluation commands: `evaluate`, `compare` and `benchmark`.

Input: command-line arguments. Output: metrics and comparisons, on the terminal and in files.
Does not depend on: torch and transformers until a benchmark runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from erc_llm.cli.options import AsJson, WithoutText, open_console, open_output, prepare_scoring, print_json, print_note
from erc_llm.errors import UserError

if TYPE_CHECKING:
    from erc_llm.calibration.f1_rules import Metric
    from erc_llm.predictions import Predictions

# Columns that a comparison does not use; text is needed from one table only.
_UNUSED = ("raw_answer", "label_mass")

Decided = Annotated[
    Literal["weighted_f1", "macro_f1"] | None,
    typer.Option(
        "--decide",
        help="For cross-fitted tables: answer each line by the calibration and the rule for this metric that are "
        "fitted on other episodes.",
    ),
]


def compare(
    predictions: Annotated[
        list[str],
        typer.Argument(
            help="Predictions tables; the first is compared with each of the others. NAME=FILE assigns a table to the "
            "system NAME, to group runs of one system."
        ),
    ],
    on: Annotated[
        Literal["all", "intersection"],
        typer.Option(
            help="all: the tables must have the same utterances; intersection: use the utterances that all tables "
            "have, also from different corpora."
        ),
    ] = "all",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for comparison.md with its plots, comparison.html and comparison.json."),
    ] = None,
    draws: Annotated[
        int, typer.Option(help="Number of bootstrap resamples, and of swaps in the permutation test.", min=100)
    ] = 10_000,
    seed: Annotated[int, typer.Option(help="Random seed of resamples and swaps.", min=0)] = 0,
    as_json: AsJson = False,
    decide: Decided = None,
    without_text: WithoutText = False,
) -> None:
    """Compare systems: paired differences with intervals and tests, overall and by subgroup; seeds are grouped."""
    from erc_llm.cli.sections_view import print_sections
    from erc_llm.evaluation.comparison import compare as evidence
    from erc_llm.evaluation.comparison_report import sections, title
    from erc_llm.evaluation.matching import NamedTable

    if len(predictions) < 2:
        raise UserError("compare: expected at least two predictions tables; for one, use `erc-llm evaluate`")
    given = [_named(text) for text in predictions]
    if len({path.resolve() for _, path in given}) < len(given):
        raise UserError("compare: a table is given twice; give every table once")
    tables: list[NamedTable] = []
    for system, path in given:
        has_text = without_text or any(named.table.text is not None for named in tables)
        table = _read(path, decide, (*_UNUSED, "text") if has_text else _UNUSED)
        tables.append(NamedTable(str(path), table, system))
    with open_console().status(f"comparing on {draws:,} resamples and swaps"):
        comparison = evidence(tables, on=on, draws=draws, seed=seed)
    if as_json:
        print_json(comparison.as_dict())
    else:
        print_sections(title(comparison), sections(comparison), open_output())
    if out is not None:
        from erc_llm.evaluation.comparison_pages import write_comparison

        for written in write_comparison(comparison, out):
            print_note(f"written: {written}")


def _named(text: str) -> tuple[str | None, Path]:
    """System and file of NAME=FILE; an existing file whose name contains an equals sign is a file."""
    name, equals, path = text.partition("=")
    return (None, Path(text)) if not equals or not name or Path(text).exists() else (name, Path(path))


def _read(path: Path, decide: Metric | None, unused: Sequence[str] = ()) -> Predictions:
    """A predictions table, with the answers of cross-fitted decision rules if asked for."""
    from erc_llm.calibration.choose import decide_by_others
    from erc_llm.predictions import read_predictions

    table = read_predictions(path, unused)
    return table if decide is None else decide_by_others(table, decide)


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Predictions table (.parquet or .jsonl).")],
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Also show the paired difference to this reference: another table, `all-neutral`, `prior-random`, or "
            "`persistence` for a forecast. Repeatable."
        ),
    ] = None,
    draws: Annotated[int, typer.Option(help="Number of bootstrap resamples.", min=100)] = 10_000,
    abstain_below: Annotated[
        float | None,
        typer.Option(
            help="Also evaluate only the predictions whose probability is at least this. Default: the threshold "
            "recorded in the table, if any.",
            min=0,
            max=1,
        ),
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(help="Folder for the reliability diagram and the risk-coverage curve, as PNG.")
    ] = None,
    as_json: AsJson = False,
    report: Annotated[
        Path | None, typer.Option(help="Also write everything, with plots, to this one HTML file.")
    ] = None,
    decide: Decided = None,
    without_text: WithoutText = False,
) -> None:
    """Print the metrics of a predictions table, with confidence intervals from a bootstrap over whole dialogues."""
    from erc_llm.cli.evaluation_view import print_differences, print_evaluation
    from erc_llm.evaluation.references import difference, reference_by_name
    from erc_llm.evaluation.report import evaluate as evaluate_table

    table = _read(predictions, decide)
    waiting = open_console().status(f"evaluating on {draws:,} resamples")
    with waiting:
        evaluation = evaluate_table(table, draws=draws, abstain_below=abstain_below)
    if plots is not None and evaluation.calibration is None:
        raise UserError(f"--plots: needs probabilities, and {predictions} has none; leave --plots out")
    others = [reference_by_name(table, name) or _read(Path(name), decide) for name in against or []]
    with waiting:
        differences = [difference(table, other, draws=draws) for other in others]
    if as_json:
        print_json(evaluation.as_dict() | {"differences": [each.as_dict() for each in differences]})
    else:
        print_evaluation(evaluation, open_output())
        if differences:
            print_differences(differences, open_output())
    if plots is not None and evaluation.calibration is not None:
        from erc_llm.evaluation.plots import write_plots

        for path in write_plots(evaluation.calibration, plots, f"{table.info.system}, split {table.info.split}"):
            print_note(f"plot: {path}")
    if report is not None:
        from erc_llm.evaluation.evaluation_report import sections, title
        from erc_llm.evaluation.page import write_page

        shown = table.without_text() if without_text else table
        write_page(report, title(evaluation), sections(shown, evaluation, differences))
        print_note(f"report: {report}")


def benchmark(
    name: Annotated[str, typer.Argument(help="YAML file that lists the systems, or the packaged `emorynlp`.")],
    data: Annotated[
        Path,
        typer.Option(
            help="Folder with the corpus versions original/ and aligned/; one of them is enough if every system is "
            "trained on it."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for predictions tables and reports.")] = Path("benchmark"),
    runs: Annotated[Path | None, typer.Option(help="Folder of the run directories. Default: runs in --out.")] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Split to evaluate. Default: all except train. Repeatable.")
    ] = None,
    draws: Annotated[
        int, typer.Option(help="Number of bootstrap resamples, and of swaps in the permutation test.", min=100)
    ] = 10_000,
    without_text: WithoutText = False,
) -> None:
    """Train the reference systems (or reuse finished runs), evaluate them on every available split, and compare."""
    from erc_llm.cli.sections_view import print_sections
    from erc_llm.evaluation.comparison_report import sections, title
    from erc_llm.evaluation.evidence import Comparison
    from erc_llm.recipes.benchmark import BenchmarkPaths, find_versions, run_benchmark
    from erc_llm.recipes.benchmark_config import read_benchmark_config

    def show(comparison: Comparison) -> None:
        print_sections(title(comparison), sections(comparison), open_output())

    console = open_console()
    benchmark = read_benchmark_config(name)
    paths = BenchmarkPaths(find_versions(data, benchmark), runs or out / "runs", out, not without_text)
    prepare_scoring()
    try:
        reports = run_benchmark(benchmark, paths, split or [], draws, console, show)
    except KeyboardInterrupt:
        typer.echo("erc-llm: interrupted; the same command continues", err=True)
        raise typer.Exit(130) from None
    for report in reports:
        print_note(f"report: {report / 'comparison.html'}")
