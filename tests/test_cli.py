"""The command line: instant help, its commands on a small corpus, one clear message for each kind of bad input."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from erc_llm.adapters import attach_lora, save_adapter
from erc_llm.config import RunConfig
from erc_llm.predictions import read_predictions
from tests.command_line import Command, Done, refused
from tests.corpus.small_files import DEV, TRAIN, aligned, original
from tests.tiny_models import TinyModel, random_llama
from tests.tiny_runs import as_json, dialogue, tiny_config, write_corpus

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("ERC_LLM_CACHE", str(cache))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("cli") / "corpus")


@pytest.fixture
def config(tiny_llama: TinyModel, corpus: Path, tmp_path: Path) -> Path:
    return _save_config(tiny_config(tiny_llama, corpus, tmp_path / "runs"), tmp_path)


@pytest.fixture(scope="module")
def finished(tiny_llama: TinyModel, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory, trained once; do not change it."""
    from rich.console import Console

    from erc_llm.training import train

    output = tmp_path_factory.mktemp("runs")
    return train(tiny_config(tiny_llama, corpus, output), console=Console(quiet=True)).folder


def _save_config(config: RunConfig, folder: Path) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(config.as_yaml(), encoding="utf-8")
    return path


def _save(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _lines(*texts: str, label: str | None = "Sad", name: str = "d1") -> dict[str, object]:
    return {"id": name, "utterances": [{"speaker": "Ada", "text": text, "label": label} for text in texts]}


# --- the help


def _python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


HELP = """
import sys, time
started = time.process_time()
sys.argv = ["erc-llm", *sys.argv[1:]]
from erc_llm.cli import main
try:
    main()
except SystemExit as end:
    code = end.code or 0
heavy = {"torch", "transformers", "peft", "trl", "datasets", "sklearn", "scipy", "pandas", "pyarrow", "matplotlib",
         "numpy", "bitsandbytes"}
print("HEAVY", sorted(heavy & set(sys.modules)))
print("SECONDS", time.process_time() - started)
sys.exit(code)
"""


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    """Half a second on a warm disk; processor time, so that a busy machine does not fail the test."""
    done = _python(HELP, "--help")
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout
    assert float(done.stdout.rpartition("SECONDS ")[2]) < 0.5
    for command in ("demo", "data", "profile", "render", "train", "predict", "calibrate", "evaluate", "baseline"):
        assert command in done.stdout


@pytest.mark.parametrize(
    "command", ["data", "profile", "render", "train", "predict", "calibrate", "evaluate", "baseline", "demo"]
)
def test_every_command_has_its_help(command: str, erc: Command) -> None:
    done = erc(command, "--help")
    assert done.code == 0
    assert f" {command} [OPTIONS]" in done.out


def test_the_version(erc: Command) -> None:
    from erc_llm import __version__

    assert erc("--version").out.strip() == __version__


def test_an_error_from_the_shell_has_no_traceback_and_exit_code_2() -> None:
    done = _python("from erc_llm.cli import main; main()", "train", "no-such-config")
    assert done.returncode == 2
    assert done.stderr.startswith("erc-llm: no-such-config: no such configuration file")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("arguments", [("fly",), ("train",), ("data",), ("train", "sample", "--fast")])
def test_a_wrong_call_is_the_users_mistake(arguments: tuple[str, ...], erc: Command) -> None:
    done = erc(*arguments)
    assert done.code == 2
    assert "Usage" in done.err
    assert "Traceback" not in done.err


# --- the commands


def test_data_says_what_is_in_a_corpus(corpus: Path, erc: Command, tmp_path: Path) -> None:
    done = erc("data", corpus, "--json", tmp_path / "summary.json")
    assert done.code == 0, done.err
    for part in ("train", "dev", "Joyful", "Mara Voss", "own"):
        assert part in done.out
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))


def test_render_shows_the_prompt_of_one_line(corpus: Path, config: Path, erc: Command) -> None:
    done = erc("render", corpus, "--dialogue", "s1_3", "--utterance", 1, "--config", config)
    assert done.code == 0, done.err
    scene = dialogue(3, 5)
    assert scene.utterances[0].text in done.out
    assert scene.utterances[0].label is not None
    assert scene.utterances[0].label in done.out
    assert "<|im_start|>" in done.out
    if scene.utterances[4].text not in {u.text for u in scene.utterances[:1]}:
        assert scene.utterances[4].text not in done.out, "a prompt of context `past` holds no later line"


