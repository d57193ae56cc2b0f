"""Corpora in folders of the `datasets` library, and on a hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from erc_llm.corpus import Corpus, read_corpus
from erc_llm.corpus.datasets_folder import download_dataset
from erc_llm.errors import CorpusError
from tests.tiny_runs import write_corpus


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("saved") / "corpus")


def rows_of(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def scenes(corpus: Corpus) -> dict[str, object]:
    return dict(corpus.splits)


def test_a_saved_dataset_is_read_as_its_jsonl_is(folder: Path, tmp_path: Path) -> None:
    parts = {"train": rows_of(folder / "train.jsonl"), "validation": rows_of(folder / "dev.jsonl")}
    DatasetDict({name: Dataset.from_list(rows) for name, rows in parts.items()}).save_to_disk(tmp_path / "saved")
    found, expected = read_corpus(tmp_path / "saved"), read_corpus(folder)
    assert scenes(found) == scenes(expected)
    assert found.sha256 == expected.sha256
    assert found.version == "own"


def test_a_dataset_without_splits_is_all(folder: Path, tmp_path: Path) -> None:
    Dataset.from_list(rows_of(folder / "dev.jsonl")).save_to_disk(tmp_path / "saved")
    assert set(read_corpus(tmp_path / "saved").splits) == {"all"}


def test_a_wrong_row_is_named_by_split_and_row(folder: Path, tmp_path: Path) -> None:
    rows = rows_of(folder / "dev.jsonl")
    rows[1]["utterances"][0]["label"] = "Gloomy"  # type: ignore[index]
    DatasetDict({"dev": Dataset.from_list(rows)}).save_to_disk(tmp_path / "saved")
    with pytest.raises(CorpusError, match=r"saved/dev:2.*Gloomy"):
        read_corpus(tmp_path / "saved")


def test_a_damaged_dataset_is_an_error(folder: Path, tmp_path: Path) -> None:
    Dataset.from_list(rows_of(folder / "dev.jsonl")).save_to_disk(tmp_path / "saved")
    for file in (tmp_path / "saved").glob("*.arrow"):
        file.write_bytes(b"nothing")
    with pytest.raises(CorpusError, match="cannot be read as a dataset"):
        read_corpus(tmp_path / "saved")


def test_a_dataset_of_the_hub_that_cannot_be_had_is_an_error() -> None:
    with pytest.raises(CorpusError, match=r"hub:nobody/talks: .*hf download nobody/talks --repo-type dataset"):
        read_corpus("hub:nobody/talks")
    with pytest.raises(CorpusError, match="not in the hub's cache"):
        download_dataset("nobody/talks")


def test_a_downloaded_dataset_is_a_folder_of_split_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    assert read_corpus("hub:nobody/talks").sha256 == read_corpus(folder).sha256


def test_a_downloaded_dataset_may_be_parquet(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `push_to_hub` writes it: a split in several files under data/."""
    rows = rows_of(folder / "train.jsonl")
    parts = {"train-00000-of-00002": rows[:3], "train-00001-of-00002": rows[3:]}
    parts["validation-00000-of-00001"] = rows_of(folder / "dev.jsonl")
    (tmp_path / "data").mkdir()
    for name, part in parts.items():
        Dataset.from_list(part).to_parquet(tmp_path / "data" / f"{name}.parquet")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    found, expected = read_corpus("hub:nobody/talks"), read_corpus(folder)
    assert scenes(found) == scenes(expected)
    (tmp_path / "data" / "train-00000-of-00002.parquet").write_bytes(b"nothing")
    with pytest.raises(CorpusError, match="cannot be read as Parquet"):
        read_corpus("hub:nobody/talks")


def test_a_saved_dataset_cannot_name_files_outside_its_folder(folder: Path, tmp_path: Path) -> None:
    Dataset.from_list(rows_of(folder / "dev.jsonl")).save_to_disk(tmp_path / "other")
    for name in (str(tmp_path / "other" / "data-00000-of-00001.arrow"), "../other/data-00000-of-00001.arrow"):
        DatasetDict({"dev": Dataset.from_list(rows_of(folder / "dev.jsonl"))}).save_to_disk(tmp_path / "saved")
        state = tmp_path / "saved" / "dev" / "state.json"
        state.write_text(json.dumps(json.loads(state.read_text()) | {"_data_files": [{"filename": name}]}))
        with pytest.raises(CorpusError, match="expected the name of a file"):
            read_corpus(tmp_path / "saved")
    splits = tmp_path / "saved" / "dataset_dict.json"
    splits.write_text(json.dumps({"splits": ["../other"]}))
    with pytest.raises(CorpusError, match="expected the name of a file"):
        read_corpus(tmp_path / "saved")
