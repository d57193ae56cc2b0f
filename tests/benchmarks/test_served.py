"""The real server at hand, `transformers serve`: the same text as local generation, and a killed run that goes on."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks import served
from erc_llm.corpus.labels import EMORYNLP
from erc_llm.prompting.examples import Prompter
from erc_llm.prompting.messages import prompt_texts
from erc_llm.prompting.templates import load_prompt
from tests.prompting.scenes import scene
from tests.tiny_models import TinyModel, chatml_tokenizer
from tests.tiny_runs import write_corpus

TARGETS = 2 + 3 + 4  # of dev

needs_server = pytest.mark.skipif(
    any(find_spec(name) is None for name in served.NEEDED),
    reason="transformers serve needs fastapi and uvicorn: pip install 'transformers[serving]'",
)


def check(base: str, template: str, folder: Path) -> served.Report:
    corpus = write_corpus(folder / "corpus")
    report = served.compare(base, str(corpus), "dev", template, served.sys.executable, folder)
    assert report.targets == report.rows == TARGETS
    assert report.same_text + len(report.flips) == TARGETS
    assert all(not flip.same_ids for flip in report.flips), "same ids, same text: float32, one by one, on both sides"
    assert report.same_rows
    assert TARGETS // 2 <= report.kept_at_kill < TARGETS
    first, second = report.asked
    assert second == TARGETS - report.kept_at_kill
    assert report.kept_at_kill <= first <= report.kept_at_kill + 2, (
        "two requests at once are under way when it is killed"
    )
    return report


@needs_server
@pytest.mark.slow
@pytest.mark.parametrize("template", ["instruct", "plain"])
def test_a_random_model_says_the_same_behind_a_server(tiny_llama: TinyModel, template: str, tmp_path: Path) -> None:
    assert check(str(tiny_llama.folder), template, tmp_path).other_ids == 0


@needs_server
@pytest.mark.slow
@pytest.mark.smollm2
def test_a_real_model_says_the_same_behind_a_server(tmp_path: Path) -> None:
    report = check("smollm2-135m-instruct", "instruct", tmp_path)
    assert (report.other_ids, report.same_text) == (0, TARGETS)


def test_other_ids_are_noticed() -> None:
    tokenizer = chatml_tokenizer()
    prompter = Prompter(tokenizer, load_prompt("instruct"), EMORYNLP)
    (prompt,) = prompt_texts(prompter, scene(("Mara", "Who left the window open?")))
    assert served.same_ids(prompter, tokenizer, prompt)
    changed: Any = type(prompt)(prompt.target, prompt.ids[:-1], prompt.text, prompt.messages)
    assert not served.same_ids(prompter, tokenizer, changed)


def test_a_server_that_cannot_start_is_one_clear_message(tmp_path: Path) -> None:
    with (
        pytest.raises(served.UserError, match="did not start"),
        served.transformers_serve(tmp_path / "no-model", tmp_path / "log", "/bin/false", patience=20),
    ):
        pass


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(served, "find_spec", lambda name: None)
    assert served.main(["--split", "test"]) == 2
    assert "pip install 'transformers[serving]'" in " ".join(capsys.readouterr().err.split())