def test_train_predict_evaluate(config: Path, corpus: Path, erc: Command, tmp_path: Path) -> None:
    trained = erc("train", config, "training.evaluations=1", "name=two.words")
    assert trained.code == 0, trained.err
    run = tmp_path / "runs" / "two.words"
    assert str(run / "adapter") in trained.out
    again = erc("train", config, "training.evaluations=1", "name=two.words")
    refused(again, str(run), "--resume")
    table = tmp_path / "out" / "dev.jsonl"
    predicted = erc("predict", run, corpus, "--split", "dev", "--out", table)
    assert predicted.code == 0, predicted.err
    targets = 2 + 3 + 4
    assert f"{targets} predictions of dev" in predicted.out
    assert len(table.read_text(encoding="utf-8").splitlines()) == targets + 1
    figures = tmp_path / "figures.json"
    done = erc("evaluate", table, "--against", "all-neutral", "--against", table, "--draws", 200, "--json", figures)
    assert done.code == 0, done.err
    for part in ("weighted F1", "macro F1", "accuracy", "Powerful", "dev", "own", "past"):
        assert part.lower() in done.out.lower(), part
    content = json.loads(figures.read_text(encoding="utf-8"))
    assert len(content["differences"]) == 2


def test_predict_takes_the_runs_own_corpus_by_default(finished: Path, erc: Command, tmp_path: Path) -> None:
    done = erc("predict", finished, "--out", tmp_path / "dev.parquet")
    assert done.code == 0, done.err
    assert (tmp_path / "dev.parquet").is_file()


def test_predictions_can_be_shared_without_the_text(finished: Path, erc: Command, tmp_path: Path) -> None:
    table = tmp_path / "dev.jsonl"
    done = erc("predict", finished, "--out", table, "--without-text")
    assert done.code == 0, done.err
    assert "text" in read_predictions(table).missing
    assert erc("evaluate", table, "--draws", 100).code == 0


def test_two_decodings_of_a_run_are_compared(finished: Path, erc: Command, tmp_path: Path) -> None:
    scored, generated = tmp_path / "scored.parquet", tmp_path / "generated.parquet"
    assert erc("predict", finished, "--out", scored).code == 0
    done = erc("predict", finished, "--out", generated, "--decode", "generate")
    assert done.code == 0, done.err
    table = read_predictions(generated)
    assert "probabilities" in table.missing
    done = erc("evaluate", scored, "--against", generated, "--draws", 100)
    assert done.code == 0, done.err
    flips = sum(a != b for a, b in zip(read_predictions(scored).predicted, table.predicted, strict=True))
    assert f"Against tiny, constrained generation: {flips} of 9 answers differ" in done.out
    averaged = tmp_path / "averaged.parquet"
    assert erc("predict", finished, "--out", averaged, "--set", "scoring.label_orders=2").code == 0
    assert read_predictions(averaged).info.decoding == "mean of 2 label orders"


def test_free_text_is_no_part_of_a_table_without_text(finished: Path, erc: Command, tmp_path: Path) -> None:
    for decode, kept in (("generate", True), ("free", False)):
        done = erc("predict", finished, "--out", tmp_path / "t.parquet", "--decode", decode, "--without-text")
        assert done.code == 0, done.err
        assert ("raw_answer" not in read_predictions(tmp_path / "t.parquet").missing) == kept


