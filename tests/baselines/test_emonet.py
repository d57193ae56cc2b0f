"""EmoNet's switches: all off is CoMPM to the last bit, and weights of classes are what their formulas say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from erc_llm.baselines.build import build
from erc_llm.baselines.emonet import ABLATION, class_weights
from erc_llm.baselines.loop import Fitting, LoopSettings
from erc_llm.baselines.weights import trained as trained_weights
from erc_llm.published import reported_system
from erc_llm.runs.progress import SILENT
from tests.baselines.small import baseline_config, small_corpus, trained, writer_of
from tests.tiny_models import TinyModel

OFF = {"speaker": {"global_identity": False, "behaviour": False, "weighted_loss": "none"}}


def test_all_parts_off_is_exactly_compm(tiny_bert: TinyModel, tmp_path: Path) -> None:
    runs = [
        trained(baseline_config(tiny_bert, tmp_path / name, kind=name, **(OFF if name == "emonet" else {})))
        for name in ("compm", "emonet")
    ]
    compm, emonet = ((run.folder / "model.safetensors").read_bytes() for run in runs)
    assert compm == emonet
    tables = [run.predict("dev") for run in runs]
    assert tables[0].probabilities is not None
    assert tables[1].probabilities is not None
    assert tables[0].probabilities.tobytes() == tables[1].probabilities.tobytes()
    assert tables[0].info.profile == tables[1].info.profile


@pytest.mark.parametrize(
    "part",
    [{"global_identity": True}, {"behaviour": True}, {"weighted_loss": "unnormalised"}],
    ids=lambda p: next(iter(p)),
)
def test_each_part_changes_the_training_and_no_parameter(
    tiny_bert: TinyModel, tmp_path: Path, part: dict[str, object]
) -> None:
    weights = []
    for name, speaker in (("off", OFF["speaker"]), ("on", OFF["speaker"] | part)):
        config = baseline_config(tiny_bert, tmp_path / name, speaker=speaker, training={"epochs": 1})
        weights.append(trained_weights(trained(config).loaded.model))
    off, on = weights
    assert {k: v.shape for k, v in off.items()} == {k: v.shape for k, v in on.items()}
    assert any(not torch.equal(off[name], on[name]) for name in off)


def test_the_weights_formulas() -> None:
    counts = [10, 0, 40, 50]
    assert class_weights(counts, "none") == (1.0, 0.0, 1.0, 1.0)
    assert class_weights(counts, "unnormalised") == (100 / 10, 0.0, 100 / 40, 100 / 50)
    normalised = class_weights(counts, "normalised")
    assert normalised == pytest.approx((100 / 30, 0.0, 100 / 120, 100 / 150))
    assert np.average(normalised, weights=counts) == pytest.approx(1.0)


def test_a_loss_is_weighed_also_at_batch_size_one(tiny_bert: TinyModel, tmp_path: Path) -> None:
    """torch's weighted mean would divide the weight away."""
    corpus = small_corpus()
    losses = []
    for weight in (1.0, 3.0):
        config = baseline_config(tiny_bert, tmp_path, kind="encoder")
        loaded = build(config, 7)
        example = writer_of(config, tiny_bert, corpus).examples(corpus.split("train"))[:1]
        settings = LoopSettings(1, 1, 1e-3, 1e-3, "linear", 0.0, 0.0, 1.0, (weight,) * 7, 1, 1e9, 1)
        fitting = Fitting(loaded, example, example, settings, tmp_path, SILENT)
        torch.manual_seed(1)
        losses.append(fitting.step(example)[0])
    assert losses[1] == pytest.approx(3 * losses[0], rel=1e-5)


def test_the_rows_of_the_ablation_add_one_part_each() -> None:
    parts = [(r.switches.global_identity, r.switches.behaviour, r.switches.weighted_loss) for r in ABLATION]
    assert parts == [
        (False, False, "none"),
        (True, False, "none"),
        (True, True, "none"),
        (True, True, "unnormalised"),
        (True, True, "normalised"),
    ]
    thesis = [reported_system(row.published) for row in ABLATION]
    assert [(row.accuracy, row.weighted_f1) for row in thesis] == [
        (39.38, 37.85),
        (35.51, 29.43),
        (39.90, 36.96),
        (40.43, 37.13),
        (41.18, 39.18),
    ]
