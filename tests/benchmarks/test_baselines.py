"""The peer of the baselines' benchmark reads and learns what CoMPM would, one target at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import baselines
from benchmarks.measure import Job, Result
from benchmarks.report import tables
from erc_llm.baselines.build import build
from erc_llm.baselines.loop import Fitting, LoopSettings
from erc_llm.runs.progress import SILENT
from tests.baselines.small import baseline_config, small_corpus, writer_of
from tests.tiny_models import TinyModel


def _fitting(model: TinyModel, folder: Path) -> tuple[Fitting, list[baselines.Example]]:
    options = {"memory": {"encoding": "end_to_end", "dropout": 0}, "speaker": {"weighted_loss": "none"}}
    config = baseline_config(model, folder, encoder={"attention_dropout": 0}, **options)
    corpus = small_corpus()
    examples = [e for e in writer_of(config, model, corpus).examples(corpus.split("train")) if e.memory]
    loaded = build(config, 7)
    for module in loaded.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    settings = LoopSettings(1, 1, 1e-3, 1e-3, "linear", 0.0, 0.0, 10.0, (1.0,) * 7, 1, 1e9, 1)
    return Fitting(loaded, examples, examples[:1], settings, folder, SILENT), examples


def test_a_step_of_the_peer_is_a_step_of_ours_at_batch_size_one(tiny_bert: TinyModel, tmp_path: Path) -> None:
    (ours, examples), (theirs, _) = (_fitting(tiny_bert, tmp_path) for _ in range(2))
    peer = baselines.one_by_one(theirs)
    for example in examples[:3]:
        assert peer([example]) == pytest.approx(ours.step([example]), rel=1e-4)


def test_all_sides_are_measured_and_reported(
    tiny_bert: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "emonet.yaml"
    path.write_text(baseline_config(tiny_bert, tmp_path).as_yaml(), encoding="utf-8")
    monkeypatch.setattr("erc_llm.config_files.configs_dir", lambda: tmp_path)
    monkeypatch.setattr(baselines, "PEER_TARGETS", 5)
    monkeypatch.setattr("benchmarks.measure.run_job", lambda job: baselines.run(**job.arguments))
    ran: list[str] = []

    def on_run(number: int, job: Job, result: Result) -> None:
        ran.append(job.name)

    section = baselines.compare("sample", 3, 2, on_run)
    assert ran == [*baselines.SIDES, *reversed(baselines.SIDES)]
    sides = section["sides"]
    assert sides[baselines.PEER]["utterances"] == sides[baselines.COMPM]["utterances"] == 5
    assert sides[baselines.CACHED]["utterances"] == sides[baselines.END_TO_END]["utterances"] > 5
    assert sides[baselines.CACHED]["slower_rounds"] == (1.0, 1.0)
    (table,) = tables({"baselines": section})
    assert [row[0] for row in table.rows] == list(baselines.SIDES)
