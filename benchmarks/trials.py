"""Table of the trials behind the defaults, made from their run directories.

Input: folders with the small files of runs (`config.yaml`, `manifest.json`, `selection.jsonl`), of adapters or
baselines. Output: one Markdown row per trial: its differences from the defaults (for a baseline, from the
packaged `emonet`), and its scores on the selection split.
Does not depend on: corpora, models.

    python -m benchmarks.trials docs/results/trials
    python -m benchmarks.trials docs/results/baselines/trials
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erc_llm.baselines.baseline_config import BaselineConfig, load_baseline
from erc_llm.config import RunConfig, load_config
from erc_llm.runs.directory import CONFIG
from erc_llm.runs.logs import SELECTION_LOG, read_lines
from erc_llm.runs.manifest import MANIFEST, read_manifest

_SHOWN_ELSEWHERE = ("name", "output", "corpus.path", "training.max_scenes", "training.epochs", "training.evaluations")


def differences(
    found: Mapping[str, Any], default: Mapping[str, Any], hidden: Sequence[str] = (), prefix: str = ""
) -> list[str]:
    """`key=value` for every field of `found` that differs from `default` and is not hidden."""
    changed = []
    for key, value in found.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and isinstance(default.get(key), dict):
            changed += differences(value, default[key], hidden, f"{name}.")
        elif value != default.get(key) and name not in (*_SHOWN_ELSEWHERE, *hidden):
            changed.append(f"{name}={Path(value).name if key == 'template' else value}")
    return changed


def row(folder: Path) -> str:
    """One trial as a Markdown table row."""
    config, default = _configs(folder)
    training = config.training
    scores = read_lines(folder / SELECTION_LOG)
    best = max(scores, key=lambda record: float(record["weighted_f1"]))
    changed = ", ".join(differences(config.model_dump(), default.model_dump())) or "nothing"
    metrics = (f"{100 * best['weighted_f1']:.2f}", f"{100 * best['macro_f1']:.2f}", f"{best['nll']:.3f}")
    budget = f"{training.max_scenes or 'all'} scenes, {training.epochs:g} epochs"
    return f"| {folder.name} | {changed} | {budget} | {scores[-1]['step']} | {' | '.join(metrics)} |"


def _configs(folder: Path) -> tuple[RunConfig, RunConfig] | tuple[BaselineConfig, BaselineConfig]:
    """The configuration of a trial, and the one with which it is compared."""
    if read_manifest(folder).kind != "adapter":
        return load_baseline(folder / CONFIG), load_baseline("emonet")
    return load_config(folder / CONFIG), RunConfig()


def main(folders: list[str]) -> None:
    """Print the table of all trials in the given folders."""
    print("| trial | differs from the defaults by | budget | steps | weighted F1 | macro F1 | NLL (nats) |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for folder in sorted(path.parent for name in folders for path in Path(name).rglob(MANIFEST)):
        print(row(folder))


if __name__ == "__main__":
    main(sys.argv[1:] or ["docs/results/trials"])
