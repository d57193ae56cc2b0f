"""Cross-fittings for tests, and comparisons between them.

The command runs in child processes (`tests.forked`), where a kill costs a fraction of a second and every run computes
on one thread; the folds of the fixture are trained once.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from erc_llm.calibration.store import read_calibration
from erc_llm.config import RunConfig
from erc_llm.corpus import Dialogue, read_corpus
from erc_llm.corpus.splits import episode_of, fold_episodes
from erc_llm.predictions import Predictions, read_predictions
from erc_llm.runs.directory import Run, read_run
from erc_llm.runs.logs import read_lines
from tests.forked import run_apart
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config

FOLDS = 2
SCENES = 16  # of train; two make an episode
WEIGHTS = "adapter/adapter_model.safetensors"
ONE_BY_ONE = ("--folds", str(FOLDS), "--workers", "1")
Place = tuple[str, str, int]  # (module, dotted name in it, n): the n-th call of a function


@dataclass(frozen=True)
class Crossfitted:
    """A finished cross-fitting; do not change it.

    Attributes:
        config: Its configuration file.
        corpus: Its corpus.
        folder: The run directory of the average; those of the folds are beside it.
    """

    config: Path
    corpus: Path
    folder: Path

    @property
    def run(self) -> Run:
        return read_run(self.folder)

    @property
    def table(self) -> Predictions:
        return read_predictions(self.folder / "crossfit.parquet")

    def fold(self, number: int) -> Path:
        return self.folder.parent / f"{self.folder.name}-folds" / f"fold-{number}"

    def left_out(self, number: int) -> Predictions:
        return read_predictions(self.fold(number) / "left_out.parquet")


def crossfit_apart(*arguments: object, kill: Place | None = None, operation: int | None = None) -> int:
    """`erc-llm crossfit ARGUMENTS` in a child; returns its exit code, negative for a signal.

    Args:
        *arguments: The arguments.
        kill: The child kills itself when this function is called.
        operation: The child kills itself at the n-th change of a file below the run's output.
    """
    return run_apart(_crossfit, [str(a) for a in arguments], kill, operation)


def _crossfit(arguments: list[str], kill: Place | None, operation: int | None) -> None:
    import torch

    from erc_llm import cli

    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    sys.argv = ["erc-llm", "crossfit", *arguments]
    if kill is not None:
        _die_in(*kill)
    if operation is not None:
        _die_at_operation(operation, yaml.safe_load(Path(arguments[0]).read_text("utf-8"))["output"])
    cli.main()


def _die_in(module: str, name: str, number: int) -> None:
    *path, last = name.split(".")
    owner: Any = import_module(module)
    for part in path:
        owner = getattr(owner, part)
    original, left = getattr(owner, last), number

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, last, counted)


def _die_at_operation(number: int, output: str) -> None:
    watched, left = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}, number

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal left
        opened = event == "open" and isinstance(args[1], str) and args[1][:1] in "wax"
        if (opened or event in watched) and isinstance(args[0], (str, os.PathLike)) and output in str(args[0]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def write_config(model: TinyModel, corpus: Path, folder: Path, **sections: Any) -> Path:
    """The file of a configuration whose runs are below `folder`; `sections` are merged in."""
    training = {"epochs": 2, "tokens_per_step": 300, "evaluations": 1, "learning_rate": 1e-3, "checkpoint_minutes": 0}
    sections["training"] = training | sections.get("training", {})
    config = tiny_config(model, corpus, folder / "runs", **{"lora": {"dropout": 0.1}} | sections)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(config.as_yaml(), encoding="utf-8")
    return path


def read_config(path: Path) -> RunConfig:
    return RunConfig.model_validate(yaml.safe_load(path.read_text("utf-8")))


def crossfitted(model: TinyModel, corpus: Path, folder: Path, **sections: Any) -> Crossfitted:
    config = write_config(model, corpus, folder, **sections)
    assert crossfit_apart(config, *ONE_BY_ONE) == 0
    return Crossfitted(config, corpus, folder / "runs" / "tiny")


def scenes_of(corpus: Path, number: int) -> list[Dialogue]:
    """The scenes that a fold leaves out, in train's order."""
    data = read_corpus(corpus)
    part = fold_episodes(data, FOLDS)[number - 1]
    return [d for d in data.split("train") if episode_of(d) in part]


