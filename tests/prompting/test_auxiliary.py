"""Auxiliary questions: what they ask, what they read, and that the question about the label does not notice them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erc_llm.corpus.dialogues import Dialogue
from erc_llm.corpus.labels import EMORYNLP, LabelSet
from erc_llm.errors import PromptError
from erc_llm.prompting.auxiliary import TASKS, AuxiliaryQuestions
from erc_llm.prompting.prompter import Prompter, PromptOptions
from erc_llm.prompting.templates import load_prompt
from erc_llm.trees.forest import rows_by_part, rows_of
from erc_llm.trees.tree import Question, TokenTree
from tests.prompting.scenes import decode, dialogues, scene
from tests.tiny_models import chatml_tokenizer

relaxed = settings(max_examples=25, deadline=None)
TOKENIZER = chatml_tokenizer()
ALL = dict.fromkeys(TASKS, 0.5)


def build_prompter(template: str = "instruct", **options: Any) -> Prompter:
    return Prompter(TOKENIZER, load_prompt(template), EMORYNLP, PromptOptions(**options))


PROMPTERS = [build_prompter(trunk_budget=budget, lookahead=ahead) for budget in (2048, 64) for ahead in (0, 2)]


def trees_of(prompter: Prompter, dialogue: Dialogue, closed: bool = True, **options: Any) -> list[TokenTree]:
    further = AuxiliaryQuestions(prompter, ALL, closed=closed, **options).of_epoch(dialogue.id, 0)
    return prompter.trees(dialogue, "gold_all" if closed else "gold", further=further)


def read(trees: list[TokenTree], chosen: Callable[[Question], bool]) -> dict[tuple[int, str], list[int]]:
    """(target, task) to the ids that the model has read when it answers."""
    questions = [(tree, q) for tree in trees for q in tree.questions if chosen(q)]
    return {(q.target, q.task): tree.token_ids[tree.root_path(q.last)].tolist() for tree, q in questions}


def text_of(trees: list[TokenTree], target: int, task: str) -> tuple[str, str]:
    """The last line of what a question reads, and its right answer."""
    for tree in trees:
        for q in tree.questions:
            if (q.target, q.task) == (target, task):
                answer = q.answers[q.labels.index(q.gold)] if q.gold is not None else ()
                whole = decode(TOKENIZER, tree.token_ids[tree.root_path(q.last)].tolist())
                return whole, decode(TOKENIZER, tree.token_ids[list(answer)].tolist())
    raise KeyError((target, task))


TALK = scene(("Ada", "Hello.", "Joyful"), ("Ben", "Go away!", "Mad"), ("Ada", "But why?", "Sad"), ("Ben", "Go.", "Mad"))


def test_what_is_asked_and_answered() -> None:
    trees = trees_of(build_prompter(), TALK)
    asked = {(q.target, q.task) for tree in trees for q in tree.questions if q.task != "label"}
    assert asked == {(0, "polarity"), (1, "polarity"), (2, "polarity"), (3, "polarity")} | {
        (0, "next_emotion"),
        (1, "next_emotion"),
        (2, "next_emotion"),
        (2, "speaker"),
        (3, "speaker"),
    }
    before, answer = text_of(trees, 1, "next_emotion")
    assert "Go away!" in before
    assert "But why?" not in before
    assert answer.startswith("Sad")
    before, answer = text_of(trees, 2, "speaker")
    assert before.count("But why?") == 1
    assert "Ada: But why?" not in before
    assert answer.startswith("Ada")
    before, answer = text_of(trees, 1, "polarity")
    assert "Ben's mood" in before
    assert answer.startswith("negative")
    assert "\n(Ada's mood" in text_of(trees_of(build_prompter("plain"), TALK), 0, "polarity")[0]


@pytest.mark.parametrize("options", [{"lookahead": 1}, {"context": "full"}])
def test_questions_behind_later_lines_name_their_line(options: dict[str, Any]) -> None:
    talk = scene(("Ada", "Hello.", "Joyful"), ("Ada", "Well?", "Sad"))
    read_by = read(trees_of(build_prompter(**options), talk), lambda q: q.task == "polarity")
    assert read_by[0, "polarity"] != read_by[1, "polarity"]


def test_only_the_right_answer_is_read_where_all_are_not_scored() -> None:
    tree = trees_of(build_prompter(), TALK, closed=False)[0]
    assert all(len(q.answers) == 1 and q.labels == (q.gold,) for q in tree.questions)
    weights = {q.task: q.weight for q in tree.questions}
    assert weights == dict.fromkeys(TASKS, 0.5) | {"label": 1.0}


@relaxed
@given(dialogue=dialogues(), prompter=st.sampled_from(PROMPTERS))
def test_the_questions_about_labels_are_the_same_with_and_without(dialogue: Dialogue, prompter: Prompter) -> None:
    with_them = read(trees_of(prompter, dialogue), lambda q: q.task == "label")
    assert with_them == read(prompter.trees(dialogue, "gold_all"), lambda _: True)


@relaxed
@given(dialogue=dialogues(), prompter=st.sampled_from(PROMPTERS), data=st.data())
def test_no_label_is_among_what_they_read(dialogue: Dialogue, prompter: Prompter, data: Any) -> None:
    labels = st.sampled_from(EMORYNLP.names)
    lines = [u if u.label is None else replace(u, label=data.draw(labels)) for u in dialogue.utterances]
    relabelled = replace(dialogue, utterances=tuple(lines))
    one, other = (read(trees_of(prompter, d), lambda _: True) for d in (dialogue, relabelled))
    assert one == other


@relaxed
@given(dialogue=dialogues(), prompter=st.sampled_from(PROMPTERS), data=st.data())
def test_they_read_nothing_later_than_they_may(dialogue: Dialogue, prompter: Prompter, data: Any) -> None:
    """The next line's label is asked for before that line; a speaker is asked for without the line itself."""
    k = data.draw(st.integers(0, len(dialogue.utterances) - 1))
    lines = list(dialogue.utterances)
    lines[k + 1 :] = [replace(u, text="Something else entirely.") for u in lines[k + 1 :]]
    changed = replace(dialogue, utterances=tuple(lines))
    for task, reach in (("next_emotion", 0), ("speaker", 0), ("polarity", prompter.options.lookahead)):
        one, other = (
            read(trees_of(prompter, d), lambda q, task=task, reach=reach: q.task == task and q.target + reach <= k)  # type: ignore[misc]
            for d in (dialogue, changed)
        )
        assert one == other


