"""Table of ingredients: how each arm of a cross-fitted ablation differs from the plain recipe, NLL included.

Weighted and macro F1 are those of answers decided for weighted F1, and NLL that of calibrated probabilities;
calibration and rule of a row are fitted on other episodes than the row's. Differences are paired; intervals resample
whole dialogues, and whole episodes. A table with more rows than the first one counts on the rows of the first. The
folder of a cross-fitting's folds stands for one that was stopped: all tables are then cut to the rows that its finished
folds left out, before anything is fitted.

Input: out-of-fold tables. Output: a Markdown table.
Does not depend on: how arms are trained; `benchmarks.ablation --folds` does that.

    python -m benchmarks.ingredients aligned=a/crossfit.parquet original=b/crossfit.parquet    # against the first one
    python -m benchmarks.ingredients plain=a/crossfit.parquet stopped=runs/stopped-folds
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.crossfitted import difference, percent, signed
from benchmarks.outcome import exit_code
from erc_llm.calibration.select import decide_held_out
from erc_llm.errors import ConfigError
from erc_llm.metrics import Floats, Integers, bootstrap_over_dialogues, gold_surprise, paired_mean_difference
from erc_llm.predictions import Predictions, PriorShift, corpus_shift, read_predictions
from erc_llm.recipes.crossfit_folds import LEFT_OUT_TABLE

HEADER = (
    "| arm | weighted F1 | better by: dialogues | episodes | macro F1 | better by: dialogues | NLL (nats) "
    "| lower by: dialogues | episodes |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def rows(paths: Mapping[str, Path]) -> Iterator[str]:
    """The rows of the table; the first one is what the others are compared with.

    Raises:
        ConfigError: A table lacks rows of the first, or has other gold labels.
    """
    base: Predictions | None = None
    tables = {name: read_folds(path) if path.is_dir() else read_predictions(path) for name, path in paths.items()}
    if any(path.is_dir() for path in paths.values()):
        tables = on_shared_rows(tables)
    for name, table in tables.items():
        decided = on_rows(decide(table), name, labelled_keys(table) if base is None else base.keys)
        if base is not None and (decided.gold_index != base.gold_index).any():
            raise ConfigError(f"{name}: other gold labels than in the first table, so there is nothing to compare")
        yield row(name, decided, base)
        base = base or decided


def on_shared_rows(tables: Mapping[str, Predictions]) -> dict[str, Predictions]:
    """Each table, cut to the labelled rows that all of them have, in the order of the first.

    The order matters: episodes are divided by it into those that a calibration is fitted on and those that it is for.
    """
    shared = set[tuple[str, str]].intersection(*(set(labelled_keys(table)) for table in tables.values()))
    keys = [key for key in next(iter(tables.values())).keys if key in shared]
    return {name: on_rows(table, name, keys) for name, table in tables.items()}


def decide(table: Predictions) -> Predictions:
    """The table, calibrated and decided for weighted F1 by what was fitted on other episodes than a row's."""
    return decide_held_out(table, shift_of(table), "weighted_f1")


def shift_of(table: Predictions) -> PriorShift | None:
    """The shift from the label distribution of training back to that of train."""
    return corpus_shift(table.info.training_prior, table.info.train_shares)


def labelled_keys(table: Predictions) -> list[tuple[str, str]]:
    """The keys of the rows with a gold label, in their order."""
    return [key for key, gold in zip(table.keys, table.gold_index, strict=True) if gold >= 0]


def read_folds(folder: Path) -> Predictions:
    """What the finished folds of a cross-fitting left out, as one table.

    It states its folds, so that it is calibrated over episodes, as the table of all folds is, and not over dialogues.

    Raises:
        ConfigError: No fold is finished.
    """
    tables = [read_predictions(path) for path in sorted(folder.glob(f"*/{LEFT_OUT_TABLE}"))]
    if not tables:
        raise ConfigError(f"{folder}: expected the folds of a cross-fitting, with {LEFT_OUT_TABLE} in a finished one")
    parts = [table.columns() for table in tables]
    joined = {
        c: None if any(part[c] is None for part in parts) else [v for part in parts for v in part[c]] for c in parts[0]
    }
    return Predictions.from_columns(replace(tables[0].info, folds=len(tables)), joined)


def on_rows(table: Predictions, name: str, keys: Sequence[tuple[str, str]]) -> Predictions:
    """The rows of a table that have these keys, in their order."""
    place = {key: i for i, key in enumerate(table.keys)}
    if lacking := sum(key not in place for key in keys):
        raise ConfigError(f"{name}: its table lacks {lacking} of the {len(keys)} rows it is compared on")
    wanted = [place[key] for key in keys]
    columns = {c: None if v is None else [v[i] for i in wanted] for c, v in table.columns().items()}
    return Predictions.from_columns(table.info, columns)


def row(name: str, table: Predictions, base: Predictions | None) -> str:
    """The row of a decided table, with its differences to the first one, `base`."""
    found = bootstrap_over_dialogues(
        table.gold_index, table.predicted_index, table.dialogue_index, len(table.info.labels)
    )
    better = ["", "", "", "", ""]
    if base is not None:
        clusters = (base.dialogue_index, base.episode_index)
        better = [signed(difference(table, base, cluster, "weighted_f1")) for cluster in clusters]
        better.append(signed(difference(table, base, base.dialogue_index, "macro_f1")))
        better += [lower_nll(table, base, cluster) for cluster in clusters]
    f1 = [percent(found.weighted_f1), *better[:2], percent(found.macro_f1), better[2]]
    return f"| {' | '.join([name, *f1, f'{_surprise(table).mean():.4f}', *better[3:]])} |"


def lower_nll(table: Predictions, base: Predictions, cluster: Integers) -> str:
    """By how many nats the mean NLL is lower than that of `base`, with an interval from whole clusters of rows."""
    return signed(paired_mean_difference(_surprise(base), _surprise(table), cluster), 1, 4)


def _surprise(table: Predictions) -> Floats:
    assert table.probabilities is not None, "a decided table has probabilities"
    return gold_surprise(table.probabilities, table.gold_index)


def named_files(texts: Sequence[str]) -> dict[str, Path]:
    """Tables that were given as NAME=FILE.

    Raises:
        ConfigError: A text has another form, or a name is given twice.
    """
    found: dict[str, Path] = {}
    for text in texts:
        name, _, path = text.partition("=")
        if not (name and path) or name in found:
            raise ConfigError(f"'{text}': expected NAME=FILE, with a name of its own for every table")
        found[name] = Path(path)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns exit code 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingredients", description=__doc__)
    parser.add_argument("tables", nargs="+", help="tables as NAME=FILE, or folders of folds as NAME=FOLDER")
    options = parser.parse_args(arguments)

    def show() -> None:
        print(HEADER, *rows(named_files(options.tables)), sep="\n")

    return exit_code(show)


if __name__ == "__main__":
    sys.exit(main())