def test_ways_to_answer_that_do_not_fit_are_refused_before_the_model_is_loaded(
    finished: Path, erc: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("erc_llm.predictor.load", lambda *_, **__: pytest.fail("the model was loaded"))
    refused(erc("predict", finished, "--decode", "beam"), "scoring.decode", "'beam'", lines=2)
    reasons = erc("predict", finished, "--set", "scoring.answer=reason_then_label")
    refused(reasons, "answer=reason_then_label needs decode=generate", lines=2)
    refused(erc("predict", finished, "--set", "lora.rank=2"), "lora.rank=2", "only scoring.FIELD=VALUE")
    refused(erc("predict", finished, "--interactive", "--decode", "free"), "--interactive", "scoring.decode=free")


def test_predict_from_a_configuration_is_zero_shot(config: Path, erc: Command, tmp_path: Path) -> None:
    done = erc("predict", config, "--out", tmp_path / "zero.parquet")
    assert done.code == 0, done.err
    assert "zero-shot" in erc("evaluate", tmp_path / "zero.parquet", "--draws", 100).out
    assert not (tmp_path / "runs").exists()


def test_interactive_answers_each_line_at_once(finished: Path, erc: Command) -> None:
    typed = (
        "Mara: The kettle has gone again.\nno colon here\n: nobody\nTomas: [bold]It was never ours![/]\n\nMara: So?\n"
    )
    done = erc("predict", finished, "--interactive", typed=typed)
    assert done.code == 0, done.err
    answers = [line for line in done.out.splitlines() if line.count("%") == 3]
    assert len(answers) == 3
    assert done.out.count("expected `Name: text`") == 2
    assert "new conversation" in done.out


def test_an_interrupt_ends_with_its_own_code(erc: Command, monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("erc_llm.training.train", interrupted)
    done = erc("train", config)
    assert done.code == 130
    assert "Traceback" not in done.err


def test_an_interrupted_training_says_how_to_go_on(erc: Command, monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("erc_llm.training.train", interrupted)
    assert "--resume" in erc("train", config).err


def test_a_path_is_printed_as_it_is(
    finished: Path, corpus: Path, erc: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = tmp_path / ("a-folder-with-a-long-name-" * 3) / "[dev].parquet"
    assert str(out) in erc("predict", finished, corpus, "--out", out).out


# --- bad input: one clear message, exit code 2, nothing half-written


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


# --- no space left


def _no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_no_space_for_the_predictions(
    finished: Path, erc: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", _no_space)
    for name in ("t.parquet", "t.jsonl"):
        refused(erc("predict", finished, "--out", tmp_path / name), name, "No space left")
    assert list(tmp_path.iterdir()) == []


def test_no_space_for_the_summary(corpus: Path, erc: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", _no_space)
    refused(erc("data", corpus, "--json", tmp_path / "summary.json"), "summary.json", "No space left")
    assert list(tmp_path.iterdir()) == []


def test_no_space_for_the_run(config: Path, erc: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", _no_space)
    refused(erc("train", config), "No space left", str(tmp_path / "runs" / "tiny"))
    assert [p for p in (tmp_path / "runs").rglob("*") if p.is_file()] == []


def test_no_space_for_the_adapter(config: Path, erc: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import peft.peft_model
    from safetensors import SafetensorError

    def no_space(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(peft.peft_model, "safe_save_file", no_space)
    refused(erc("train", config), "No space left", "adapter")
    run = tmp_path / "runs" / "tiny"
    assert {p.name for p in run.iterdir()} <= {
        "config.yaml",
        "manifest.json",
        "prompt.jinja",
        "training.jsonl",
        "selection.jsonl",
        "checkpoints",
    }


@pytest.mark.parametrize("piece", ["adapter", "optimizer"])
def test_no_space_for_a_checkpoint(piece: str, config: Path, erc: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import peft.peft_model
    import torch
    from safetensors import SafetensorError

    def no_space(*_: object, **__: object) -> None:
        if piece == "adapter":
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    owner, name = (peft.peft_model, "safe_save_file") if piece == "adapter" else (torch, "save")
    monkeypatch.setattr(owner, name, no_space)
    refused(erc("train", config, "training.checkpoint_minutes=0", "training.evaluations=0"), "checkpoint")


def test_no_space_for_a_log_names_the_log(config: Path, erc: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import erc_llm.runs as runs

    monkeypatch.setattr(runs, "open", _no_space, raising=False)
    refused(erc("train", config), "No space left", "training.jsonl")


def test_a_run_directory_that_cannot_be_made(erc: Command, config: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file in the way", encoding="utf-8")
    refused(erc("train", config), str(tmp_path / "runs"))


def test_the_small_files_of_the_tests_are_good_ones(erc: Command, tmp_path: Path) -> None:
    """Else the tests of bad input above would prove nothing."""
    for name, lines in (("train", TRAIN), ("dev", DEV)):
        (tmp_path / f"{name}.csv").write_text(aligned(lines), encoding="utf-8")
    assert erc("data", tmp_path).code == 0
