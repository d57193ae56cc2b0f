"""An ablation gives every arm the same number of steps, goes on where it stopped, and compares in pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from benchmarks import ablation
from benchmarks.ablation import Arms, as_table, budget_for, main, read_arms, run_arm, sizes_of, steps_at
from benchmarks.ingredients import read_folds
from erc_llm.config import RunConfig, load_config
from erc_llm.errors import ConfigError
from erc_llm.predictions import read_predictions
from erc_llm.runs.directory import read_run
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus


@pytest.fixture
def small(tiny_llama: TinyModel, tmp_path: Path) -> tuple[Path, Path, Path]:
    """A file of three arms, a corpus and the folder for the runs."""
    corpus = write_corpus(tmp_path / "corpus", train=24)
    config = tmp_path / "config.yaml"
    config.write_text(tiny_config(tiny_llama, corpus, tmp_path).as_yaml(), encoding="utf-8")
    arms: dict[str, Any] = {
        "config": str(config),
        "budget": ["training.epochs=1", "training.evaluations=1", "training.tokens_per_step=300"],
        "base": "none",
        "arms": {
            "none": [],
            "statistics": ["profile.writer=statistics"],
            "state": ["state.source=predicted", "state.confusion={none}/selection.parquet"],
        },
    }
    path = tmp_path / "arms.yaml"
    path.write_text(yaml.safe_dump(arms, sort_keys=False), encoding="utf-8")
    return path, corpus, tmp_path / "out"


def test_arms_make_equal_steps_and_are_compared_in_pairs(
    small: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, corpus, out = small
    assert main([str(path), "--corpus", str(corpus), "--out", str(out)]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]
    assert [row.split(" | ")[0] for row in rows] == ["| none", "| statistics", "| state"]
    budgets = [read_run(out / name).config.training.tokens_per_step for name in ("none", "statistics", "state")]
    assert budgets[0] == 300
    assert budgets[1] > 300
    steps = [row.split(" | ")[3] for row in rows]
    assert len(set(steps)) == 1
    assert [row.count(" to ") for row in rows] == [2, 4, 4], "macro F1 and calibration error, and two differences"
    table = read_predictions(out / "state" / "selection.parquet")
    assert (table.info.split, table.info.profile, table.text) == ("selection", "state predicted", None)
    monkeypatch.setattr(ablation, "arm_config", lambda *_: pytest.fail("a finished arm was begun again"))
    assert main([str(path), "state", "--corpus", str(corpus), "--out", str(out)]) == 0
    assert main([str(path), "--out", str(out), "--table"]) == 0


@pytest.mark.slow
def test_a_balanced_arm_is_shown_without_and_with_the_prior_taken_back(
    small: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path, corpus, out = small
    content = yaml.safe_load(path.read_text("utf-8"))
    content["budget"].append("corpus.selection_fraction=0.5")  # a calibration wants five dialogues at least
    content["arms"] = {"none": [], "drawn": ["sampling.scheme=inverse_frequency", "sampling.allow_absent=true"]}
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    assert main([str(path), "--corpus", str(corpus), "--out", str(out)]) == 0
    names = [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert names[2:] == ["| none", "| drawn", "| drawn, corrected"]
    assert main([str(path), "--out", str(out), "--calibrated"]) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[2:]] == ["none", "drawn", "drawn, corrected"]
    assert {len(row) for row in rows} == {12}
    assert all(float(row[9]) <= float(row[8]) for row in rows[2:]), "no calibration is a candidate too"
    assert main([str(path), "drawn", "--corpus", str(corpus), "--out", str(out), "--split", "dev"]) == 0
    capsys.readouterr()
    assert main([str(path), "--out", str(out), "--split", "dev", "--calibrated"]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [p.stem for p in written][:3] == ["dev-raw", "dev-prior", "dev-calibration"]
    tables = [read_predictions(p) for p in written]
    dev = read_predictions(out / "drawn" / "dev.parquet")
    assert {t.info.split for t in tables} == {"dev"}
    assert tables[0].info.prior is None
    assert np.array_equal(tables[1].probabilities, dev.probabilities), "predict takes the prior back, too"
    assert tables[2].info.temperature is not None


def test_orders_of_the_labels_are_averaged_in_scoring_alone(
    small: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, corpus, out = small
    command = [str(path), "none", "--corpus", str(corpus), "--out", str(out)]
    assert main(command) == 0
    monkeypatch.setattr("erc_llm.recipes.train.Training.run", lambda *_: pytest.fail("trained again"))
    assert main([*command, "--orders", "3"]) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[-2:]] == ["none", "none, mean of 3 label orders"]
    assert " to " in rows[-1][5], "it is compared with the arm's own answers"
    table = read_predictions(out / "none" / "selection-3-orders.parquet")
    assert table.info.decoding == "mean of 3 label orders"


def test_an_interrupted_arm_goes_on(small: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path, corpus, out = small
    arms, console = read_arms(path), Console(quiet=True)
    with monkeypatch.context() as context:
        context.setattr("erc_llm.recipes.predict.predict", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_arm(arms, "none", str(corpus), out, console)
    assert as_table(arms, out).count("\n") == 1, "an arm without predictions is not finished"
    run_arm(arms, "none", str(corpus), out, console)
    assert as_table(arms, out).count("\n") == 2


def test_finalists_are_scored_on_dev_too(small: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    path, corpus, out = small
    assert main([str(path), "none", "--corpus", str(corpus), "--out", str(out)]) == 0
    capsys.readouterr()
    assert main([str(path), "--out", str(out), "--table", "--split", "dev"]) == 0
    assert "| none" not in capsys.readouterr().out, "its selection split alone was predicted"
    assert main([str(path), "none", "--corpus", str(corpus), "--out", str(out), "--split", "dev"]) == 0
    assert read_predictions(out / "none" / "dev.parquet").info.split == "dev"
    assert "| none" in capsys.readouterr().out


@pytest.mark.slow
def test_a_budget_is_found_for_any_number_of_steps() -> None:
    config, sizes = RunConfig(), [[100 + 37 * (i % 11) for i in range(90)]] * 3
    for steps in (30, 69, 120, 180):
        assert abs(steps_at(sizes, config, budget_for(sizes, config, steps)) - steps) <= 0.02 * steps
    half = steps_at([[2 * size for size in epoch] for epoch in sizes], config, 2 * 700)
    assert half == steps_at(sizes, config, 700)
    assert steps_at(sizes, config, budget_for(sizes, config, half)) == half


def test_sizes_are_those_the_trainer_uses(tiny_llama: TinyModel, tmp_path: Path) -> None:
    config = tiny_config(tiny_llama, write_corpus(tmp_path / "corpus", train=24), tmp_path, training={"epochs": 2})
    longer = config.model_copy(update={"profile": config.profile.model_copy(update={"writer": "statistics"})})
    drawn = config.model_copy(update={"sampling": config.sampling.model_copy(update={"scheme": "square_root"})})
    plain, profiles, sampled = (sizes_of(c) for c in (config, longer, drawn))
    assert {(len(sizes), len(sizes[0])) for sizes in (plain, profiles, sampled)} == {(2, len(plain[0]))}
    assert all(a <= b for a, b in zip(plain[0], profiles[0], strict=True))
    assert sum(plain[0]) < sum(profiles[0])
    assert plain[0] == plain[1]
    assert sampled[0] != sampled[1], "each epoch draws its own targets"
    assert sum(sampled[0]) < sum(plain[0])
    closed = config.model_copy(update={"training": config.training.model_copy(update={"objective": "closed_set"})})
    branches = sizes_of(closed)
    assert all(a > b for a, b in zip(branches[0], plain[0], strict=True)), "the branches of all labels are read too"
    steps = steps_at(plain, config, config.training.tokens_per_step)
    assert steps_at(branches, closed, budget_for(branches, closed, steps)) == steps


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("base: none", "arms"),
        ("{config: sample, budget: [], base: other, arms: {none: []}}", "'other' is not among the arms none"),
        ("[", "expected config"),
    ],
)
def test_a_broken_file_of_arms_is_refused(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "arms.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=complaint):
        read_arms(tmp_path / "arms.yaml")


def test_an_unknown_arm_and_a_missing_corpus_are_the_users_mistakes(
    small: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path, corpus, out = small
    assert main([str(path), "sttae", "--corpus", str(corpus), "--out", str(out)]) == 2
    assert "its arms are none, statistics, state" in " ".join(capsys.readouterr().err.split())
    assert main([str(path), "--out", str(out)]) == 2
    assert not out.exists()


def test_the_first_folds_of_an_arm_are_left_for_the_table_of_ingredients(
    small: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path, corpus, out = small
    command = [str(path), "none", "--corpus", str(corpus), "--out", str(out)]
    for wrong in (["--first", "1"], ["--folds", "2", "--first", "2"], ["--folds", "2", "--first", "0"]):
        assert main([*command, *wrong]) == 2
        assert "expected less than the number of folds" in " ".join(capsys.readouterr().err.split())
    assert not out.exists()
    assert main([*command, "--folds", "2", "--first", "1"]) == 0
    assert [p.name for p in out.iterdir()] == ["none-folds"]
    assert "| arm |" not in capsys.readouterr().out, "there is no finished arm to show"
    table = read_folds(out / "none-folds")
    assert len(table) == len(read_predictions(out / "none-folds" / "left_out.parquet"))
    assert table.text is None


def test_an_interrupt_is_told_in_a_word(
    small: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, corpus, out = small
    monkeypatch.setattr(ablation, "run_arm", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main([str(path), "none", "--corpus", str(corpus), "--out", str(out)]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("path", sorted(Path(ablation.__file__).parent.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_arms_that_come_with_the_project_can_be_configured(path: Path) -> None:
    arms: Arms = read_arms(path)
    folders = {arm: f"out/{arm}" for arm in arms.arms}
    for texts in arms.arms.values():
        load_config(arms.config, [*arms.budget, *(text.format(**folders) for text in texts)])
