"""Systems of the page: their ways to answer, their names, and one base model for several adapters."""

from __future__ import annotations

from pathlib import Path

import pytest

from erc_llm.errors import RunError
from erc_llm.predictor import Predictor, load
from erc_llm.ui.systems import Models, answers_of, open_system
from tests.prompting.scenes import scene
from tests.test_predictor import LINES, config_of, make_run
from tests.tiny_models import TinyModel
from tests.ui.pages import calibrated_run, load_calibrated


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_llama: TinyModel) -> tuple[Path, Path]:
    """A run with a calibration, and one without."""
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder / "plain", tiny_llama)
    return calibrated_run(folder / "calibrated", tiny_llama), folder / "plain"


def test_every_way_answers_as_predict_does_by_it(runs: tuple[Path, Path]) -> None:
    system = open_system(str(runs[0]))
    assert [way.name for way in system.ways] == ["uncalibrated", "probable", "weighted_f1"]
    assert (system.usual, system.calibrated) == ("weighted_f1", True)
    line = load_calibrated(str(runs[0]), None).predict(scene(*LINES))[0]
    found = answers_of(system, line)
    uncalibrated = load(runs[0], calibration="none", decide="probable").predict(scene(*LINES))[0]
    usual = load(runs[0]).predict(scene(*LINES))[0]
    assert found.plain == pytest.approx(list(uncalibrated.probabilities.values()), abs=1e-9)
    assert found.calibrated == pytest.approx(list(usual.probabilities.values()), abs=1e-9)
    probable = load(runs[0], calibration="run", decide="probable").predict(scene(*LINES))[0]
    assert found.answers == {
        "uncalibrated": uncalibrated.label,
        "probable": probable.label,
        "weighted_f1": usual.label,
    }
    assert len(set(found.answers.values())) == 3


def test_a_run_without_calibration_and_a_base_model_have_one_way(
    runs: tuple[Path, Path], tiny_llama: TinyModel
) -> None:
    (runs[1].parent / "base.yaml").write_text(config_of(tiny_llama).as_yaml(), "utf-8")
    for source, adapted in ((runs[1], True), (runs[1].parent / "base.yaml", False)):
        system = open_system(str(source))
        assert ([way.name for way in system.ways], system.usual) == (["uncalibrated"], "uncalibrated")
        assert (system.adapted, system.calibrated) == (adapted, False)
        predictor = load_calibrated(str(source), None)
        assert answers_of(system, predictor.predict(scene(*LINES))[0]).calibrated is None


def test_equal_names_are_told_apart(runs: tuple[Path, Path]) -> None:
    first = open_system(str(runs[1]))
    second = open_system(str(runs[1]), taken=[first.name])
    third = open_system(str(runs[1]), taken=[first.name, second.name])
    assert [first.name, second.name, third.name] == ["plain", "plain (2)", "plain (3)"]


def test_adapters_share_their_base_model_and_are_loaded_once(runs: tuple[Path, Path]) -> None:
    calls: list[bool] = []

    def counted(source: str, beside: Predictor | None) -> Predictor:
        calls.append(beside is not None)
        return load_calibrated(source, beside)

    models = Models([open_system(str(run)) for run in runs], counted)
    first, second = models.predictor(0), models.predictor(1)
    assert first.loaded.model is second.loaded.model
    assert models.predictor(0) is first
    assert calls == [False, True]
    expected = load_calibrated(str(runs[1]), None).predict(scene(*LINES))[0]
    first.predict(scene(*LINES))
    assert second.predict(scene(*LINES))[0].log_likelihoods == pytest.approx(dict(expected.log_likelihoods), abs=1e-5)


def test_another_base_model_is_loaded_by_itself(
    runs: tuple[Path, Path], tiny_llama2_base: TinyModel, tmp_path: Path
) -> None:
    make_run(tmp_path / "other", tiny_llama2_base, {"prompt": {"template": "plain"}})
    sources = (str(runs[1]), str(tmp_path / "other"))
    models = Models([open_system(source) for source in sources], load_calibrated)
    assert models.predictor(0).loaded.model is not models.predictor(1).loaded.model


def test_a_damaged_calibration_is_reported_when_the_run_is_opened(tmp_path: Path, tiny_llama: TinyModel) -> None:
    make_run(tmp_path / "run", tiny_llama)
    (tmp_path / "run" / "calibration.json").write_text("{", "utf-8")
    with pytest.raises(RunError, match=r"calibration\.json: broken JSON"):
        open_system(str(tmp_path / "run"))
