"""The table of neighbours: on the sample corpus, with scores that know nothing and lines that repeat themselves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import neighbours
from erc_llm.corpus import EMORYNLP, read_corpus
from erc_llm.predictions import Prediction, Predictions, PredictionsInfo, write_predictions
from tests.benchmarks.test_decided_tables import rows_of
from tests.tiny_runs import ENDINGS, write_corpus


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A corpus whose labels can be read off the end of a line, in seven scenes out of eight."""
    folder = write_corpus(tmp_path / "corpus", train=32, dev=1)
    path = folder / "train.jsonl"
    scenes = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for number, scene in enumerate(scenes):
        for line in scene["utterances"] if number % 8 else ():
            line["label"] = EMORYNLP.names[next(i for i, e in enumerate(ENDINGS) if line["text"].endswith(e))]
    path.write_text("".join(json.dumps(scene) + "\n" for scene in scenes), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_every_encoder_and_its_control_has_a_row(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read = read_corpus(corpus)
    dialogues = read.split("train")
    info = PredictionsInfo(
        system="nothing", labels=EMORYNLP.names, corpus_sha256=read.sha256, corpus_name="tiny", corpus_version="own",
        split="train", folds=5,
    )  # fmt: skip
    scores = np.random.default_rng(0).normal(size=(sum(len(d.targets) for d in dialogues), 7))
    given = [Prediction(EMORYNLP.names[int(row.argmax())], log_likelihoods=row.tolist()) for row in scores]
    write_predictions(Predictions.from_corpus(info, dialogues, given), tmp_path / "crossfit.parquet")
    assert neighbours.main([str(tmp_path / "crossfit.parquet"), str(corpus), "words"]) == 0
    out = capsys.readouterr().out
    plain, words, control = rows_of(out)[:3]
    assert [row[0] for row in (plain, words, control)] == [
        "no neighbours", "words", "words, own episode allowed (control)"
    ]  # fmt: skip
    assert float(words[7].split()[0]) > 0.1
    assert "by themselves right in" in out
    assert "8 nearest of 112 lines for 112 lines, after encoding: words: " in out
