"""`erc-llm average`: the mean of two trained adapters, and the runs it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from erc_llm.errors import ModelError
from erc_llm.models.adapters import load_adapter
from erc_llm.predictions import read_predictions
from erc_llm.recipes.average import average_id
from erc_llm.runs.directory import read_run
from tests.command_line import Command, refused
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus


@pytest.fixture(scope="module")
def trained(tiny_llama: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs of other seeds, ranks and scales; do not change them."""
    from erc_llm.recipes.train import train

    folder = tmp_path_factory.mktemp("averaging")
    corpus = write_corpus(folder / "corpus")
    runs = []
    for seed, lora in ((1, {"rank": 4, "alpha": 8}), (2, {"rank": 2, "alpha": 6})):
        sections: dict[str, Any] = {"seed": seed, "name": f"seed-{seed}", "lora": lora}
        runs.append(train(tiny_config(tiny_llama, corpus, folder / "runs", **sections), console=Console(quiet=True)))
    return runs[0].folder, runs[1].folder


@pytest.fixture
def runs(trained: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """Copies of them."""
    one, two = (Path(shutil.copytree(run, tmp_path / run.name)) for run in trained)
    return one, two


def _merged(model: TinyModel, adapter: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = load_adapter(model.fresh_model(), adapter).merge_and_unload().state_dict()
    return weights


def test_its_weights_are_the_mean_of_the_merged_weights(
    tiny_llama: TinyModel, trained: tuple[Path, Path], erc: Command, tmp_path: Path
) -> None:
    done = erc("average", *trained, "--out", tmp_path / "mean")
    assert done.code == 0, done.err
    assert "rank 6" in done.out
    one, two, mean = (_merged(tiny_llama, run / "adapter") for run in (*trained, tmp_path / "mean"))
    changed = 0
    for name, found in mean.items():
        torch.testing.assert_close(found, (one[name] + two[name]) / 2, atol=1e-6, rtol=1e-5)
        changed += not torch.equal(one[name], two[name])
    assert changed > 0


def test_it_predicts_like_any_run_and_says_what_it_is_of(
    trained: tuple[Path, Path], erc: Command, tmp_path: Path
) -> None:
    out = tmp_path / "runs" / "mean"
    assert erc("average", *trained, "--out", out).code == 0
    read = read_run(out)
    assert read.manifest.averaged == tuple(read_run(run).manifest.run_id for run in trained)
    assert read.manifest.run_id.startswith("mean-")
    assert read.config.lora.rank == read.config.lora.alpha == 6
    assert "trained with lora.rank=4 lora.alpha=8" in (out / "config.yaml").read_text("utf-8").splitlines()[0]
    done = erc("predict", out, "--split", "dev", "--out", tmp_path / "dev.parquet")
    assert done.code == 0, done.err
    info = read_predictions(tmp_path / "dev.parquet").info
    assert (info.system, info.run_id) == ("mean", read.manifest.run_id)


def test_a_run_averaged_with_a_copy_of_itself_is_itself(
    tiny_llama: TinyModel, runs: tuple[Path, Path], erc: Command, tmp_path: Path
) -> None:
    shutil.copytree(runs[0], tmp_path / "again")
    assert erc("average", runs[0], tmp_path / "again", "--out", tmp_path / "mean").code == 0
    one, mean = (_merged(tiny_llama, run / "adapter") for run in (runs[0], tmp_path / "mean"))
    for name, found in mean.items():
        torch.testing.assert_close(found, one[name], atol=1e-6, rtol=1e-5)


def test_one_run_or_twice_the_same_is_refused(runs: tuple[Path, Path], erc: Command, tmp_path: Path) -> None:
    refused(erc("average", runs[0], "--out", tmp_path / "mean"), "at least two different runs")
    refused(erc("average", runs[0], runs[0], "--out", tmp_path / "mean"), "at least two different runs")
    assert not (tmp_path / "mean").exists()


def _set(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("field", "value"),
    [("corpus_sha256", "0" * 64), ("base_model_sha256", "0" * 64), ("template_sha256", "0" * 64), ("context", "full")],
)
def test_runs_of_different_things_are_refused(
    field: str, value: str, runs: tuple[Path, Path], erc: Command, tmp_path: Path
) -> None:
    _set(runs[1] / "manifest.json", **{field: value})
    refused(erc("average", *runs, "--out", tmp_path / "mean"), str(runs[1]), str(runs[0]), field, "seed, training")


def test_another_selection_split_is_refused(runs: tuple[Path, Path], erc: Command, tmp_path: Path) -> None:
    config = runs[1] / "config.yaml"
    config.write_text(config.read_text().replace("selection_seed: 13", "selection_seed: 14"))
    refused(erc("average", *runs, "--out", tmp_path / "mean"), "differ in corpus")


def test_a_run_that_was_trained_on_the_selection_split_too_is_refused(
    runs: tuple[Path, Path], erc: Command, tmp_path: Path
) -> None:
    config = runs[1] / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("  evaluations: ", "  evaluations: 0  # "))
    assert config.read_text() != text
    refused(erc("average", *runs, "--out", tmp_path / "mean"), "held out (training.evaluations)")


def test_a_run_from_before_the_hash_of_train_was_kept(runs: tuple[Path, Path], erc: Command, tmp_path: Path) -> None:
    """The corpus is the same, so its train is."""
    _set(runs[1] / "manifest.json", train_sha256=None)
    done = erc("average", *runs, "--out", tmp_path / "mean")
    assert done.code == 0, done.err


def test_an_unfinished_run_is_refused(runs: tuple[Path, Path], erc: Command, tmp_path: Path) -> None:
    _set(runs[1] / "manifest.json", status="training")
    refused(erc("average", *runs, "--out", tmp_path / "mean"), str(runs[1]), "not finished", "--resume")


def test_an_existing_folder_is_left_alone(runs: tuple[Path, Path], erc: Command, tmp_path: Path) -> None:
    (tmp_path / "mean").mkdir()
    refused(erc("average", *runs, "--out", tmp_path / "mean"), "exists already", "--out")


def test_damaged_and_other_adapters_are_refused_and_nothing_is_left(
    runs: tuple[Path, Path], erc: Command, tmp_path: Path
) -> None:
    config, weights = (runs[1] / "adapter" / name for name in ("adapter_config.json", "adapter_model.safetensors"))
    kept, tensors = config.read_text(), load_file(weights)
    _set(config, use_dora=True)
    refused(erc("average", *runs, "--out", tmp_path / "mean"), str(runs[1]), "plain LoRA", "use_dora=True")
    config.write_text("{")
    refused(erc("average", *runs, "--out", tmp_path / "mean"), str(config), "no PEFT configuration")
    config.write_text(kept)
    save_file({name: tensor for name, tensor in tensors.items() if "q_proj" not in name}, weights)
    refused(erc("average", *runs, "--out", tmp_path / "mean"), "do not adapt the same layers", "q_proj")
    weights.write_bytes(b"no tensors")
    refused(erc("average", *runs, "--out", tmp_path / "mean"), str(weights), "damaged")
    assert not [path for path in tmp_path.iterdir() if "mean" in path.name]


def test_averages_of_before_are_read() -> None:
    """Their ids are of their configuration alone."""
    stored = Path(__file__).parents[2] / "docs" / "results" / "runs" / "aligned-mean"
    assert read_run(stored).manifest.run_id == read_predictions(stored / "dev.parquet").info.run_id == "mean3-1ec42187"


def test_an_average_is_called_by_the_weights_of_its_runs(runs: tuple[Path, Path]) -> None:
    found = [read_run(run) for run in runs]
    before = average_id(found, "mean")
    weights = runs[1] / "adapter" / "adapter_model.safetensors"
    save_file({name: 2 * tensor for name, tensor in load_file(weights).items()}, weights)
    assert average_id(found, "mean") != before
    assert average_id(found[::-1], "mean") != average_id(found, "mean")
    weights.unlink()
    with pytest.raises(ModelError, match=r"seed-2/adapter/adapter_model\.safetensors: missing"):
        average_id(found, "mean")


def test_a_compressed_average_is_the_nearest_of_its_rank(
    tiny_llama: TinyModel, trained: tuple[Path, Path], erc: Command, tmp_path: Path
) -> None:
    for name, options in (("exact", ()), ("small", ("--rank", 3)), ("whole", ("--rank", 6))):
        done = erc("average", *trained, *options, "--out", tmp_path / name)
        assert done.code == 0, done.err
    base = tiny_llama.fresh_model().state_dict()
    exact, small, whole = (_merged(tiny_llama, tmp_path / name / "adapter") for name in ("exact", "small", "whole"))
    layer = next(name for name in exact if "q_proj" in name)
    update = (exact[layer] - base[layer]).double()
    u, s, v = torch.linalg.svd(update)
    nearest = u[:, :3] * s[:3] @ v[:3]
    torch.testing.assert_close((small[layer] - base[layer]).double(), nearest, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(whole[layer], exact[layer])
    run = read_run(tmp_path / "small")
    assert run.config.lora.rank == run.config.lora.alpha == 3
    assert run.manifest.run_id != read_run(tmp_path / "exact").manifest.run_id
    refused(erc("average", *trained, "--rank", 7, "--out", tmp_path / "more"), "--rank: 7 is above 6")
    assert not (tmp_path / "more").exists()


def test_one_run_is_no_average(trained: tuple[Path, Path], erc: Command, tmp_path: Path) -> None:
    refused(erc("average", trained[0], "--out", tmp_path / "none"), "or one with --rank")
    assert erc("average", trained[0], "--rank", 2, "--out", tmp_path / "small").code == 0
    assert read_run(tmp_path / "small").manifest.averaged == (read_run(trained[0]).manifest.run_id,)
