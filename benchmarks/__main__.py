"""`python -m benchmarks [PART]`: runs the benchmarks and prints their tables.

Input: which part to measure, on which corpus and configuration. Output: tables on the terminal; of all parts together,
or with `--out`, also a JSON file and a Markdown page.
Does not depend on: how a part is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from benchmarks import (
    baselines,
    breakdown,
    calibration,
    comparison,
    generation,
    llama2_7b,
    matmul,
    profiles,
    scoring,
    training,
)
from benchmarks.measure import Job, Result
from benchmarks.outcome import exit_code
from benchmarks.report import as_markdown, print_tables
from benchmarks.workload import Settings
from erc_llm.errors import UserError
from erc_llm.files import write_text

# A few minutes per round on two cores with bf16 units; the peers read every scene once or seven times per utterance.
TRAINING_SCENES, SCORING_SCENES = 16, 24
OUT = Path("docs/results/benchmarks.json")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0])
    parser.epilog = "python -m benchmarks llama2-7b --help: LLaMA-2-7B's road with random weights"
    measured = ("training", "scoring", "generation", "profiles", "calibration", "comparison", "baselines", "matmul")
    parts = (*measured, "all")
    parser.add_argument("what", nargs="?", default="all", choices=parts)
    parser.add_argument("--corpus", help="corpus; default: `aligned` in $ERC_LLM_EMORYNLP, else the embedded sample")
    parser.add_argument("--config", default="smollm2-135m", help="configuration of prompt, model, adapter, training")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a configuration field")
    parser.add_argument("--run", help="score with this run's adapter and configuration instead of the base model")
    scenes = f"scenes drawn for each part; default: {TRAINING_SCENES} for training, {SCORING_SCENES} for scoring"
    parser.add_argument("--scenes", type=int, help=scenes)
    parser.add_argument("--pairs", type=int, default=3, help="number of rounds; each side runs once per round")
    parser.add_argument("--padding-free", action="store_true", help="also train with TRL's padding-free batches")
    parser.add_argument("--profile", action="store_true", help="also show the operators that take the most time")
    parser.add_argument(
        "--out", type=Path, help=f"JSON file to write; default: {OUT} for all parts, none for a single part"
    )
    return parser


def measure_all(options: argparse.Namespace, console: Console) -> Result:
    """Measure the selected parts; returns one report."""
    corpus = options.corpus or _default_corpus()
    settings = Settings(corpus, options.config, tuple(options.set), options.run)
    began = time.monotonic()

    def on_run(number: int, job: Job, result: Result) -> None:
        minutes = (time.monotonic() - began) / 60
        console.print(f"[{minutes:5.1f} min] round {number + 1}, {job.name}: {result['seconds']:.1f} s", markup=False)

    report: Result = {
        # Reports contain names only: the folders of this machine mean nothing to other readers.
        "settings": {**asdict(settings), "corpus": None, "run": None}
        | {"corpus_name": Path(corpus).name, "run_name": Path(options.run).name if options.run else None},
        "rounds": options.pairs,
        "matmul": matmul.measure(settings),
    }
    training_scenes, scoring_scenes = options.scenes or TRAINING_SCENES, options.scenes or SCORING_SCENES
    if options.what in ("training", "all"):
        report["training"] = training.compare(settings, training_scenes, options.pairs, options.padding_free, on_run)
    if options.what in ("scoring", "all"):
        report["scoring"] = scoring.compare(settings, scoring_scenes, options.pairs, on_run)
    if options.what in ("generation", "all"):
        report["generation"] = generation.compare(settings, training_scenes, options.pairs, on_run)
    if options.what in ("profiles", "all"):
        report["profiles"] = profiles.compare(settings, options.pairs, on_run)
    if options.what in ("calibration", "all"):
        report["calibration"] = calibration.compare(options.pairs, on_run)
    if options.what in ("baselines", "all"):
        report["baselines"] = baselines.compare(corpus, training_scenes, options.pairs, on_run)
    if options.what in ("comparison", "all"):
        report["comparison"] = comparison.compare(options.pairs, on_run)
    report["shares"] = matmul.shares(report["matmul"], report)
    if options.profile:
        report["profile"] = breakdown.measure(settings, training_scenes)
    return report


def _default_corpus() -> str:
    folder = os.environ.get("ERC_LLM_EMORYNLP")
    return str(Path(folder) / "aligned") if folder else "sample"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks; returns exit code 2 for a mistake of the user."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == ["llama2-7b"]:  # writes 14 GB, has options of its own, and is not part of `all`
        return llama2_7b.main(words[1:])
    options = _parser().parse_args(words)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120)
    if options.pairs < 1 or (options.scenes is not None and options.scenes < 1):
        raise UserError("--pairs and --scenes must be at least 1")
    report = measure_all(options, console)
    print_tables(report, console)
    out = options.out or (OUT if options.what == "all" else None)
    if out is not None:
        write_text(out, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        write_text(out.with_suffix(".md"), as_markdown(report))
        console.print(f"written to {out} and {out.with_suffix('.md')}", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
