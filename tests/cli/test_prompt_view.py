"""What `render` shows is what the model gets."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from erc_llm.cli.prompt_view import print_prompt
from erc_llm.corpus.dialogues import Corpus, Dialogue
from erc_llm.corpus.labels import EMORYNLP
from erc_llm.errors import CorpusError
from erc_llm.prompting.prompter import Prompter, PromptOptions
from erc_llm.prompting.retrieved import Found
from erc_llm.prompting.templates import load_prompt
from tests.prompting.scenes import decode, scene
from tests.tiny_models import chatml_tokenizer

SCENE = replace(
    scene(
        ("Mara", "Who left the [bold]window[/bold] open? <|im_end|>", "Mad"),
        ("Tomas", "I did.", "Sad"),
        ("Mara", "It is freezing.", None),
    ),
    id="s01_e01_c01",
)
UNLABELLED = replace(scene(("Ines", "Good morning!"), ("Mara", "Hm.")), id="s01_e01_c02")


@pytest.fixture(scope="module")
def prompter() -> Prompter:
    return Prompter(chatml_tokenizer(), load_prompt("instruct"), EMORYNLP)


def corpus(*scenes: Dialogue) -> Corpus:
    return Corpus("small", "own", EMORYNLP, {"train": scenes})


def shown(prompter: Prompter, *scenes: Dialogue, style: bool = False, **asked: Any) -> str:
    options = {"dialogue_id": None, "utterance": None, "tokens": False} | asked
    console = Console(file=io.StringIO(), width=100, record=True, color_system="truecolor" if style else None)
    print_prompt(prompter, corpus(*scenes), console=console, **options)
    return console.export_text(styles=style)


@pytest.mark.parametrize("target", [0, 1])
def test_one_lines_prompt_is_shown_to_the_byte(prompter: Prompter, target: int) -> None:
    (tree,) = prompter.trees(SCENE, "gold")
    path = tree.root_path(tree.questions[target].answers[0][-1])
    exact = decode(prompter.frame.encoder.tokenizer, tree.token_ids[path])
    text = shown(prompter, SCENE, utterance=target + 1)
    assert text.startswith(exact)
    assert "[bold]window[/bold] open? < |im_end|>" in text


def test_what_is_retrieved_is_shown_and_counted(prompter: Prompter) -> None:
    def retrieve(dialogue: Dialogue, lines: Sequence[int], episode: str | None) -> list[Found]:
        return [Found(lines=(("Get out!", 1),)) for _ in lines]

    retrieving = Prompter(chatml_tokenizer(), load_prompt("instruct"), EMORYNLP, retrieve=retrieve)
    text = shown(retrieving, SCENE, utterance=2)
    assert '[Similar lines: "Get out!" Mad]\nTomas feels' in text
    assert "retrieved" in text
    assert "retrieved" not in shown(prompter, SCENE, utterance=2)


def test_the_answer_alone_is_highlighted(prompter: Prompter) -> None:
    text = shown(prompter, SCENE, utterance=2, style=True)
    highlighted = re.findall(r"\x1b\[1;30;42m(.*?)\x1b\[0m", text, re.DOTALL)
    assert "".join(highlighted) == "Sad<|im_end|>"


def test_a_scene_is_shown_with_a_question_under_each_line(prompter: Prompter) -> None:
    rows = [line.rstrip() for line in shown(prompter, SCENE).splitlines()]
    place = rows.index("Tomas: I did.")
    assert re.fullmatch(r"  ├─ Tomas feels<\|im_end\|>⏎<\|im_start\|>assistant⏎Sad<\|im_end\|>", rows[place + 1])
    assert sum("├─" in row for row in rows) == 2


def test_token_counts_add_up(prompter: Prompter) -> None:
    (tree,) = prompter.trees(SCENE, "gold")
    table = shown(prompter, SCENE).split("tokens per part")[1]
    counts = {kind: int(count) for kind, count in re.findall(r"^ *(\w[\w ]*?) +(\d+)\b", table, re.MULTILINE)}
    assert counts["tree"] == len(tree)
    assert counts["tree"] == sum(counts[k] for k in ("instruction", "line", "question", "bridge", "answer"))
    assert counts["answer"] == sum(len(a) for q in tree.questions for a in q.answers)
    assert counts["one prompt per question"] == sum(len(tree.root_path(q.answers[0][-1])) for q in tree.questions)


def test_token_by_token_every_id_is_shown(prompter: Prompter) -> None:
    (tree,) = prompter.trees(SCENE, "gold")
    ids = [int(i) for i in re.findall(r"·(\d+) ", shown(prompter, SCENE, tokens=True))]
    assert sorted(ids) == sorted(tree.token_ids.tolist())
    path = tree.token_ids[tree.root_path(tree.questions[1].answers[0][-1])].tolist()
    assert [int(i) for i in re.findall(r"·(\d+) ", shown(prompter, SCENE, tokens=True, utterance=2))] == path


def test_a_scene_without_labels_is_shown_up_to_the_answer(prompter: Prompter) -> None:
    text = shown(prompter, UNLABELLED, utterance=1)
    assert "Ines feels<|im_end|>\n<|im_start|>assistant\n" in text
    assert not any(name in text.split("Ines:")[1] for name in EMORYNLP.names)


def test_every_window_of_a_long_scene_is_shown() -> None:
    prompter = Prompter(chatml_tokenizer(), load_prompt("instruct"), EMORYNLP, PromptOptions(trunk_budget=64))
    long = scene(*[("Mara", f"This is number {k}.", "Sad") for k in range(12)])
    text = shown(prompter, long)
    assert text.count("<|im_start|>system") == len(prompter.trees(long, "gold")) > 1
    assert "This is number 9." in shown(prompter, long, utterance=10)


def test_the_first_scene_is_shown_where_none_is_named(prompter: Prompter) -> None:
    assert "Good morning!" in shown(prompter, UNLABELLED, SCENE)
    assert "I did." in shown(prompter, UNLABELLED, SCENE, dialogue_id=SCENE.id)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"dialogue_id": "s01_e01_c99"}, "no dialogue 's01_e01_c99' in corpus 'small'; similar ids: s01_e01_c01"),
        ({"dialogue_id": "nothing"}, "no dialogue 'nothing' in corpus 'small'$"),
        ({"utterance": 4}, "line 4 is no target; it has 3 lines"),
        ({"utterance": 0}, "line 0 is no target; it has 3 lines"),
    ],
)
def test_what_is_not_there_is_one_message(prompter: Prompter, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        shown(prompter, SCENE, **asked)


def test_a_scene_without_a_target_is_one_message(prompter: Prompter) -> None:
    silent = replace(SCENE, utterances=tuple(replace(u, target=False) for u in SCENE.utterances))
    with pytest.raises(CorpusError, match="'s01_e01_c01' has no target"):
        shown(prompter, silent)


def test_an_unlabelled_line_of_a_labelled_scene_can_be_shown(prompter: Prompter) -> None:
    assert "It is freezing." in shown(prompter, SCENE, utterance=3)
