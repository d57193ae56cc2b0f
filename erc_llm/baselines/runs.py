"""Run directories of baselines: what a training leaves behind, and how it is read again.

    runs/NAME/
      config.yaml         the resolved configuration
      manifest.json       kind, hashes of corpus, encoder and config; label shares; versions; seed; commit
      speakers.json       speaker to number, where speakers are numbered over the whole corpus
      model.safetensors   what was trained, of the epoch with the best selection score
      training.jsonl      loss, learning rate, utterances a second, step by step
      selection.jsonl     scores on the selection split, epoch by epoch
      selection.parquet   predictions of the selection split; further splits beside it
      checkpoint.pt, epoch-N.safetensors   what `--resume` goes on from; removed when the training is finished

Knows no model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from erc_llm.baselines.baseline_config import BaselineConfig, Kind, load_baseline
from erc_llm.errors import RunError
from erc_llm.files import remove_partials, write_text
from erc_llm.runs.directory import other_recipe, refuse_other_sources
from erc_llm.runs.manifest import FINISHED

BASELINE_FORMAT = 1
SPEAKERS = "speakers.json"


@dataclass(frozen=True, slots=True)
class BaselineManifest:
    """What a baseline was made from and with.

    Attributes:
        baseline: Its kind; what tells its manifest from an adapter's.
        run_id: Name of the run and the beginning of its config's hash.
        status: `training` until the weights are final, then `finished`.
        memory: What is known of a speaker, and from where.
        train_shares: Share of each label among the labelled targets, in label order.
        training_prior: Share of each label in what the loss saw: of weight, where classes are weighed.
        selected_by: The split by which the epoch was chosen.
        train_sha256: Hash of train alone, selection split included; None in runs from before it was kept.
        precision: What was multiplied in, such as `bfloat16`; None in runs from before it was kept.
    """

    baseline: Kind
    run_id: str
    status: str
    seed: int
    memory: str
    labels: tuple[str, ...]
    train_shares: tuple[float, ...]
    training_prior: tuple[float, ...]
    config_sha256: str
    corpus_name: str
    corpus_version: str
    corpus_sha256: str
    healed: bool
    base_model: str
    base_sha256: str
    versions: Mapping[str, str]
    commit: str | None
    selected_by: str = "selection"
    train_sha256: str | None = None
    precision: str | None = None
    baseline_format: int = BASELINE_FORMAT

    @property
    def finished(self) -> bool:
        """Whether its weights are final."""
        return self.status == FINISHED


def write_baseline_manifest(folder: Path, manifest: BaselineManifest) -> None:
    """Write or replace the manifest of a run directory."""
    write_text(folder / "manifest.json", json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n", RunError)


def read_baseline_manifest(folder: Path) -> BaselineManifest:
    """The manifest of a baseline's run directory.

    Raises:
        RunError: The folder is not one, or of a format this version does not read.
    """
    path = folder / "manifest.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}); choose another name=") from error
    if not isinstance(content, dict) or "baseline" not in content:
        raise RunError(f"{folder}: is no baseline's run directory; choose another name=")
    if content.get("baseline_format") != BASELINE_FORMAT:
        found = content.get("baseline_format")
        raise RunError(f"{path}: baseline format {found}, this version of erc-llm reads {BASELINE_FORMAT}; train again")
    try:
        for name in ("labels", "train_shares", "training_prior"):
            content[name] = tuple(content[name])
        return BaselineManifest(**content)
    except (KeyError, TypeError) as error:
        raise RunError(f"{path}: a field is missing or unknown: {error}") from error


def claim_baseline(folder: Path, config: BaselineConfig, resume: bool) -> BaselineManifest | None:
    """The manifest of the run that stands in the folder already; None where nothing has begun.

    Raises:
        RunError: The folder belongs to something else, to a run of another configuration, or `resume` is not wished.
    """
    if not folder.exists() or all(_is_beginning(path) for path in folder.iterdir()):
        return None
    if not (folder / "manifest.json").is_file():
        raise RunError(f"{folder}: exists and is not a run; choose another name=")
    manifest = read_baseline_manifest(folder)
    if not resume:
        raise RunError(f"{folder}: this run exists ({manifest.status}); add --resume, or choose another name=")
    if manifest.config_sha256 != config.sha256:
        raise other_recipe(folder, load_baseline(folder / "config.yaml"), config)
    remove_partials(folder)
    return manifest


def check_same_sources(folder: Path, began: BaselineManifest, now: BaselineManifest) -> None:
    """Refuse to go on with, or to predict by, a run on another corpus or encoder than it began with.

    A finished run may predict splits that its corpus has got since; only train must be the same. An unfinished one must
    also go on in the same precision.

    Raises:
        RunError: One of them differs.
    """
    corpus = "train_sha256" if began.finished and began.train_sha256 else "corpus_sha256"
    refuse_other_sources(folder, began, now, (corpus, "base_sha256"))
    if not began.finished and began.precision is not None and began.precision != now.precision:
        raise RunError(
            f"{folder}: cannot resume: it began in {began.precision}, here it would go on in {now.precision}; set "
            "encoder.precision and go on where it began, or choose another name="
        )


def write_speakers(folder: Path, numbers: Mapping[str, int]) -> None:
    """Keep the speakers' numbers that a run is trained with."""
    write_text(folder / SPEAKERS, json.dumps(dict(numbers), indent=0, ensure_ascii=False) + "\n", RunError)


def read_speakers(folder: Path) -> dict[str, int]:
    """The speakers' numbers that a run was trained with.

    Raises:
        RunError: They are missing or damaged.
    """
    path = folder / SPEAKERS
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
        if sorted(numbers.values()) != list(range(1, len(numbers) + 1)):
            raise ValueError("expected each number from 1 on once")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise RunError(f"{path}: the numbers of its speakers cannot be read ({error}); train again") from error
    return dict(numbers)


def _is_beginning(path: Path) -> bool:
    return path.name in ("config.yaml", SPEAKERS) or (path.name.startswith(".") and path.name.endswith(".partial"))
