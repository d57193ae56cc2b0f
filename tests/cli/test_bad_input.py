"""One clear message for each kind of bad input: exit code 2, nothing half-written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from erc_llm.models.adapters import attach_lora, save_adapter
from tests.command_line import Command, Done, refused
from tests.corpus.small_files import DEV, TRAIN, aligned, original
from tests.tiny_models import TinyModel, random_llama
from tests.tiny_runs import as_json, dialogue, write_corpus


def _save(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _lines(*texts: str, label: str | None = "Sad", name: str = "d1") -> dict[str, object]:
    return {"id": name, "utterances": [{"speaker": "Ada", "text": text, "label": label} for text in texts]}


def test_a_missing_file(erc: Command, config: Path, finished: Path, tmp_path: Path) -> None:
    gone = tmp_path / "nowhere" / "x"
    refused(erc("data", gone), str(gone))
    refused(erc("render", gone, "--config", config), str(gone))
    refused(erc("train", config, f"corpus.path={gone}"), str(gone))
    refused(erc("train", gone), str(gone), "configuration")
    refused(erc("predict", finished, gone, "--out", tmp_path / "t.parquet"), str(gone))
    refused(erc("predict", gone), str(gone), "run")
    refused(erc("evaluate", gone), str(gone))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.yaml"]


@pytest.mark.parametrize("column", ["Emotion", "Utterance", "Speaker"])
def test_a_csv_without_a_column(column: str, erc: Command, tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text(aligned(TRAIN).replace(column, "Other", 1), encoding="utf-8")
    refused(erc("data", path), str(path), column)


def test_json_cut_in_the_middle(erc: Command, tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    text = original(TRAIN)
    path.write_text(text[: len(text) // 2], encoding="utf-8")
    refused(erc("data", path), f"{path}:")
    cut = _save(tmp_path / "dev.jsonl", as_json(dialogue(0, 3)), as_json(dialogue(1, 3)))
    cut.write_text(cut.read_text(encoding="utf-8")[:-30], encoding="utf-8")
    refused(erc("data", cut), f"{cut}:2")


def test_an_unknown_label(erc: Command, config: Path, tmp_path: Path) -> None:
    path = _save(tmp_path / "train.jsonl", _lines("One."), _lines("Two.", label="Grumpy", name="d2"))
    refused(erc("data", path), f"{path}:2", "Grumpy", "Joyful")
    refused(erc("train", config, f"corpus.path={path}"), f"{path}:2", "Grumpy")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("text", ["", "\n\n", '{"id": "d1", "utterances": []}\n'])
def test_an_empty_corpus(text: str, erc: Command, config: Path, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(text, encoding="utf-8")
    refused(erc("data", path), "empty")
    refused(erc("train", config, f"corpus.path={path}"), "empty")
    folder = tmp_path / "folder"
    folder.mkdir()
    refused(erc("data", folder), str(folder))
    assert not (tmp_path / "runs").exists()


def _odd_corpus(folder: Path, *rows: object) -> Path:
    """The usual train split, and these rows as dev."""
    write_corpus(folder)
    return _save(folder / "dev.jsonl", *rows).parent


def _predicted(erc: Command, run: Path, folder: Path, table: Path) -> tuple[Done, list[dict[str, Any]]]:
    done = erc("predict", run, folder, "--out", table)
    assert done.code == 0, done.err
    return done, [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()[1:]]


def test_an_empty_utterance_is_context_and_warned_about(finished: Path, erc: Command, tmp_path: Path) -> None:
    folder = _odd_corpus(tmp_path / "corpus", _lines("Is it you?", "  ", "It is."))
    assert "empty utterance" in erc("data", folder).out
    _, rows = _predicted(erc, finished, folder, tmp_path / "t.jsonl")
    assert [row["text"] for row in rows] == ["Is it you?", "It is."]
    assert [row["position"] for row in rows] == [0, 2]


def test_predict_warns_about_an_empty_utterance(finished: Path, erc: Command, tmp_path: Path) -> None:
    folder = _odd_corpus(tmp_path / "corpus", _lines("Is it you?", "  ", "It is."))
    done, _ = _predicted(erc, finished, folder, tmp_path / "t.jsonl")
    assert "empty utterance" in done.out + done.err


def test_a_scene_of_one_utterance(finished: Path, erc: Command, tmp_path: Path) -> None:
    folder = _odd_corpus(tmp_path / "corpus", _lines("Alone."))
    _, rows = _predicted(erc, finished, folder, tmp_path / "t.jsonl")
    assert [row["text"] for row in rows] == ["Alone."]
    single = [_lines("Alone.", name=f"d{i}") for i in range(4)]
    config = json.dumps(str(_save(tmp_path / "train.jsonl", *single)))
    content = (finished / "config.yaml").read_text(encoding="utf-8")
    (tmp_path / "one.yaml").write_text(content, encoding="utf-8")
    done = erc("train", tmp_path / "one.yaml", f"corpus.path={config}", f"output={tmp_path / 'runs'}")
    assert done.code == 0, done.err


def test_an_utterance_of_10_000_words(finished: Path, erc: Command, tmp_path: Path) -> None:
    """It is cut to half the trunk's budget; the model reads 2048 positions here, so the budget is set to fit."""
    run = Path(shutil.copytree(finished, tmp_path / "tiny"))
    text = (run / "config.yaml").read_text(encoding="utf-8").replace("trunk_budget: 2048", "trunk_budget: 1024")
    (run / "config.yaml").write_text(text, encoding="utf-8")
    folder = _odd_corpus(tmp_path / "corpus", _lines("Before.", "no " * 10_000, "After."))
    assert "1,000 words" in erc("data", folder).out
    _, rows = _predicted(erc, run, folder, tmp_path / "t.jsonl")
    assert len(rows) == 3
    assert all(sum(row["probabilities"]) == pytest.approx(1) for row in rows)


