"""A run answers in other ways than it was made for: averaged, constrained, behind reasons, freely."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from erc_llm.errors import ConfigError
from erc_llm.predictions import read_predictions, write_predictions
from erc_llm.predictor import load
from erc_llm.recipes.data import open_corpus
from erc_llm.recipes.predict import predict
from erc_llm.recipes.train import train
from erc_llm.runs.directory import Run
from tests.tiny_models import TinyModel
from tests.tiny_runs import as_json, dialogue, tiny_config, write_corpus

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def finished(tiny_llama: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of a few steps; read it, do not change it."""
    corpus = write_corpus(tmp_path_factory.mktemp("decodings") / "corpus")
    return train(tiny_config(tiny_llama, corpus, tmp_path_factory.mktemp("runs")), console=QUIET)


WAYS = {
    "constrained generation": ["scoring.decode=generate"],
    "constrained generation behind reasons": [
        "scoring.decode=generate",
        "scoring.answer=reason_then_label",
        "scoring.reason_tokens=5",
    ],
    "free generation": ["scoring.decode=free", "scoring.answer_tokens=4"],
    "mean of 3 label orders": ["scoring.label_orders=3"],
}


@pytest.mark.parametrize("decoding", WAYS)
def test_a_run_answers_in_another_way_than_its_own(decoding: str, finished: Run, tmp_path: Path) -> None:
    predictor = load(finished.folder, overrides=WAYS[decoding])
    data = open_corpus(finished.config.corpus, finished.config.label_set(), cut_selection=False)
    seen: list[int] = []
    write_predictions(predict(predictor, data, "dev", on_progress=seen.append), tmp_path / "dev.parquet")
    table, usual = read_predictions(tmp_path / "dev.parquet"), predict(load(finished.folder), data, "dev")
    assert seen[-1] == len(data.split("dev"))
    assert (table.keys, table.gold, table.text) == (usual.keys, usual.gold, usual.text)
    assert table.info.decoding == decoding
    assert table.info.system == f"tiny, {decoding}"
    assert (usual.info.decoding, usual.info.system) == (None, "tiny")
    assert table.info.run_id == finished.manifest.run_id
    assert table.info.config_sha256 != usual.info.config_sha256
    written = table.raw_answer is not None
    assert written == ("generation" in decoding)
    assert {"probabilities", "log_likelihoods", "label_mass"}.isdisjoint(table.missing) == (not written)
    names = {name.casefold() for name in table.info.labels}
    for label, invalid, raw in zip(table.predicted, table.invalid, table.raw_answer or table.predicted, strict=True):  # type: ignore[arg-type]
        assert invalid == (label is None)
        assert label is None or str(raw).casefold().rpartition("\n")[2] == label.casefold()
        assert decoding == "free generation" or str(raw).casefold().rpartition("\n")[2] in names


def test_scores_are_not_written(finished: Run) -> None:
    data = open_corpus(finished.config.corpus, finished.config.label_set(), cut_selection=False)
    with pytest.raises(ConfigError, match=r"scoring\.decode: `score` generates no text"):
        load(finished.folder).written(data.split("dev"))


def test_free_text_counts_among_the_positions_of_the_model(finished: Run) -> None:
    with pytest.raises(ConfigError, match=r"tokens of lines and .* around them exceed the 4096 positions"):
        load(
            finished.folder,
            overrides=["scoring.decode=generate", "scoring.answer=reason_then_label", "scoring.reason_tokens=2048"],
        )


@pytest.mark.parametrize("decode", ["score", "generate"])
def test_odd_label_names_come_back_whole(decode: str, tiny_llama: TinyModel, tmp_path: Path) -> None:
    """One begins another; spaces, accents, emoji and a comma: trained on, answered with, and read back."""
    names = ["très gêné", "in love", "in", "😢", "😢😢", "a, b"]
    folder = tmp_path / "corpus"
    folder.mkdir()
    rows = [as_json(dialogue(number, 5)) for number in range(8)]
    for row in rows:
        for k, line in enumerate(row["utterances"]):
            line["label"] = names[(k + row["scene"]) % len(names)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sections: dict[str, Any] = {
        "corpus": {"labels": {"names": names}, "selection_fraction": 0.3},
        "scoring": {"decode": decode},
        "training": {"objective": "closed_set", "epochs": 2},
    }
    run = train(tiny_config(tiny_llama, folder, tmp_path, **sections), console=QUIET)
    data = open_corpus(run.config.corpus, run.config.label_set())
    write_predictions(predict(load(run.folder), data, "selection"), tmp_path / "t.jsonl")
    table = read_predictions(tmp_path / "t.jsonl")
    assert set(table.predicted) <= set(names)
    assert table.raw_answer is None or table.raw_answer == table.predicted
