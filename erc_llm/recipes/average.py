"""Adapter averaging: merges the adapters of several runs into one whose update is the mean of theirs.

The mean of low-rank updates is a low-rank update again: its rank is the sum of the ranks, and its two matrices are
those of the runs side by side. The average is therefore exact, and prediction costs as much as with one run. It can be
compressed to a lower rank: the nearest matrices of that rank (truncated singular value decomposition).

Averaged weights of fine-tuned models are about as accurate as the averaged predictions of the models: M. Wortsman et
al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing inference time"
(ICML 2022).

Input: finished runs that differ in their seeds or training settings only. Output: a run directory that predicts and
calibrates like any other.
Does not depend on: base models; only adapter files are read.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erc_llm.calibration.record import Calibration
from erc_llm.calibration.store import CALIBRATION, read_calibration, write_calibration
from erc_llm.config import RunConfig
from erc_llm.errors import ModelError, RunError
from erc_llm.files import has_files, whole_folder, write_text
from erc_llm.models.adapters import CONFIG, WEIGHTS
from erc_llm.models.hashes import file_sha256
from erc_llm.models.tensor_files import save_tensors
from erc_llm.retrieval.store import NEIGHBOURS
from erc_llm.retrieval.vectors import HIDDEN
from erc_llm.runs.directory import ADAPTER, TEMPLATE, Run, differ, read_run
from erc_llm.runs.directory import CONFIG as RUN_CONFIG
from erc_llm.runs.manifest import Manifest, write_manifest
from erc_llm.runs.opened import refuse_control
from erc_llm.runs.provenance import commit, versions

if TYPE_CHECKING:
    import torch

_FREE = ("seed", "training", "lora", "sampling")  # sections in which averaged runs may differ
_SAME = (
    "context",
    "labels",
    "corpus_sha256",
    "train_sha256",
    "healed",
    "template_sha256",
    "auxiliary_sha256",
    "retrieval",
    "base_model_sha256",
)
_PLAIN: Mapping[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    "modules_to_save": None,
    "use_dora": False,
    "use_rslora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
}


def average_runs(
    runs: Sequence[Run],
    folder: Path,
    *,
    replace_older: bool = False,
    of_folds: RunConfig | None = None,
    rank: int | None = None,
    complete: Callable[[Run], None] | None = None,
) -> Run:
    """Write the average of runs as a run directory, which appears complete or not at all.

    Args:
        runs: At least two different finished runs; with `rank`, one is enough.
        folder: Directory of the new run; its last part is the run's name.
        replace_older: Whether to replace an average that exists already.
        of_folds: The configuration of a cross-fitting, if the runs are all its folds; together they have trained on
            all of train, so nothing is held out from their average.
        rank: Rank to compress the average to; by default it is exact. The calibration of a single run is kept.
        complete: Writes further files into the run directory before it appears.

    Raises:
        RunError: The runs cannot be averaged, or the folder exists already or cannot be written.
        ModelError: An adapter is missing, damaged or no plain LoRA.
    """
    check_alike(runs, of_folds is not None, least=2 if rank is None else 1)
    if folder.exists() and not replace_older:
        raise RunError(f"{folder}: exists already; choose another --out")
    if has_files(folder) and not read_run(folder).manifest.averaged:
        raise RunError(
            f"{folder}: contains a training run, not an average, so it is not replaced; move it or choose another name"
        )
    first = runs[0]
    with whole_folder(folder, RunError) as draft:
        draft.mkdir()
        kept = average_adapters([run.adapter for run in runs], draft / ADAPTER, rank)
        lora = first.config.lora.model_copy(update={"rank": kept, "alpha": kept})
        config = first.config.model_copy(update={"name": folder.name, "output": str(folder.parent), "lora": lora})
        if of_folds is not None:
            training = config.training.model_copy(update={"evaluations": 0})
            config = config.model_copy(update={"corpus": of_folds.corpus, "training": training})
        write_text(draft / RUN_CONFIG, _config_note(runs) + config.as_yaml(), RunError)
        shutil.copyfile(first.template, draft / TEMPLATE)
        run_id = average_id(runs, config.name if rank is None else f"{config.name}-rank-{rank}")
        write_manifest(draft, _manifest(runs, run_id, config.sha256, of_folds is not None))
        if len(runs) == 1 and (first.folder / CALIBRATION).is_file():
            write_calibration(read_run(draft), _kept_calibration(first))
            if (first.folder / NEIGHBOURS).is_file():
                shutil.copyfile(first.folder / NEIGHBOURS, draft / NEIGHBOURS)
        if complete is not None:
            complete(read_run(draft))
    return read_run(folder)


def _config_note(runs: Sequence[Run]) -> str:
    """A comment on the rank in an average's `config.yaml`, which is not the one to train with."""
    lora = runs[0].config.lora
    return (
        f"# Adapters that were averaged: {len(runs)}, trained with lora.rank={lora.rank} lora.alpha={lora.alpha}; rank "
        "and alpha below are those of the average.\n"
    )


