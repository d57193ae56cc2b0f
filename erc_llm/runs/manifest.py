"""The manifest of a run: what it was made from and with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from erc_llm.errors import RunError
from erc_llm.files import write_text

RUN_FORMAT = 1


TRAINING, FINISHED = "training", "finished"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a run was made from and with.

    Attributes:
        run_id: Name of the run and the beginning of its config's hash; of an average, of a hash of its runs.
        status: `training` until the adapter is final, then `finished`.
        context: `past` or `full`.
        train_shares: Share of each label among the labelled targets, in label order.
        training_prior: Share of each label in what the loss saw: the expected share of draws under class-balanced
            sampling, the share of weight under weights on the loss; otherwise the same as `train_shares`.
        confusion: (labels, labels) counts by which labels told to training questions were corrupted; None if none
            were told.
        averaged: The runs whose mean this one is; none for a run that was trained.
        train_sha256: Hash of train alone, selection split included, where `corpus_sha256` is of all splits; None in
            runs from before it was kept.
    """

    run_id: str
    status: str
    seed: int
    context: str
    labels: tuple[str, ...]
    neutral: str | None
    train_shares: tuple[float, ...]
    training_prior: tuple[float, ...]
    config_sha256: str
    corpus_name: str
    corpus_version: str
    corpus_sha256: str
    healed: bool
    template_sha256: str
    base_model: str
    base_model_sha256: str
    versions: Mapping[str, str]
    commit: str | None
    confusion: tuple[tuple[int, ...], ...] | None = None
    averaged: tuple[str, ...] = ()
    train_sha256: str | None = None
    format_version: int = RUN_FORMAT


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write or replace the manifest of a run directory."""
    write_text(folder / "manifest.json", json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n", RunError)
