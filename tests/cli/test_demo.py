"""The last step of the demo: EmoNet on the same corpus, and what the comparison says."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from erc_llm.cli.demo import SPLIT, compare_with_baseline
from erc_llm.config import RunConfig, load_config
from erc_llm.corpus import Corpus
from erc_llm.predictions import Prediction, Predictions, PredictionsInfo, read_predictions
from erc_llm.recipes.data import open_corpus
from tests.tiny_models import TinyModel
from tests.tiny_runs import as_json, dialogue, write_corpus

SMALL = ("encoder.precision=fp32", "encoder.device=cpu", "training.epochs=1", "training.batch_size=8")


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """The demo's, on a small corpus with a test split."""
    folder = write_corpus(tmp_path / "corpus", train=12)
    scenes = [json.dumps(as_json(dialogue(i, 3, season=3))) for i in range(3)]
    (folder / f"{SPLIT}.jsonl").write_text("\n".join(scenes) + "\n", encoding="utf-8")
    return load_config("sample", [f"corpus.path={folder}", "seed=5", f"output={tmp_path}"])


def _all_neutral(corpus: Corpus) -> Predictions:
    labels = corpus.labels.names
    info = PredictionsInfo(
        system="demo",
        labels=labels,
        corpus_sha256=corpus.sha256,
        corpus_name=corpus.name,
        corpus_version=corpus.version,
        split=SPLIT,
    )
    scenes = corpus.split(SPLIT)
    return Predictions.from_corpus(info, scenes, [Prediction("Neutral") for d in scenes for _ in d.targets])


def _compared(config: RunConfig, tmp_path: Path, *overrides: str) -> str:
    corpus = open_corpus(config.corpus, config.label_set())
    said = io.StringIO()
    console = Console(file=said, width=200)
    compare_with_baseline(_all_neutral(corpus), corpus, config, tmp_path, console, overrides)
    return said.getvalue()


def test_emonet_is_trained_on_the_corpus_and_by_the_seed_of_the_demo(
    config: RunConfig, tiny_bert: TinyModel, tmp_path: Path
) -> None:
    for _ in range(2):  # a second demo replaces what the first one left
        said = _compared(config, tmp_path, f"encoder.base={tiny_bert.folder}", *SMALL)
    assert "weighted F1" in said
    assert str(tmp_path / "demo-comparison") in said
    table = read_predictions(tmp_path / "demo-emonet.parquet")
    assert (table.info.seed, table.info.split, len(table)) == (5, SPLIT, 9)
    report = json.loads((tmp_path / "demo-comparison" / "comparison.json").read_text(encoding="utf-8"))
    assert [system["name"] for system in report["systems"]] == ["demo", "demo-emonet"]


def test_without_its_encoder_the_comparison_is_left_out_with_the_reason(config: RunConfig, tmp_path: Path) -> None:
    said = _compared(config, tmp_path, f"encoder.base={tmp_path / 'nothing'}")
    assert "left out: " in said
    assert "nothing" in said
    assert not (tmp_path / "demo-comparison").exists()
