"""End-to-end training of baselines, with a report in each run directory.

Input: a configuration, and the corpus with its selection split cut. Output: run directories.
Does not depend on: how baselines are trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from erc_llm.baselines.baseline_config import BaselineConfig
from erc_llm.corpus import Corpus
from erc_llm.corpus.dialogues import SELECTION
from erc_llm.recipes.run_report import write_run_report
from erc_llm.runs.progress import SILENT, Progress

if TYPE_CHECKING:
    from erc_llm.baselines.ablation import Ablation
    from erc_llm.baselines.training import TrainedBaseline


def train_reported(
    config: BaselineConfig,
    corpus: Corpus,
    *,
    resume: bool = False,
    with_text: bool = True,
    progress: Progress = SILENT,
) -> TrainedBaseline:
    """`train_baseline`, and the report of the run; arguments and errors are the same.

    The report of a finished run is written again, so that it has no text if the run's tables have none any more.
    """
    from erc_llm.baselines.training import train_baseline

    trained = train_baseline(config, corpus, resume=resume, with_text=with_text, progress=progress)
    _report(config, progress)
    return trained


def ablate_reported(
    config: BaselineConfig, corpus: Corpus, seeds: Sequence[int], split: str, *, with_text: bool, progress: Progress
) -> Ablation:
    """`run_ablation`, and the report of each of its runs; arguments and errors are the same."""
    from erc_llm.baselines.ablation import row_config, run_ablation
    from erc_llm.baselines.emonet import ABLATION

    done = run_ablation(config, corpus, seeds, split, with_text=with_text, progress=progress)
    for seed in seeds:
        for row in ABLATION:
            _report(row_config(config, row, seed), progress)
    return done


def _report(config: BaselineConfig, progress: Progress) -> None:
    folder = Path(config.output) / config.name
    write_run_report(folder, config.name, progress, folder / f"{SELECTION}.parquet")