def _kept_calibration(run: Run) -> Calibration:
    """The calibration of a run whose adapter is compressed.

    Raises:
        RunError: It mixes in neighbours by hidden states, which the compressed adapter has others of.
    """
    calibration = read_calibration(run)
    if calibration.neighbours is not None and calibration.neighbours.encoder == HIDDEN:
        raise RunError(
            f"{run.folder}: is calibrated with neighbours by the hidden states of its adapter, and compression changes "
            f"them; calibrate it again with other neighbours or without, `erc-llm calibrate {run.folder}`"
        )
    return calibration


def average_id(runs: Sequence[Run], name: str) -> str:
    """The run id of an average: its name, and the beginning of a hash over its runs and their adapter weights.

    Raises:
        ModelError: An adapter is missing.
    """
    digest = hashlib.sha256()
    for run in runs:
        weights, of = run.adapter / WEIGHTS, run.manifest
        try:
            parts = (of.config_sha256, of.train_sha256, of.base_model_sha256, of.template_sha256, file_sha256(weights))
        except OSError as error:
            raise ModelError(f"{weights}: missing or cannot be read: {error.strerror or error}") from error
        digest.update(f"{' '.join(map(str, parts))}\n".encode())
    return f"{name}-{digest.hexdigest()[:8]}"


def check_alike(runs: Sequence[Run], folds: bool = False, least: int = 2) -> None:
    """Refuse runs that differ in prompt, labels, corpus, base model or held-out episodes.

    Args:
        runs: The runs.
        folds: Whether the runs are folds of a cross-fitting, which leave out different episodes.
        least: The least number of runs.

    Raises:
        RunError: Two runs differ; the message names both and lists the differences.
    """
    if len({run.folder.resolve() for run in runs}) < max(least, len(runs)):
        found = ", ".join(str(run.folder) for run in runs)
        raise RunError(f"expected at least two different runs to average, or one with --rank, found {found}")
    first = runs[0]
    for run in runs:
        if not folds:
            refuse_control(run)
        if not run.manifest.finished:
            raise RunError(f"{run.folder}: is not finished; continue it with `erc-llm train --resume`")
        one, other = (of.config.result_fields() for of in (first, run))
        for fields in (one, other) if folds else ():
            fields["corpus"].pop("fold", None)
        different = [name for name in {**one, **other} if name not in _FREE and one.get(name) != other.get(name)]
        if first.config.holds_out_selection != run.config.holds_out_selection:
            different.append("whether the selection split was held out (training.evaluations)")
        if differ(first.precision, run.precision):
            different.append("the precision of training")
        # A dev or test split may have been added between two folds; `train_sha256` is still compared.
        same = [name for name in _SAME if name != "corpus_sha256" or not folds]
        different += [name for name in same if differ(getattr(first.manifest, name), getattr(run.manifest, name))]
        if first.manifest.started_from != run.manifest.started_from:
            different.append("the run that training started from (lora.start)")
        if different:
            raise RunError(
                f"{run.folder} and {first.folder} differ in {', '.join(different)}; averaged runs may differ in "
                f"{', '.join(_FREE)} only"
            )


