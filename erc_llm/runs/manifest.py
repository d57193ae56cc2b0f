"""The manifest of a run: the sources and settings that an adapter or a baseline was made from.

Input: a run directory. Output: a `Manifest`, also from files that older versions of this package wrote.
Does not depend on: configurations, models, prompts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from erc_llm.errors import RunError
from erc_llm.files import write_text

MANIFEST = "manifest.json"
RUN_FORMAT = 2

TRAINING, FINISHED = "training", "finished"
_ADDED_LATER: dict[str, Any] = {"retrieval": None, "tried": 1}

Kind = Literal["adapter", "encoder", "compm", "emonet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """What decides, besides train and the configuration, what prompts retrieve from train.

    Attributes:
        template_sha256: Hash of the template that words it.
        encoder_sha256: Hash of the encoder's weights; None if similarity is that of words.
        leak: The leak that makes the run a control, which cannot be used; None without one.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    template_sha256: str
    encoder_sha256: str | None = None
    leak: str | None = None

    def __str__(self) -> str:
        encoder = "words" if self.encoder_sha256 is None else f"encoder {self.encoder_sha256[:12]}"
        leak = "" if self.leak is None else f", leak {self.leak}"
        return f"{encoder}, wording {self.template_sha256[:12]}{leak}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Sources, settings and status of a run.

    Attributes:
        kind: `adapter` for a language model, otherwise the kind of the baseline.
        run_id: Name of the run and the first digits of its config's hash; for an average, of a hash of its runs.
        status: `training` until the weights are final, then `finished`.
        context: `past` or `full`.
        train_shares: Label distribution of the labelled targets, in label order.
        training_prior: Label distribution of what the loss was computed on: of the expected draws with class-balanced
            sampling, of the weights with loss weights; otherwise equal to `train_shares`.
        config_sha256: Hash of the configuration, computed by the version that wrote the manifest. Other versions may
            hash other fields, so runs are compared by a hash recomputed from `config.yaml`.
        template_sha256: Hash of the prompt template; None for a baseline.
        auxiliary_sha256: Hash of the template of auxiliary questions; None if training asked none, and in older runs.
        base_model_sha256: Hash of the weights of the base model, or of a baseline's encoder.
        confusion: (labels, labels) confusion counts from which the labels in training prompts were corrupted, or by
            which labels were smoothed; None if training used none.
        averaged: Ids of the runs that were averaged; empty for a trained run.
        folds: Number of folds if the averaged runs are those of a cross-fitting; else None.
        train_sha256: Hash of train alone, selection split included (`corpus_sha256` covers all splits); None in older
            runs, which did not store it.
        precision: Precision of the computation, such as `bfloat16`; None in older runs, which did not store it.
        memory: Which part of a speaker's past a baseline reads, and its source; None for an adapter.
        started_from: Id and corpus of the run that training started from; None for a new adapter.
        avoided: Corpora that training kept apart from, each with the number of training dialogues left out because of
            it.
        tried: Number of configurations that were scored to choose this one, as a sweep counts them.
        retrieval: What prompts retrieve from train; None if they retrieve nothing.
        selected_by: The split that selected a baseline's epoch; None for an adapter, whose `config.yaml` states it.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    kind: Kind
    run_id: str
    status: str
    seed: int
    context: str
    labels: tuple[str, ...]
    neutral: str | None = None
    train_shares: tuple[float, ...]
    training_prior: tuple[float, ...]
    config_sha256: str
    corpus_name: str
    corpus_version: str
    corpus_sha256: str
    healed: bool
    template_sha256: str | None = None
    auxiliary_sha256: str | None = None
    base_model: str
    base_model_sha256: str
    versions: Mapping[str, str]
    commit: str | None
    confusion: tuple[tuple[int, ...], ...] | None = None
    averaged: tuple[str, ...] = ()
    folds: int | None = None
    train_sha256: str | None = None
    precision: str | None = None
    memory: str | None = None
    selected_by: str | None = None
    started_from: str | None = None
    avoided: Mapping[str, int] = field(default_factory=dict)
    tried: int = 1
    retrieval: Retrieval | None = None
    format_version: int = RUN_FORMAT

    @property
    def finished(self) -> bool:
        """Whether the weights are final."""
        return self.status == FINISHED


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write or replace the manifest of a run directory.

    Raises:
        RunError: The file cannot be written.
    """
    content = asdict(manifest)
    for name, unset in _ADDED_LATER.items():  # so that versions from before these fields read it
        if content[name] == unset:
            del content[name]
    write_text(folder / MANIFEST, json.dumps(content, indent=2, ensure_ascii=False) + "\n", RunError)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a run directory.

    Raises:
        RunError: The file is missing, damaged, or of a format that this version does not read.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise RunError(f"{path}: broken JSON ({error}); train again") from error
    if not isinstance(content, dict):
        raise RunError(f"{path}: expected a JSON object with the fields of a manifest; train again")
    current = _from_format_1(content)
    if (version := current.get("format_version")) != RUN_FORMAT:
        raise RunError(
            f"{path}: found run format {version}; this version of erc-llm reads 1 to {RUN_FORMAT}; "
            "use the version that wrote it, or train again"
        )
    try:
        return TypeAdapter(Manifest).validate_json(json.dumps(current), strict=True)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RunError(f"{path}: {problems}; train again") from error


def _from_format_1(content: dict[str, Any]) -> dict[str, Any]:
    """Convert a manifest of format 1 to the fields of format 2; return any other manifest unchanged.

    Format 1 had two forms: one for adapters, and one for baselines with other field names. Runs from before class
    balancing do not state a training prior; it equals `train_shares`, because their loss used every target once per
    epoch.
    """
    if content.get("baseline_format") == 1:
        names = {"baseline": "kind", "base_sha256": "base_model_sha256", "baseline_format": "format_version"}
        return {names.get(key, key): value for key, value in content.items()} | {
            "context": "past",
            "format_version": RUN_FORMAT,
        }
    if content.get("format_version") == 1:
        prior = {"training_prior": content.get("train_shares")}
        return prior | content | {"kind": "adapter", "format_version": RUN_FORMAT}
    return content
