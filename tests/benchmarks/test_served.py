"""The real server at hand, `transformers serve`: the same text as local generation, and a killed run that goes on."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import served
from erc_llm.corpus.labels import EMORYNLP
from erc_llm.models.loading import load_base_model
from erc_llm.predictions import Prediction, Predictions, PredictionsInfo
from erc_llm.prompting.messages import prompt_texts
from erc_llm.prompting.prompter import Prompter
from erc_llm.prompting.templates import load_prompt
from tests.prompting.scenes import scene
from tests.tiny_models import TinyModel, chatml_tokenizer, llama2_style_tokenizer
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
    assert all(flip.explained for flip in report.flips), "same ids, same text: float32, one by one, on both sides"
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
    dialogue = scene(("Mara", "Who left the window open?"))
    chat = Prompter(chatml_tokenizer(), load_prompt("instruct"), EMORYNLP)
    plain = Prompter(llama2_style_tokenizer(chat=False), load_prompt("plain"), EMORYNLP)
    (one,), (other,) = prompt_texts(chat, dialogue), prompt_texts(plain, dialogue)
    assert served.server_ids(chat, one) == one.ids
    assert served.server_ids(plain, other) != other.ids, "its tokenizer puts a space before the first word"


def test_a_text_that_differs_is_a_flip_with_its_margin(tiny_llama: TinyModel) -> None:
    loaded = load_base_model(str(tiny_llama.folder), precision="fp32", device="cpu", attention="sdpa")
    prompter = Prompter(loaded.tokenizer, load_prompt("instruct"), EMORYNLP)
    dialogue = scene(("Mara", "Who left the window open?"), ("Tomas", "I did."))
    local = {
        dialogue.utterances[p.target].id: served.continue_locally(loaded, prompter, p.ids)
        for p in prompt_texts(prompter, dialogue)
    }
    assert list(local) == ["u0", "u1"]
    texts = {name: text for name, (text, _) in local.items()} | {"u1": "Sad"}
    answers = [Prediction(None, invalid=True, raw_answer=text) for text in texts.values()]
    info = PredictionsInfo(
        system="m", labels=EMORYNLP.names, corpus_sha256="0" * 64, corpus_name="c", corpus_version="own", split="dev"
    )
    others, (flip,) = served.find_flips(
        loaded, prompter, [dialogue], Predictions.from_corpus(info, [dialogue], answers)
    )
    text, margins = local["u1"]
    assert (others, flip.target, flip.served, flip.local) == (0, f"{dialogue.id}/u1", "Sad", text)
    assert (flip.same_ids, flip.explained) == (True, False)
    assert flip.margin == margins[0]


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
