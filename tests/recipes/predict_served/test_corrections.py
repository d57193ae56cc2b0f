"""A served model's label scores are corrected as local ones are; ways to answer that no server has are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from erc_llm.calibration.choose import prior_shift
from erc_llm.corpus import read_corpus
from erc_llm.errors import ConfigError
from erc_llm.predictions import Correction, correct, read_predictions
from erc_llm.predictor import load
from erc_llm.recipes.calibrate import calibrate_run, predict_selection
from erc_llm.recipes.predict import predict
from erc_llm.recipes.predict_served import predict_served
from erc_llm.runs.journal import Journal
from tests.command_line import Command, refused
from tests.model_server import Server, said
from tests.recipes.predict_served.asking import open_model
from tests.scoring_server import scoring_like_vllm
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus

# Scores of a run whose training balanced the classes.

SHARES = (0.1, 0.1, 0.4, 0.1, 0.1, 0.1, 0.1)


@pytest.fixture(scope="module")
def balanced(tiny_llama: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on drawn targets, with its calibration; do not change it."""
    from erc_llm.recipes.train import train

    folder = tmp_path_factory.mktemp("balanced")
    sections: dict[str, Any] = {
        "sampling": {"scheme": "inverse_frequency"},
        "corpus": {"selection_fraction": 0.5},
        "training": {"evaluations": 1},
    }
    quiet = Console(quiet=True)
    run = train(tiny_config(tiny_llama, write_corpus(folder / "corpus", train=24), folder, **sections), console=quiet)
    table, name = predict_selection(run, None, None, quiet)
    calibrate_run(run, table, name, prior_shift(run.manifest, "auto"), "weighted_f1", 0, quiet)
    return run.folder


