"""Training runs as the page follows them: step, loss, selection score, time left, and the finished report.

It reads what a run writes for everybody (`training.jsonl`, `selection.jsonl`, `config.yaml`, `manifest.json`), so a
training run need not know that it is watched. The time left is that of the last steps between two looks at the log; at
the first look it is that of all steps since the configuration was written.

Input: folders. Output: `Watched` records.
Does not depend on: HTTP, models, how runs are trained.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from erc_llm.errors import RunError
from erc_llm.evaluation.training_report import thinned
from erc_llm.runs.directory import CONFIG, REPORT
from erc_llm.runs.logs import SELECTION_LOG, TRAINING_LOG, read_lines
from erc_llm.runs.manifest import FINISHED, MANIFEST

_MOST_RUNS, _MOST_POINTS = 100, 300
_DEPTH = 2  # runs/NAME-folds/fold-1
_SHORTEST = 5.0  # seconds between two looks from which a speed is taken


class Score(NamedTuple):
    """A score on the selection split: optimizer step, weighted F1 as a fraction, and whether it was the best so far."""

    step: int
    weighted_f1: float
    best: bool


@dataclass(frozen=True, slots=True)
class Watched:
    """A training run.

    Attributes:
        id: Short name of its folder for addresses.
        name: Its folder, from the one that is followed on.
        state: `training`, `finished`, or `starting` before its first logged step.
        step: The last logged optimizer step.
        total: Steps of all epochs, estimated from the last logged step; None if unknown or finished. Early stopping may
            end before.
        epoch: Passes over train so far.
        loss: The last logged loss, in nats; None before the first.
        best: The best weighted F1 on the selection split, a fraction; None before the first.
        seconds_left: Time to the last step at the speed so far; None if unknown or finished.
        seconds_since: Time since the log was last written; None without a log.
        has_report: Whether its report can be opened.
    """

    id: str
    name: str
    state: str
    step: int
    total: int | None
    epoch: float
    loss: float | None
    best: float | None
    seconds_left: float | None
    seconds_since: float | None
    has_report: bool


class Watcher:
    """Follows runs.

    Args:
        roots: Runs, or folders of runs down to two levels.
        now: Returns the time in seconds since the epoch, as files' times are given.
    """

    def __init__(self, roots: Sequence[Path], now: Callable[[], float] = time.time) -> None:
        self.roots, self._now = tuple(roots), now
        self._seen: dict[Path, tuple[float, int]] = {}  # time of the log and step at the first look

    def runs(self) -> tuple[Watched, ...]:
        """The runs, those whose log was written last first."""
        found = sorted(self._folders().items(), key=lambda item: -_written(item[1][1]))
        return tuple(self._watched(key, name, folder) for key, (name, folder) in found[:_MOST_RUNS])

    def curves(self, name: str) -> tuple[tuple[tuple[float, float], ...], tuple[Score, ...]]:
        """(step, loss) of a run's log, thinned, and its scores on the selection split.

        Raises:
            RunError: There is no such run.
        """
        folder = self.folder(name)
        steps = [(float(r["step"]), float(r["loss"])) for r in read_lines(folder / TRAINING_LOG) if _has(r, "loss")]
        return thinned(steps, _MOST_POINTS) if steps else (), _scores(folder)

    def report(self, name: str) -> Path:
        """The file of a run's report.

        Raises:
            RunError: There is no such run, or it has no report.
        """
        path = self.folder(name) / REPORT
        if not path.is_file():
            raise RunError(f"{path}: no such file; a training run writes it when it is finished")
        return path

    def folder(self, name: str) -> Path:
        """The folder of a run.

        Raises:
            RunError: There is no such run.
        """
        folders = self._folders()
        if name not in folders:
            raise RunError("no such training run any more; reload the page")
        return folders[name][1]

    def _folders(self) -> dict[str, tuple[str, Path]]:
        """For each run its id: its name, which begins with the folder that is followed, and its folder."""
        found = ((root, folder) for root in self.roots for folder in _runs_below(root, _DEPTH))
        return {
            hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]: (_name(root, folder), folder)
            for root, folder in found
        }

    def _watched(self, key: str, name: str, folder: Path) -> Watched:
        log = read_lines(folder / TRAINING_LOG)
        last: Mapping[str, Any] = log[-1] if log else {}
        step, epoch = int(last.get("step", 0)), float(last.get("epoch", 0.0))
        finished = _status(folder) == FINISHED
        epochs = _epochs(folder)
        total = round(step * epochs / epoch) if epochs and epoch > 0 and not finished else None
        scores = _scores(folder)
        written = _time(folder / TRAINING_LOG)
        return Watched(
            id=key,
            name=name,
            state="finished" if finished else "training" if log else "starting",
            step=step,
            total=total,
            epoch=epoch,
            loss=float(last["loss"]) if _has(last, "loss") else None,
            best=max((score.weighted_f1 for score in scores), default=None),
            seconds_left=None if finished else self._seconds_left(folder, step, total, written),
            seconds_since=None if written is None else max(0.0, self._now() - written),
            has_report=(folder / REPORT).is_file(),
        )

    def _seconds_left(self, folder: Path, step: int, total: int | None, written: float | None) -> float | None:
        if total is None or written is None:
            return None
        began, first = self._seen.setdefault(folder, (written, step))
        if step < first:  # resumed from an earlier step
            self._seen[folder] = began, first = written, step
        if written - began < _SHORTEST:
            began, first = _time(folder / CONFIG) or written, 0
        if step <= first or written <= began:
            return None
        return (total - step) * (written - began) / (step - first)


def _runs_below(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / CONFIG).is_file():
        logged = (folder / TRAINING_LOG).is_file() or (folder / REPORT).is_file()
        if logged or _status(folder) != FINISHED:  # exports and averages have no log
            yield folder
    elif depth and folder.is_dir():
        for inside in sorted(folder.iterdir()):
            if inside.is_dir() and not inside.name.startswith("."):
                yield from _runs_below(inside, depth - 1)


def _name(root: Path, folder: Path) -> str:
    return str(Path(root.resolve().name) / folder.resolve().relative_to(root.resolve()))


def _scores(folder: Path) -> tuple[Score, ...]:
    records = [r for r in read_lines(folder / SELECTION_LOG) if _has(r, "weighted_f1") and _has(r, "step")]
    return tuple(Score(int(r["step"]), float(r["weighted_f1"]), bool(r.get("best"))) for r in records)


def _has(record: Mapping[str, Any], key: str) -> bool:
    return isinstance(record.get(key), int | float)


def _status(folder: Path) -> str | None:
    """The status that a manifest states; a manifest that is not readable now states none."""
    try:
        found = json.loads((folder / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    status = found.get("status") if isinstance(found, dict) else None
    return status if isinstance(status, str) else None


def _epochs(folder: Path) -> float | None:
    try:
        found = yaml.safe_load((folder / CONFIG).read_text("utf-8"))
        return float(found["training"]["epochs"])
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return None


def _time(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _written(folder: Path) -> float:
    return _time(folder / TRAINING_LOG) or _time(folder / CONFIG) or 0.0