@relaxed
@given(dialogue=dialogues(), data=st.data())
def test_the_speaker_is_not_among_what_its_question_reads(dialogue: Dialogue, data: Any) -> None:
    prompter = build_prompter()
    trees = trees_of(prompter, dialogue)
    asked = sorted(target for target, _ in read(trees, lambda q: q.task == "speaker"))
    if not asked:
        return
    k = data.draw(st.sampled_from(asked))
    others = {u.speakers for u in dialogue.utterances[:k]} - {dialogue.utterances[k].speakers}
    lines = list(dialogue.utterances)
    lines[k] = replace(lines[k], speakers=data.draw(st.sampled_from(sorted(others))))
    changed = replace(dialogue, utterances=tuple(lines[: k + 1]))
    chosen = lambda q: q.task == "speaker" and q.target == k  # noqa: E731
    assert read(trees, chosen) == read(trees_of(prompter, changed), chosen)


def test_a_fraction_is_drawn_anew_in_each_epoch_and_the_same_for_a_seed() -> None:
    prompter = build_prompter()
    long = scene(*[("Ada" if k % 2 else "Ben", f"Line {k}.", "Sad") for k in range(40)])

    def asked(seed: int, epoch: int) -> set[tuple[int, str]]:
        further = AuxiliaryQuestions(prompter, ALL, 0.3, seed, closed=False).of_epoch("d", epoch)
        trees = prompter.trees(long, "gold", further=further)
        return {(q.target, q.task) for tree in trees for q in tree.questions if q.task != "label"}

    assert asked(1, 0) == asked(1, 0)
    assert asked(1, 0) != asked(1, 1)
    assert asked(1, 0) != asked(2, 0)
    assert 20 < len(asked(1, 0)) < 55  # of 117


def test_sizes_count_them() -> None:
    (tree,) = trees_of(build_prompter(), TALK, closed=False)
    parts = rows_by_part(tree)
    assert parts.asking({0, 1, 2, 3}) == rows_of(tree)


def test_polarity_needs_coarser_labels() -> None:
    labels = LabelSet(("Joyful", "Sad"))
    prompter = Prompter(TOKENIZER, load_prompt("instruct"), labels)
    with pytest.raises(PromptError, match=r"training\.auxiliary\.polarity: .*labels\.coarse"):
        AuxiliaryQuestions(prompter, {"polarity": 0.1}, closed=False)
    assert not AuxiliaryQuestions(prompter, {"polarity": 0.0}, closed=False)