@pytest.mark.parametrize(
    "options",
    [{}, {"prior": "none"}, {"prior": SHARES}, {"calibration": "run"}, {"decide": "macro_f1"}],
    ids=["auto", "none", "given", "calibration", "rule"],
)
def test_label_scores_are_corrected_as_local_ones_are(
    server: Server, balanced: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    corpus = read_corpus(balanced.parent / "corpus")
    predictor = load(balanced, past=corpus, **options)
    local = predict(predictor, corpus, "dev")
    server.reply = scoring_like_vllm(predictor.loaded)
    model = open_model(server, balanced, timeout=30, constrain="vllm", label_scores=True, past=corpus, **options)
    served = predict_served(model, corpus, "dev", Journal(tmp_path / "j"))
    assert (local.info.prior is None) == (options.get("prior") == "none"), "there is something to correct"
    assert served.probabilities is not None
    assert local.probabilities is not None
    np.testing.assert_allclose(served.probabilities, local.probabilities, atol=1e-4)
    assert served.predicted == local.predicted
    own = ("system", "base_model", "base_model_sha256", "decoding")
    told = [{k: v for k, v in table.info.as_dict().items() if k not in own} for table in (served, local)]
    assert told[0] == told[1]
    assert served.info.selection == "selection"
    assert served.info.decision == options.get("decide", served.info.decision)


def served_command(server: Server, source: Path, tmp_path: Path, *options: object) -> list[object]:
    out = ["--out", tmp_path / "t.parquet", "--endpoint", server.url, "--model", "m", "--constrain", "vllm"]
    return ["predict", source, *out, *options]


def test_the_command_corrects_label_scores_and_says_so(
    server: Server, balanced: Path, tmp_path: Path, erc: Command
) -> None:
    server.reply = scoring_like_vllm(load(balanced).loaded)
    corrections = ("--label-scores", "--calibration", "run", "--abstain-below", 0.3)
    code, out, err = erc(*served_command(server, balanced, tmp_path, *corrections))
    assert (code, err) == (0, "")
    assert "corrected: corpus: " in out
    assert "of them abstain" in out
    info = read_predictions(tmp_path / "t.parquet").info
    assert (info.abstain_below, info.selection) == (0.3, "selection")
    assert info.temperature is not None


def test_the_command_decides_label_scores(server: Server, balanced: Path, tmp_path: Path, erc: Command) -> None:
    server.reply = scoring_like_vllm(load(balanced).loaded)
    for way, option in (("inductive", ()), ("transductive", ("--transductive",))):
        command = served_command(server, balanced, tmp_path, "--label-scores", "--decide", "weighted_f1", *option)
        code, out, err = erc(*command)
        assert (code, err) == (0, "")
        assert "best for weighted F1" in out
        table = read_predictions(tmp_path / "t.parquet")
        assert (table.info.decision, table.info.decision_way) == ("weighted_f1", way)
        assert table.log_likelihoods is not None
        assert correct(table, Correction.of(table.info)).predicted == table.predicted


@pytest.mark.parametrize(
    "option",
    [("--prior", "corpus"), ("--calibration", "run"), ("--decide", "weighted_f1"), ("--abstain-below", 0.3)],
    ids=lambda option: option[0],
)
def test_text_is_not_corrected_and_that_is_told_before_anything_is_asked(
    server: Server, balanced: Path, tmp_path: Path, erc: Command, option: tuple[object, ...]
) -> None:
    done = erc(*served_command(server, balanced, tmp_path, *option))
    refused(done, "a served model that writes text gives none", "--label-scores")
    assert server.requests == server.looked == []


def test_a_base_model_alone_has_no_prior_to_take_back(
    server: Server, tiny_llama: TinyModel, folder: Path, tmp_path: Path
) -> None:
    config = tiny_config(tiny_llama, folder, tmp_path)
    with pytest.raises(ConfigError, match="base model alone"):
        open_model(server, config, constrain="vllm", label_scores=True, prior="corpus")


# Ways to answer that a server is not asked for.


@pytest.mark.parametrize(
    ("scoring", "message", "override"),
    [
        ({"label_orders": 3}, "label_orders=3: .* set scoring.label_orders=1", "scoring.label_orders=1"),
        (
            {"decode": "generate", "answer": "reason_then_label"},
            "answer=reason_then_label: .* set scoring.answer=label",
            "scoring.answer=label",
        ),
        ({"decode": "free"}, r"decode=free: .* choice \(vLLM\); set scoring.decode=score", "scoring.decode=score"),
    ],
    ids=["label_orders", "answer", "decode"],
)
def test_what_a_server_cannot_follow_is_refused_with_what_to_set(
    server: Server, tiny_llama: TinyModel, folder: Path, tmp_path: Path, scoring: Any, message: str, override: str
) -> None:
    config = tiny_config(tiny_llama, folder, tmp_path, scoring=scoring)
    with pytest.raises(ConfigError, match=message):
        open_model(server, config, constrain="vllm")
    open_model(server, config, constrain="vllm", overrides=[override])
    assert server.requests == []


@pytest.mark.parametrize(("decode", "fits"), [("score", {1, 2, 3}), ("generate", {2}), ("free", {3})])
def test_decode_is_the_servers_way_or_score(
    server: Server, tiny_llama: TinyModel, folder: Path, tmp_path: Path, decode: str, fits: set[int]
) -> None:
    config = tiny_config(tiny_llama, folder, tmp_path, scoring={"decode": decode})
    ways: dict[int, dict[str, Any]] = {
        1: {"constrain": "vllm", "label_scores": True},
        2: {"constrain": "llamacpp"},
        3: {"constrain": "none"},
    }
    for number, way in ways.items():
        if number in fits:
            open_model(server, config, **way)
        else:
            with pytest.raises(ConfigError, match=f"scoring.decode={decode}: this server would return"):
                open_model(server, config, **way)


def test_the_command_takes_what_to_set_and_no_decode(
    server: Server, tiny_llama: TinyModel, folder: Path, tmp_path: Path, erc: Command
) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny_config(tiny_llama, folder, tmp_path, scoring={"label_orders": 2}).as_yaml(), encoding="utf-8")
    command = served_command(server, path, tmp_path)
    server.reply = lambda *_: said("Sad")
    refused(erc(*command), "set scoring.label_orders=1")
    assert erc(*command, "--set", "scoring.label_orders=1").code == 0
    refused(erc(*command, "--decode", "free"), "--decode", "--constrain")
