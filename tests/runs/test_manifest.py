"""Manifests that older versions wrote are read with the meaning they had, an adapter's and a baseline's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from erc_llm.baselines.baseline_config import BaselineConfig
from erc_llm.config import RunConfig
from erc_llm.runs.directory import read_directory
from erc_llm.runs.manifest import RUN_FORMAT, read_manifest, write_manifest

RESULTS = Path(__file__).parents[2] / "docs" / "results"
STORED = sorted(RESULTS.rglob("manifest.json"))

SHARED: dict[str, Any] = {
    "run_id": "old-0123abcd",
    "status": "finished",
    "seed": 13,
    "labels": ["calm", "cross"],
    "train_shares": [0.25, 0.75],
    "config_sha256": "c" * 64,
    "corpus_name": "flat",
    "corpus_version": "own",
    "corpus_sha256": "d" * 64,
    "healed": False,
    "base_model": "tiny",
    "versions": {"python": "3.11.0"},
    "commit": None,
}
ADAPTER = SHARED | {
    "context": "full",
    "neutral": "calm",
    "template_sha256": "e" * 64,
    "base_model_sha256": "f" * 64,
    "format_version": 1,
}
BASELINE = SHARED | {
    "baseline": "compm",
    "memory": "memory within the dialogue",
    "training_prior": [0.5, 0.5],
    "base_sha256": "f" * 64,
    "selected_by": "selection",
    "baseline_format": 1,
}


def _written(folder: Path, content: dict[str, Any]) -> Path:
    (folder / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_the_first_adapters_saw_the_label_distribution_of_train(tmp_path: Path) -> None:
    read = read_manifest(_written(tmp_path, ADAPTER))
    assert (read.kind, read.context, read.neutral) == ("adapter", "full", "calm")
    assert read.training_prior == read.train_shares == (0.25, 0.75)
    assert (read.confusion, read.averaged, read.train_sha256, read.precision, read.memory) == (
        None,
        (),
        None,
        None,
        None,
    )


def test_a_balanced_adapter_of_format_1_keeps_its_prior(tmp_path: Path) -> None:
    later = {
        "training_prior": [0.4, 0.6],
        "confusion": [[3, 1], [0, 2]],
        "averaged": ["a-1", "b-2"],
        "train_sha256": "a",
    }
    read = read_manifest(_written(tmp_path, ADAPTER | later))
    assert (read.training_prior, read.confusion) == ((0.4, 0.6), ((3, 1), (0, 2)))
    assert (read.averaged, read.train_sha256) == (("a-1", "b-2"), "a")


def test_a_baseline_of_format_1_is_read_by_its_old_names(tmp_path: Path) -> None:
    read = read_manifest(_written(tmp_path, BASELINE))
    assert (read.kind, read.context, read.memory) == ("compm", "past", "memory within the dialogue")
    assert (read.base_model_sha256, read.template_sha256) == ("f" * 64, None)
    assert (read.training_prior, read.train_sha256, read.precision) == ((0.5, 0.5), None, None)
    later = {"train_sha256": "a" * 64, "precision": "bfloat16"}
    read = read_manifest(_written(tmp_path, BASELINE | later))
    assert (read.train_sha256, read.precision) == ("a" * 64, "bfloat16")


@pytest.mark.parametrize("content", [ADAPTER, BASELINE], ids=["adapter", "baseline"])
def test_what_was_read_is_written_in_the_present_format(tmp_path: Path, content: dict[str, Any]) -> None:
    read = read_manifest(_written(tmp_path, content))
    write_manifest(tmp_path, read)
    written = json.loads((tmp_path / "manifest.json").read_text("utf-8"))
    assert written["format_version"] == RUN_FORMAT
    assert {"baseline", "baseline_format", "base_sha256"}.isdisjoint(written)
    assert read_manifest(tmp_path) == read


@pytest.mark.skipif(not STORED, reason="no run directory is kept in docs/results")
@pytest.mark.parametrize("path", STORED, ids=lambda path: str(path.parent.relative_to(RESULTS)))
def test_runs_of_the_documentation_are_read(path: Path) -> None:
    stated = json.loads(path.read_text("utf-8"))
    kind = stated.get("baseline", stated.get("kind", "adapter"))
    run = read_directory(path.parent, RunConfig if kind == "adapter" else BaselineConfig)
    assert run.config.seed == run.manifest.seed == stated["seed"]
    assert run.manifest.kind == kind
    assert run.manifest.base_model_sha256 == stated.get("base_sha256", stated.get("base_model_sha256"))
    assert list(run.manifest.train_shares) == stated["train_shares"]
    assert run.manifest.commit == stated["commit"]
    if isinstance(run.config, BaselineConfig):
        assert run.manifest.memory == run.config.memory_source