def same_table(one: Predictions, other: Predictions) -> None:
    """Equal columns, likelihoods to the bit."""
    assert one.columns() == other.columns()
    assert one.info == other.info


def same_results(one: Crossfitted, other: Crossfitted) -> None:
    """The same adapters, tables and rules."""
    for number in range(1, FOLDS + 1):
        assert (one.fold(number) / WEIGHTS).read_bytes() == (other.fold(number) / WEIGHTS).read_bytes()
        same_table(one.left_out(number), other.left_out(number))
    assert (one.folder / WEIGHTS).read_bytes() == (other.folder / WEIGHTS).read_bytes()
    same_table(one.table, other.table)
    assert read_calibration(one.run) == read_calibration(other.run)
    assert one.run.manifest == other.run.manifest
    names = [{path.name for path in of.folder.iterdir()} for of in (one, other)]
    assert names[0] == names[1]


def relabel(path: Path, which: Callable[[dict[str, Any]], bool]) -> None:
    """Move the labels of the chosen scenes one target on within their episode, so that its counts stay."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    by_episode: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for row in filter(which, rows):
        by_episode.setdefault((row["season"], row["episode"]), []).extend(row["utterances"])
    changed = 0
    for lines in by_episode.values():
        labels = [line["label"] for line in lines]
        for line, label in zip(lines, labels[1:] + labels[:1], strict=True):
            changed += line["label"] != label
            line["label"] = label
    assert changed
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def relabelled_fold(corpus: Path, folder: Path, number: int = 1) -> Path:
    """A copy of the corpus with other labels in the episodes that a fold leaves out; the folds are the same."""
    changed = Path(shutil.copytree(corpus, folder))
    ids = {d.id for d in scenes_of(corpus, number)}
    relabel(changed / "train.jsonl", lambda row: row["id"] in ids)
    one, other = (read_corpus(path) for path in (corpus, changed))
    assert one.train_sha256 != other.train_sha256
    assert fold_episodes(one, FOLDS) == fold_episodes(other, FOLDS)
    return changed


def scores(run: Path) -> list[dict[str, Any]]:
    """The selection scores of a run, without times."""
    log = run / "selection.jsonl"
    records = read_lines(log) if log.exists() else []
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def steps(run: Path) -> list[dict[str, Any]]:
    """The log of a run's steps, without times."""
    return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in read_lines(run / "training.jsonl")]


def check_blind(one: Crossfitted, other: Crossfitted) -> None:
    """Fold 1 is the same, fold 2 is not: it is trained on what fold 1 leaves out."""
    assert (one.fold(1) / WEIGHTS).read_bytes() == (other.fold(1) / WEIGHTS).read_bytes()
    assert scores(one.fold(1)) == scores(other.fold(1))
    assert steps(one.fold(1)) == steps(other.fold(1))
    tables = [of.left_out(1) for of in (one, other)]
    for name in ("keys", "predicted"):
        assert getattr(tables[0], name) == getattr(tables[1], name)
    for name in ("log_likelihoods", "probabilities", "label_mass"):
        np.testing.assert_array_equal(getattr(tables[0], name), getattr(tables[1], name))
    assert tables[0].gold != tables[1].gold
    for name in ("train_shares", "training_prior"):
        assert getattr(read_run(one.fold(1)).manifest, name) == getattr(read_run(other.fold(1)).manifest, name)
    assert (one.fold(2) / WEIGHTS).read_bytes() != (other.fold(2) / WEIGHTS).read_bytes(), "the labels matter"
