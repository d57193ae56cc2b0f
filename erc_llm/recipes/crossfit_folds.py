"""The folds of a cross-fitting: how train is divided, where their runs lie, and what they predict as one table.

Input: a corpus, a configuration, the folds' tables. Output: a configuration for each fold, the joined table.
Does not depend on: how folds are trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from erc_llm.config import FoldConfig, Recipe
from erc_llm.corpus import Corpus
from erc_llm.corpus.dialogues import LEFT_OUT
from erc_llm.corpus.splits import episode_of, fold_episodes
from erc_llm.errors import PredictionsError
from erc_llm.predictions import Prediction, Predictions, PredictionsInfo, read_predictions
from erc_llm.recipes.average import mean_distribution
from erc_llm.recipes.side_by_side import jobs_at_once

C = TypeVar("C", bound=Recipe)

LEFT_OUT_TABLE = f"{LEFT_OUT}.parquet"


@dataclass(frozen=True, slots=True)
class Folds:
    """How train is divided and how the folds are run.

    Attributes:
        count: Number of folds.
        seed: Seed of the division into folds.
        at_once: Number of folds at a time; None: one per GPU, without any one per core. See `side_by_side`.
        with_text: Keep the text of the utterances in the tables.
        first: Train only as many, the first ones; None: all.
    """

    count: int = 5
    seed: int = 13
    at_once: int | None = None
    with_text: bool = True
    first: int | None = None

    @property
    def trained(self) -> int:
        """Number of folds to train."""
        return self.count if self.first is None else min(self.first, self.count)

    @property
    def side_by_side(self) -> int:
        """Number of folds at a time."""
        return min(self.trained, self.at_once or jobs_at_once(self.trained))

    def parts(self, corpus: Corpus) -> tuple[frozenset[str], ...]:
        """The episodes that each of the folds to train leaves out.

        Raises:
            CorpusError: Train has fewer episodes than folds.
        """
        return fold_episodes(corpus, self.count, self.seed)[: self.trained]


def folds_folder(config: Recipe) -> Path:
    """The folder of the runs of a cross-fitting's folds."""
    return Path(config.output) / f"{config.name}-folds"


def first_folds_table(config: Recipe) -> Path:
    """The table of what the first folds left out, where only these were trained."""
    return folds_folder(config) / LEFT_OUT_TABLE


def fold_configs(config: C, folds: Folds) -> list[C]:
    """The configuration of the run of each fold to train."""
    found = []
    for number in range(1, folds.trained + 1):
        fold = FoldConfig(number=number, folds=folds.count, seed=folds.seed)
        corpus = config.corpus.model_copy(update={"fold": fold})
        own = {"name": f"fold-{number}", "output": str(folds_folder(config)), "corpus": corpus}
        found.append(config.model_copy(update=own))
    return found


def is_predicted(path: Path, run_id: str, corpus_sha256: str) -> bool:
    """Whether a table is there, by this run and of this corpus."""
    if not path.is_file():
        return False
    info = read_predictions(path).info
    return (info.run_id, info.corpus_sha256) == (run_id, corpus_sha256)


def join_folds(tables: Sequence[Predictions], corpus: Corpus, folds: Folds, config: Recipe, run_id: str) -> Predictions:
    """The out-of-fold table: each target as predicted by the fold that left it out, without correction.

    Args:
        tables: The trained folds' tables of the episodes that they left out.
        corpus: The whole corpus.
        folds: The folds; with all of them trained, the table is of all of train.
        config: The configuration that the folds share.
        run_id: Run id of the table.

    Raises:
        PredictionsError: The tables do not hold every target of these folds exactly once.
    """
    info = replace(joined_info([table.info for table in tables], config, run_id), split="train")
    rows = {key: (table, row) for table in tables for row, key in enumerate(table.keys)}
    left_out = frozenset[str]().union(*folds.parts(corpus))
    dialogues = [d for d in corpus.split("train") if episode_of(d) in left_out]
    wanted = [(d.id, d.utterances[k].id) for d in dialogues for k in d.targets]
    if set(wanted) != rows.keys() or sum(map(len, tables)) != len(wanted):
        raise PredictionsError(
            f"the folds' tables hold {sum(map(len, tables))} targets, the corpus has {len(wanted)} for them: it has "
            "changed since; choose another name="
        )
    predictions = (_prediction(*rows[key]) for key in wanted)
    joined = Predictions.from_corpus(info, dialogues, predictions, corpus.dialogues(), corpus.generic)
    return joined if folds.with_text else joined.without_text()


def _prediction(table: Predictions, row: int) -> Prediction:
    """One row of a table that was written by scores."""

    def values(column: NDArray[np.float64] | None) -> list[float] | None:
        return None if column is None else column[row].tolist()

    return Prediction(
        predicted=table.predicted[row],
        log_likelihoods=values(table.log_likelihoods),
        probabilities=values(table.probabilities),
        label_mass=None if table.label_mass is None else float(table.label_mass[row]),
    )


def joined_info(of_folds: Sequence[PredictionsInfo], config: Recipe, run_id: str) -> PredictionsInfo:
    """Metadata of a table that joins those of several folds, of the same split."""

    def mean(distributions: Sequence[tuple[float, ...] | None]) -> tuple[float, ...] | None:
        known = [values for values in distributions if values is not None]
        return mean_distribution(known) if known else None

    return replace(
        of_folds[0],
        system=config.name,
        folds=len(of_folds),
        run_id=run_id,
        config_sha256=config.sha256,
        recipe_sha256=config.recipe_sha256,
        train_shares=mean([info.train_shares for info in of_folds]),
        training_prior=mean([info.training_prior for info in of_folds]),
    )
