"""The prompt of a line as the page shows it: exactly the text of the model's root path."""

from __future__ import annotations

from dataclasses import replace

import pytest

from erc_llm.corpus import EMORYNLP, Corpus
from erc_llm.errors import PromptError
from erc_llm.predictor import Predictor
from erc_llm.runs.opened import Opened
from erc_llm.ui.conversations import dialogue_of
from erc_llm.ui.prompts import prompt_of_line
from tests.prompting.scenes import decode, scene
from tests.test_predictor import LINES, PROFILES, chatml_predictor, config_of
from tests.tiny_models import TinyModel

SPOKEN = tuple(((who,), text) for who, text in LINES)


def test_the_pieces_are_the_prompt(tiny_llama: TinyModel) -> None:
    prompter = chatml_predictor(tiny_llama).prompter
    dialogue = dialogue_of(SPOKEN)
    questions = {q.target: (tree, q) for tree in prompter.trees(dialogue, "none") for q in tree.questions}
    for position, (tree, question) in questions.items():
        shown = prompt_of_line(prompter, dialogue, position)
        ids = tree.token_ids[tree.root_path(question.last)]
        assert "".join(piece.text for piece in shown.pieces) == decode(prompter.frame.encoder.tokenizer, ids)
        assert (shown.tokens, shown.has_profiles, shown.profiles) == (len(ids), False, ())
        assert LINES[position][1] in shown.pieces[-3].text, "the line, then the question and the header of the answer"


def test_the_profiles_that_the_model_was_told_are_named(tiny_llama: TinyModel) -> None:
    past = Corpus("past", "own", EMORYNLP, {"train": (replace(scene(*LINES), id="earlier"),)}, order=("earlier",))
    predictor = Predictor(Opened(config_of(tiny_llama, **PROFILES)), chatml_predictor(tiny_llama).loaded, past)
    shown = prompt_of_line(predictor.prompter, dialogue_of(SPOKEN), 1)
    assert shown.has_profiles
    assert len(shown.profiles) == 2, "of the two speakers up to there"
    assert all("Who left the window open?" in text or "The smoke" in text for text in shown.profiles)


def test_nothing_is_asked_about_an_empty_line(tiny_llama: TinyModel) -> None:
    dialogue = dialogue_of((*SPOKEN, (("Tomas",), "  ")))
    with pytest.raises(PromptError, match="line 6 is empty"):
        prompt_of_line(chatml_predictor(tiny_llama).prompter, dialogue, 5)
