"""What `erc-llm ui` finds to show: sources, tables in runs, unfinished runs; and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from erc_llm.errors import CorpusError, RunError, UserError
from erc_llm.predictions import write_predictions
from erc_llm.recipes.train import train
from erc_llm.recipes.ui import UiOptions, find_shown, loader
from erc_llm.runs.directory import read_run
from erc_llm.runs.manifest import write_manifest
from erc_llm.ui.training import Watcher
from tests.command_line import Command
from tests.evaluation.compared_tables import table
from tests.test_predictor import make_run
from tests.tiny_models import TinyModel
from tests.tiny_runs import tiny_config, write_corpus
from tests.ui.pages import calibrated_run


def test_without_arguments_it_shows_what_lies_around(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_llama: TinyModel
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="nothing to show: found no run in `runs`"):
        find_shown(UiOptions())
    for folder in ("runs", "adapters"):
        Path(folder).mkdir()
    make_run(Path("runs/a"), tiny_llama)
    make_run(Path("adapters/b"), tiny_llama)
    make_run(Path("runs/c"), tiny_llama, status="training")
    write_predictions(table(), Path("runs/a/dev.parquet"))
    Path("runs/notes").mkdir()
    found = find_shown(UiOptions())
    assert found.sources == ("runs/a", "adapters/b")
    assert found.tables == (Path("runs/a/dev.parquet"),)
    assert {Path("runs"), Path("runs/c")} <= set(found.watched)
    assert [corpus.name for corpus in found.corpora] == ["sample"]


def test_an_unfinished_run_is_followed_and_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_llama: TinyModel
) -> None:
    monkeypatch.chdir(tmp_path)  # away from a `runs` folder that would be followed too
    make_run(tmp_path / "a", tiny_llama)
    run = read_run(tmp_path / "a")
    write_manifest(run.folder, replace(run.manifest, status="training"))
    found = find_shown(UiOptions(sources=(str(tmp_path / "a"),)))
    assert (found.sources, found.watched) == ((), (tmp_path / "a",))


def test_the_named_corpus_comes_first_and_the_sample_is_there_too(tmp_path: Path, tiny_llama: TinyModel) -> None:
    make_run(tmp_path / "a", tiny_llama)
    corpus = write_corpus(tmp_path / "talks")
    found = find_shown(UiOptions(sources=(str(tmp_path / "a"),), corpus=str(corpus)))
    assert [each.name for each in found.corpora] == ["talks", "sample"]


def test_what_cannot_be_shown_is_refused_before_the_page_is_up(tmp_path: Path, tiny_llama: TinyModel) -> None:
    make_run(tmp_path / "a", tiny_llama)
    source = (str(tmp_path / "a"),)
    with pytest.raises(UserError, match=r"none\.parquet: no such file or folder"):
        find_shown(UiOptions(sources=source, tables=(tmp_path / "none.parquet",)))
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        find_shown(UiOptions(sources=source, watch=(tmp_path / "nowhere",)))
    with pytest.raises(CorpusError):
        find_shown(UiOptions(sources=source, corpus=str(tmp_path / "nothing")))
    (tmp_path / "a" / "manifest.json").write_text("{", "utf-8")
    with pytest.raises(RunError, match=r"manifest\.json"):
        find_shown(UiOptions(sources=source))


def test_a_run_is_loaded_with_its_calibration_and_without_a_rule(tmp_path: Path, tiny_llama: TinyModel) -> None:
    load = loader(UiOptions(), Console(quiet=True))
    calibrated = load(str(calibrated_run(tmp_path / "a", tiny_llama)), None)
    assert calibrated.correction.calibrated
    assert calibrated.correction.decision is None
    make_run(tmp_path / "b", tiny_llama)
    assert not load(str(tmp_path / "b"), calibrated).correction.calibrated


def test_what_train_writes_is_what_the_page_follows(tmp_path: Path, tiny_llama: TinyModel) -> None:
    corpus = write_corpus(tmp_path / "talks")
    run = train(tiny_config(tiny_llama, corpus, tmp_path / "runs"), console=Console(quiet=True))
    watcher = Watcher([tmp_path / "runs"])
    (found,) = watcher.runs()
    loss, scores = watcher.curves(found.id)
    assert (found.name, found.state, found.total, found.has_report) == ("runs/tiny", "finished", None, True)
    assert len(loss) == found.step > 0
    assert found.best == max(score.weighted_f1 for score in scores)
    assert "Training" in watcher.report(found.id).read_text("utf-8")
    assert run.manifest.finished


def test_the_command_says_what_is_wrong_with_its_arguments(erc: Command, tmp_path: Path) -> None:
    for arguments, message in (
        (("runs/none",), "runs/none: no such run directory"),
        (("sample", "--table", tmp_path / "no.parquet"), "no.parquet: no such file"),
    ):
        done = erc("ui", "--port", "0", *arguments)
        assert (done.code, message in done.err, "Traceback" in done.err) == (2, True, False)


def test_without_the_extra_the_command_says_how_to_get_it(erc: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [name for name in sys.modules if name.startswith("erc_llm.ui") or name == "fastapi"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    done = erc("ui", "sample")
    assert done.code == 2
    assert "pip install 'erc-llm[ui]'" in done.err