def average_adapters(folders: Sequence[Path], target: Path, rank: int | None = None) -> int:
    """Write the adapter whose update of each layer is the mean of those of plain LoRA adapters; returns its rank.

    mean of s_i B_i A_i = [s_1 B_1 / n, ..., s_n B_n / n] [A_1; ...; A_n], with s_i = alpha_i / rank_i.

    Args:
        folders: The adapters.
        target: Folder to write.
        rank: Rank to compress it to; by default it has the sum of the ranks and is exact.

    Raises:
        ModelError: An adapter is missing, damaged or no plain LoRA, or the adapters belong to different layers.
    """
    import torch

    configs = [_read_config(folder) for folder in folders]
    tensors = [_read_tensors(folder) for folder in folders]
    for folder, found in zip(folders, tensors, strict=True):
        if odd := sorted(found.keys() ^ tensors[0].keys()):
            raise ModelError(f"{folder} and {folders[0]} do not adapt the same layers: only one has {odd[0]}")
    scales = [config["lora_alpha"] / config["r"] / len(folders) for config in configs]
    mean: dict[str, torch.Tensor] = {}
    for name in tensors[0]:
        if ".lora_A." in name:
            mean[name] = torch.cat([found[name] for found in tensors], dim=0)
        else:
            mean[name] = torch.cat([found[name] * scale for found, scale in zip(tensors, scales, strict=True)], dim=1)
    whole = sum(int(config["r"]) for config in configs)
    kept = whole if rank is None else rank
    if kept > whole:
        raise ModelError(f"--rank: {rank} is above {whole}, the rank of the exact average; leave it out")
    if kept < whole:
        mean = _compressed(mean, kept)
    config = configs[0] | {"r": kept, "lora_alpha": kept}
    target.mkdir()
    save_tensors(mean, target / WEIGHTS)
    write_text(target / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")
    return kept


def _compressed(tensors: Mapping[str, torch.Tensor], rank: int) -> dict[str, torch.Tensor]:
    """The nearest update of a rank for each layer (Eckart and Young, 1936), its scale shared by both matrices.

    B A = Qb (Rb Ra^T) Qa^T with B = Qb Rb and A^T = Qa Ra, so only a matrix of the old rank is decomposed.
    """
    import torch

    found = {}
    for name_a in (name for name in tensors if ".lora_A." in name):
        name_b = name_a.replace(".lora_A.", ".lora_B.")
        (qb, rb), (qa, ra) = torch.linalg.qr(tensors[name_b].double()), torch.linalg.qr(tensors[name_a].double().T)
        u, s, v = torch.linalg.svd(rb @ ra.T)
        root = s[:rank].sqrt()
        found[name_b] = (qb @ u[:, :rank] * root).float().contiguous()
        found[name_a] = (root[:, None] * v[:rank] @ qa.T).float().contiguous()
    return found


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text("utf-8"))
        odd = [f"{name}={config.get(name)}" for name, plain in _PLAIN.items() if config.get(name, plain) != plain]
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder / CONFIG}: missing or no PEFT configuration: {error}") from error
    if odd:
        raise ModelError(f"{folder}: only plain LoRA adapters can be averaged, found {', '.join(odd)}")
    return config


def _read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder / WEIGHTS}: missing, damaged or not a safetensors file: {error}") from error


def mean_distribution(distributions: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    """The mean of label distributions, label by label."""
    return tuple(sum(shares) / len(distributions) for shares in zip(*distributions, strict=True))


def _avoided(runs: Sequence[Run]) -> set[str]:
    """Names of the corpora that any of the runs kept apart from."""
    return {name for run in runs for name in run.manifest.avoided}


def _manifest(runs: Sequence[Run], run_id: str, config_sha256: str, folds: bool) -> Manifest:
    return replace(
        runs[0].manifest,
        run_id=run_id,
        config_sha256=config_sha256,
        train_shares=mean_distribution([run.manifest.train_shares for run in runs]),
        training_prior=mean_distribution([run.manifest.training_prior for run in runs]),
        folds=len(runs) if folds else runs[0].manifest.folds if len(runs) == 1 else None,
        avoided={name: max(run.manifest.avoided.get(name, 0) for run in runs) for name in sorted(_avoided(runs))},
        averaged=tuple(run.manifest.run_id for run in runs),
        versions=versions(),
        commit=commit(),
    )
