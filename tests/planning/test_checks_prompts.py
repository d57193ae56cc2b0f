"""Trained tokens, ends, windows and cut lines, on prompts of a stand-in tokenizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from erc_llm.corpus import EMORYNLP, Dialogue
from erc_llm.planning.checks_prompts import (
    Trees,
    check_ends,
    check_lengths,
    check_vocabulary,
    stop_tokens,
    trained_prompts,
)
from erc_llm.prompting.prompter import Prompter, PromptOptions
from erc_llm.prompting.templates import load_prompt
from tests.tiny_models import TinyModel, chatml_tokenizer
from tests.tiny_runs import dialogue

SCENES = [dialogue(number, 6) for number in range(4)]


def _prompter(tokenizer: Any, template: str = "plain", budget: int = 2048) -> Prompter:
    return Prompter(tokenizer, load_prompt(template), EMORYNLP, PromptOptions(trunk_budget=budget))


def _trees(prompter: Prompter, scenes: list[Dialogue] | None = None) -> Trees:
    return [(scene, prompter.trees(scene, "gold")) for scene in scenes or SCENES]


def test_the_trained_tokens_are_the_answer_and_its_end(tiny_llama2_base: TinyModel) -> None:
    prompter = _prompter(tiny_llama2_base.tokenizer)
    prompts = trained_prompts(_trees(prompter), prompter)
    for prompt in prompts:
        gold = next(scene for scene in SCENES if scene.id == prompt.dialogue).utterances[prompt.line - 1].label
        assert gold is not None
        assert "".join(prompt.tokens) == f" {gold.lower()})"
        assert prompt.tokens[-1] == ")"
        assert prompt.before.endswith(" feels")
    assert len(prompts) == 3
    assert list(check_ends(prompts, prompter.frame.end)) == []


def test_closed_set_training_shows_the_gold_answer(tiny_llama: TinyModel) -> None:
    prompter = _prompter(tiny_llama.tokenizer)
    trees = [(scene, prompter.trees(scene, "gold_all")) for scene in SCENES]
    assert trained_prompts(trees, prompter) == trained_prompts(_trees(prompter), prompter)


def test_one_label_still_shows_three_prompts(tiny_llama: TinyModel) -> None:
    prompter = _prompter(tiny_llama.tokenizer)
    lines = tuple(replace(u, label="Mad") for u in SCENES[0].utterances)
    prompts = trained_prompts(_trees(prompter, [replace(SCENES[0], utterances=lines)]), prompter)
    assert [prompt.line for prompt in prompts] == [1, 2, 3]


def test_an_end_outside_the_loss(tiny_llama: TinyModel) -> None:
    prompter = _prompter(tiny_llama.tokenizer)
    first, *others = trained_prompts(_trees(prompter), prompter)
    (finding,) = check_ends([replace(first, ends=False), *others], ")")
    assert finding.severity == "error"
    assert "is not among the trained tokens of 1 of 3" in finding.found


def test_windows_and_cut_lines(tiny_llama: TinyModel) -> None:
    long = replace(SCENES[0].utterances[0], text="The kettle was never ours, and that window smells of smoke. " * 4)
    scenes = [replace(SCENES[0], utterances=(long, *SCENES[0].utterances)), *SCENES[1:]]
    prompter = _prompter(tiny_llama.tokenizer, budget=128)
    _, windows, cut = check_lengths(_trees(prompter, scenes), prompter, 4096, 512)
    assert "become overlapping windows: 1 of 4" in windows.found
    assert (cut.severity, cut.found.rpartition(": ")[2]) == ("warning", "1")
    wide = _prompter(tiny_llama.tokenizer)
    (note,) = check_lengths(_trees(wide, scenes), wide, 4096, 512)
    assert note.found.endswith(" tokens of the model's 512 positions")


def test_labels_that_the_tokenizer_cannot_write() -> None:
    tokenizer = chatml_tokenizer()
    prompter = _prompter(tokenizer)
    tokenizer.unk_token = tokenizer.convert_ids_to_tokens(prompter.answer_ids[1][0])
    found = [f for f in check_vocabulary(_trees(prompter), prompter, len(tokenizer)) if f.where == "corpus.labels"]
    assert "the tokenizer has no tokens for" in found[0].found
    assert "Mad" in found[0].found


@pytest.mark.parametrize(
    ("generation", "config", "stops"),
    [("[1, 2]", "3", {1, 2}), ("null", "3", {3}), (None, "3", {3}), (None, None, set())],
)
def test_where_a_model_stops(generation: str | None, config: str | None, stops: set[int], tmp_path: Path) -> None:
    for name, content in (("generation_config.json", generation), ("config.json", config)):
        if content is not None:
            (tmp_path / name).write_text(f'{{"eos_token_id": {content}}}')
    assert stop_tokens(tmp_path) == stops
