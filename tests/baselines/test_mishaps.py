"""A baseline's training that meets a full disk, a kill, numbers without end, or a model that is no encoder."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from erc_llm.baselines import loop
from erc_llm.baselines.baseline_config import BaselineConfig
from erc_llm.baselines.build import build
from erc_llm.baselines.loop import Fitting
from erc_llm.baselines.weights import epoch_weights
from erc_llm.errors import ModelError, RunError
from erc_llm.models.encoders import load_encoder
from erc_llm.predictions import read_predictions
from erc_llm.runs.logs import read_lines
from erc_llm.runs.manifest import read_manifest, write_manifest
from tests.baselines.small import baseline_config, trained
from tests.tiny_models import TinyModel


class Killed(BaseException):
    """What a test ends a training with, as a signal would."""


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_full_disk_for_a_checkpoint(tiny_bert: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch hides what the system says."""

    def no_space(*_: Any) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0\nframe #0")

    monkeypatch.setattr(torch, "save", no_space)
    with pytest.raises(
        RunError, match=r"checkpoint\.pt: cannot be written: .*unexpected pos 64 vs 0; nothing was left"
    ):
        trained(baseline_config(tiny_bert, tmp_path, training={"checkpoint_minutes": 0}))
    assert not any(name.endswith((".pt", ".partial")) for name in _names(tmp_path / "tiny"))


def test_a_diverged_training_ends(tiny_bert: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Fitting._loss
    monkeypatch.setattr(Fitting, "_loss", lambda self, rows: original(self, rows) * torch.tensor(float("nan")))
    with pytest.raises(RunError, match=r"the loss is nan at step 1: .*lower training\.learning_rate"):
        trained(baseline_config(tiny_bert, tmp_path))
    assert read_manifest(tmp_path / "tiny").status == "training"
    assert read_lines(tmp_path / "tiny" / "training.jsonl") == []


def test_weights_that_a_kill_overtook_do_not_count(
    tiny_bert: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed behind a second epoch that was better; done again it is worse, so the first one counts."""
    config = baseline_config(tiny_bert, tmp_path, training={"epochs": 2, "checkpoint_minutes": 0})
    folder, scores, append = tmp_path / "tiny", iter([0.2, 0.3, 0.1]), loop.append_line

    def append_and_die(path: Path, record: dict[str, Any]) -> None:
        append(path, record)
        if record.get("weighted_f1") == 0.3:
            raise Killed

    monkeypatch.setattr(loop, "score_metrics", lambda *_: {"weighted_f1": next(scores)})
    monkeypatch.setattr(loop, "append_line", append_and_die)
    with pytest.raises(Killed):
        trained(config)
    first, second = (epoch_weights(folder, epoch).read_bytes() for epoch in (1, 2))
    assert first != second
    trained(config, resume=True)
    assert [(r["weighted_f1"], r["best"]) for r in read_lines(folder / "selection.jsonl")] == [
        (0.2, True),
        (0.1, False),
    ]
    assert (folder / "model.safetensors").read_bytes() == first
    assert not list(folder.glob("epoch-*"))


def test_a_checkpoint_of_an_older_version_is_told(tiny_bert: TinyModel, tmp_path: Path) -> None:
    config = baseline_config(tiny_bert, tmp_path)
    _unfinished(trained(config).folder)
    torch.save({"step": 3, "best": None}, tmp_path / "tiny" / "checkpoint.pt")
    with pytest.raises(RunError, match=r"checkpoint\.pt: written by an older version of erc-llm; delete it"):
        trained(config, resume=True)


def test_what_a_kill_left_half_written_goes(tiny_bert: TinyModel, tmp_path: Path) -> None:
    config = baseline_config(tiny_bert, tmp_path)
    _unfinished(trained(config).folder)
    left = tmp_path / "tiny" / ".checkpoint.pt.4711.partial"
    left.write_bytes(b"half")
    trained(config, resume=True)
    assert not left.exists()


def test_a_training_does_not_go_on_in_another_precision(tiny_bert: TinyModel, tmp_path: Path) -> None:
    config = baseline_config(tiny_bert, tmp_path)
    folder = trained(config).folder
    _unfinished(folder)
    write_manifest(folder, replace(read_manifest(folder), precision="bfloat16"))
    with pytest.raises(
        RunError, match=r"the run began in bfloat16 and would continue in float32; set encoder\.precision"
    ):
        trained(config, resume=True)


def _unfinished(folder: Path) -> None:
    write_manifest(folder, replace(read_manifest(folder), status="training"))


def test_text_can_be_left_out_later(tiny_bert: TinyModel, tmp_path: Path) -> None:
    """Of every table of the run, whichever is asked for."""
    config = baseline_config(tiny_bert, tmp_path)
    tables = [trained(config).folder / "selection.parquet", trained(config, resume=True).write("dev")]
    assert all(read_predictions(path).text for path in tables)
    trained(config, resume=True, with_text=False)
    assert [read_predictions(path).text for path in tables] == [None, None]


# --- models


def _with_dropout(tiny_bert: TinyModel, tmp_path: Path, folder: Path) -> BaselineConfig:
    section = {"base": str(folder), "attention_dropout": 0.0}
    return baseline_config(tiny_bert, tmp_path, kind="encoder", encoder=section)


def test_the_dropout_of_attention_goes_by_the_models_own_name(tiny_bert: TinyModel, tmp_path: Path) -> None:
    from transformers import DistilBertConfig, DistilBertModel

    folder = tmp_path / "distilbert"
    config = DistilBertConfig(vocab_size=len(tiny_bert.tokenizer), dim=32, hidden_dim=64, n_layers=1, n_heads=4)
    DistilBertModel(config).save_pretrained(folder)
    tiny_bert.tokenizer.save_pretrained(folder)
    for base, name in ((folder, "attention_dropout"), (tiny_bert.folder, "attention_probs_dropout_prob")):
        loaded = build(_with_dropout(tiny_bert, tmp_path, base), labels=7)
        assert getattr(loaded.model.context.backbone.config, name) == 0.0


def test_a_model_without_that_dropout_is_refused(tiny_bert: TinyModel, tmp_path: Path) -> None:
    from transformers import FNetConfig, FNetModel

    folder = Path(shutil.copytree(tiny_bert.folder, tmp_path / "fnet"))
    config = FNetConfig(vocab_size=len(tiny_bert.tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1)
    FNetModel(config).save_pretrained(folder)
    assert load_encoder(str(folder)).model.config.model_type == "fnet"
    with pytest.raises(ModelError, match=r"no dropout of attention scores to set; leave out encoder\.att"):
        build(_with_dropout(tiny_bert, tmp_path, folder), labels=7)


def test_a_model_that_is_no_encoder_is_refused(tiny_bert: TinyModel, tiny_llama: TinyModel, tmp_path: Path) -> None:
    """Its first token sees nothing of the text."""
    with pytest.raises(ModelError, match=r"encoder\.base: .* is no encoder with a class token; expected one"):
        build(baseline_config(tiny_bert, tmp_path, encoder={"base": str(tiny_llama.folder)}), labels=7)
