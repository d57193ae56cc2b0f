"""The commands on a small corpus, from data to evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest

from erc_llm.predictions import read_predictions
from tests.command_line import Command, refused
from tests.tiny_runs import dialogue


def test_data_says_what_is_in_a_corpus(corpus: Path, erc: Command) -> None:
    done = erc("data", corpus)
    assert done.code == 0, done.err
    for part in ("train", "dev", "Joyful", "Mara Voss", "own"):
        assert part in done.out


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
    done = erc("evaluate", table, "--against", "all-neutral", "--against", table, "--draws", 200)
    assert done.code == 0, done.err
    for part in ("weighted F1", "macro F1", "accuracy", "Powerful", "dev", "own", "past"):
        assert part.lower() in done.out.lower(), part


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
    refused(erc("predict", finished, "--set", "lora.rank=2"), "lora.rank=2", "only scoring.FIELD")
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

    monkeypatch.setattr("erc_llm.recipes.train.train", interrupted)
    done = erc("train", config)
    assert done.code == 130
    assert "Traceback" not in done.err


def test_an_interrupted_training_says_how_to_go_on(erc: Command, monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("erc_llm.recipes.train.train", interrupted)
    assert "--resume" in erc("train", config).err


def test_a_path_is_printed_as_it_is(
    finished: Path, corpus: Path, erc: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = tmp_path / ("a-folder-with-a-long-name-" * 3) / "[dev].parquet"
    assert str(out) in erc("predict", finished, corpus, "--out", out).out