def test_invalid_utf8(erc: Command, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(json.dumps(_lines("caf_")).encode().replace(b"_", b"\xe9") + b"\n")
    refused(erc("data", path), str(path), "UTF-8")
    (tmp_path / "run.yaml").write_bytes(b"name: caf\xe9\n")
    refused(erc("train", tmp_path / "run.yaml"), "run.yaml", "UTF-8")


def test_a_yaml_with_three_mistakes(erc: Command, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("lora: {rank: -4}\ntraining: {epochs: many}\nprompt: {contxt: past}\n", encoding="utf-8")
    done = erc("train", path)
    refused(done, "3 mistakes", "lora.rank", "training.epochs", "prompt.contxt", lines=4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.yaml"]


def test_an_adapter_that_does_not_fit_the_base_model(
    finished: Path, tiny_llama: TinyModel, erc: Command, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "tiny"))
    shutil.rmtree(run / "adapter")
    deeper = random_llama(tiny_llama.tokenizer, layers=3)
    save_adapter(attach_lora(deeper, rank=4, alpha=8, dropout=0.0, seed=1), run / "adapter")
    refused(erc("predict", run, "--out", tmp_path / "t.parquet"), str(run / "adapter"), "layers.2")
    assert not (tmp_path / "t.parquet").exists()


def test_a_damaged_adapter(finished: Path, erc: Command, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "tiny"))
    weights = run / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(erc("predict", run, "--out", tmp_path / "t.parquet"), str(weights))


def test_a_base_model_that_is_not_there(erc: Command, config: Path, finished: Path, tmp_path: Path) -> None:
    gone = tmp_path / "no-model"
    refused(erc("train", config, f"model.base={gone}"), str(gone), "hub id")
    run = Path(shutil.copytree(finished, tmp_path / "tiny"))
    text = (run / "config.yaml").read_text(encoding="utf-8")
    (run / "config.yaml").write_text(text.replace("base: ", f"base: {gone} # "), encoding="utf-8")
    refused(erc("predict", run, "--out", tmp_path / "t.parquet"), str(gone))
    refused(erc("render", "sample", "--config", config, f"model.base={gone}"), str(gone))
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "t.parquet").exists()


def test_a_folder_that_is_no_run(erc: Command, tmp_path: Path) -> None:
    refused(erc("predict", tmp_path), str(tmp_path), "manifest.json")


def test_a_split_that_is_not_there(erc: Command, finished: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.parquet"
    refused(erc("predict", finished, "--split", "test", "--out", table), "no split 'test'", "train, dev")
    assert not table.exists()


def test_a_table_that_is_none(erc: Command, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_text("not a table", encoding="utf-8")
    refused(erc("evaluate", path), str(path))


def test_the_small_files_of_the_tests_are_good_ones(erc: Command, tmp_path: Path) -> None:
    """Else the tests of bad input above would prove nothing."""
    for name, lines in (("train", TRAIN), ("dev", DEV)):
        (tmp_path / f"{name}.csv").write_text(aligned(lines), encoding="utf-8")
    assert erc("data", tmp_path).code == 0
