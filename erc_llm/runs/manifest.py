"""The manifest of a run: what an adapter or a baseline was made from and with.

Input: a run directory. Output: a `Manifest`, also where an older version of this package wrote it.
Does not depend on: configurations, models, prompts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from erc_llm.errors import RunError
from erc_llm.files import write_text

MANIFEST = "manifest.json"
RUN_FORMAT = 2

TRAINING, FINISHED = "training", "finished"

Kind = Literal["adapter", "encoder", "compm", "emonet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a run was made from and with.

    Attributes:
        kind: `adapter` of a language model, or the kind of a baseline.
        run_id: Name of the run and the beginning of its config's hash; of an average, of a hash of its runs.
        status: `training` until the weights are final, then `finished`.
        context: `past` or `full`.
        train_shares: Share of each label among the labelled targets, in label order.
        training_prior: Share of each label in what the loss saw: the expected share of draws under class-balanced
            sampling, the share of weight under weights on the loss; otherwise the same as `train_shares`.
        config_sha256: Hash of the configuration as the version that wrote the manifest computed it. A later version may
            hash other fields, so a run is compared by the hash of its `config.yaml`, computed anew.
        template_sha256: Hash of the prompt template; None for a baseline.
        base_model_sha256: Hash of the weights of the base model, or of a baseline's encoder.
        confusion: (labels, labels) counts by which labels told to training questions were corrupted; None if none
            were told.
        averaged: The runs whose mean this one is; none for a run that was trained.
        train_sha256: Hash of train alone, selection split included, where `corpus_sha256` is of all splits; None in
            runs from before it was kept.
        precision: What was multiplied in, such as `bfloat16`; None in runs from before it was kept.
        memory: What a baseline reads of a speaker's past, and from where; None for an adapter.
        selected_by: The split by which a baseline's epoch was chosen; None for an adapter, whose `config.yaml` says it.
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
    base_model: str
    base_model_sha256: str
    versions: Mapping[str, str]
    commit: str | None
    confusion: tuple[tuple[int, ...], ...] | None = None
    averaged: tuple[str, ...] = ()
    train_sha256: str | None = None
    precision: str | None = None
    memory: str | None = None
    selected_by: str | None = None
    format_version: int = RUN_FORMAT

    @property
    def finished(self) -> bool:
        """Whether its weights are final."""
        return self.status == FINISHED


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write or replace the manifest of a run directory.

    Raises:
        RunError: It cannot be written.
    """
    write_text(folder / MANIFEST, json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n", RunError)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a run directory.

    Raises:
        RunError: It is missing, damaged, or of a format that this version does not read.
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
            f"{path}: run format {version}, this version of erc-llm reads 1 to {RUN_FORMAT}; "
            "use the version that wrote it, or train again"
        )
    try:
        return TypeAdapter(Manifest).validate_json(json.dumps(current), strict=True)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RunError(f"{path}: {problems}; train again") from error


def _from_format_1(content: dict[str, Any]) -> dict[str, Any]:
    """A manifest of format 1 with the names and fields of format 2; any other one as it is.

    Format 1 had two forms: an adapter's, and a baseline's with names of its own. Runs from before classes could be
    balanced do not state their training prior: their loss saw every target once an epoch.
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
