"""What is retrieved from train as part of a token tree: where it stands, what it says, what it depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erc_llm.build import build_prompter, longest_path
from erc_llm.config import RunConfig
from erc_llm.corpus.dialogues import Corpus, Dialogue
from erc_llm.corpus.labels import EMORYNLP
from erc_llm.prompting.auxiliary import TASKS, AuxiliaryQuestions
from erc_llm.prompting.prompter import Prompter
from erc_llm.prompting.retrieved import LONGEST
from erc_llm.trees.attention import ATTENTION
from erc_llm.trees.forest import pack
from erc_llm.trees.tree import TokenTree
from tests.prompting.random_corpora import corpus_of, scene_of
from tests.prompting.scenes import HOSTILE, decode, dialogues, hostile_texts, scene
from tests.tiny_models import TinyModel, chatml_tokenizer
from tests.trees.test_forest import TOLERANCE, all_logits, largest_difference, with_attention

relaxed = settings(max_examples=20, deadline=None)
TOKENIZER = chatml_tokenizer()
TRAIN = (
    scene_of(1, ("Ada", "I am so happy today!", "Joyful"), ("Ben", "I am happy for you.", "Peaceful")),
    scene_of(2, ("Ada", "Get out of my house!", "Mad"), ("Ben", "Get out!", "Mad")),
    scene_of(3, ("Ada", "The toast is burning.", "Scared"), ("Ben", "It is burning?", "Neutral")),
)
WAYS: tuple[dict[str, Any], ...] = (
    {"use": "demonstrations", "k": 2},
    {"use": "demonstrations", "k": 2, "place": "trunk"},
    {"use": "distribution"},
)
WORDED = "[Similar lines: "
SCENE = scene(("Mara", "I am happy."), ("Tomas", "Get out of here!"), ("Mara", "..."))


def prompter_of(
    retrieval: dict[str, Any], train: Sequence[Dialogue] = TRAIN, template: str = "plain", **prompt: Any
) -> Prompter:
    return build_prompter(
        config_of(retrieval, template, **prompt), EMORYNLP, TOKENIZER, past=corpus_of({"train": train})
    )


def config_of(retrieval: dict[str, Any], template: str = "plain", **prompt: Any) -> RunConfig:
    sections = {"prompt": {"template": template} | prompt, "training": {"evaluations": 0}, "retrieval": retrieval}
    return RunConfig.model_validate(sections)


def pieces(tree: TokenTree, kind: str = "retrieved") -> list[str]:
    return [decode(TOKENIZER, tree.token_ids[s.start : s.stop]) for s in tree.spans if s.kind == kind]


def asked(trees: Sequence[TokenTree]) -> dict[int, list[int]]:
    """Target to the ids that its question reads."""
    return {q.target: t.token_ids[t.root_path(q.last)].tolist() for t in trees for q in t.questions}


# What it says, and where.


def test_the_bytes_of_a_prompt_with_demonstrations() -> None:
    (tree,) = prompter_of(WAYS[0]).trees(SCENE, "none")
    assert decode(TOKENIZER, asked([tree])[1]) == (
        "A scene. After each line, the emotion of its speaker: joyful, mad, neutral, peaceful, powerful, sad, scared.\n"
        "\n"
        "Mara: I am happy.\n"
        "Tomas: Get out of here!\n"
        '[Similar lines: "Get out of my house!" mad, "Get out!" mad]\n'
        "(Tomas feels"
    )


def test_the_bytes_of_a_prompt_with_demonstrations_in_the_trunk() -> None:
    (tree,) = prompter_of(WAYS[1], template="instruct").trees(SCENE, "none")
    assert decode(TOKENIZER, asked([tree])[1]) == (
        "<|im_start|>system\n"
        "Label the emotion of each line: Joyful, Mad, Neutral, Peaceful, Powerful, Sad, Scared.<|im_end|>\n"
        "<|im_start|>user\n"
        '[Similar lines: "I am happy for you." Peaceful, "I am so happy today!" Joyful]\n'
        "Mara: I am happy.\n"
        "Tomas: Get out of here!\n"
        "Tomas feels<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    kinds = [s.kind for s in tree.spans if s.stop <= tree.trunk]
    assert kinds == ["instruction", "retrieved", "line", "line", "line"]


def test_a_distribution_names_at_most_three_labels_in_steps_of_five_percent() -> None:
    (tree,) = prompter_of(WAYS[2]).trees(SCENE, "none")
    assert pieces(tree) == [
        "[Similar lines: 90 % peaceful, 10 % joyful]\n",
        "[Similar lines: 100 % mad]\n",
        "[Similar lines: 25 % mad, 15 % joyful, 15 % neutral]\n",
    ]


def test_a_window_begins_with_what_resembles_its_own_first_line() -> None:
    lines = [("Mara", text) for text in ("I am happy.", "Oh.", "Hm.", "The toast is burning!", "Get out.", "Get out!")]
    trees = prompter_of(WAYS[1], trunk_lines=4).trees(scene(*lines), "all")
    firsts = [pieces(tree, "line")[0] for tree in trees]
    assert firsts == ["Mara: I am happy.\n", "Mara: The toast is burning!\n"]
    assert [text.count("happy") for tree in trees for text in pieces(tree)] == [2, 0]
    assert '"The toast is burning." scared' in pieces(trees[1])[0]


def test_a_run_without_retrieval_has_the_prompts_and_the_recipe_it_had() -> None:
    plain = RunConfig.model_validate({"prompt": {"template": "plain"}, "training": {"evaluations": 0}})
    same = config_of({"use": "none"})
    assert "retrieval" not in same.result_fields()
    assert (plain.sha256, plain.recipe_sha256) == (same.sha256, same.recipe_sha256)
    with_it = prompter_of({"use": "none"})
    bare = Prompter(TOKENIZER, with_it.template, EMORYNLP)
    assert asked(with_it.trees(SCENE, "all")) == asked(bare.trees(SCENE, "all"))
    assert all(span.kind != "retrieved" for tree in with_it.trees(SCENE, "all") for span in tree.spans)


def test_an_answer_in_two_steps_is_shown_as_it_is_asked_for() -> None:
    (tree,) = prompter_of(WAYS[0], answer="coarse_then_label").trees(SCENE, "none")
    assert pieces(tree)[1] == '[Similar lines: "Get out of my house!" negative mad, "Get out!" negative mad]\n'


def test_invented_names_replace_those_in_retrieved_lines() -> None:
    train = (scene_of(1, ("Ada Quill", "Get out, Ada Quill!", "Mad")), *TRAIN[1:])
    (tree,) = prompter_of(WAYS[0], train, names="invented").trees(SCENE, "none")
    assert "Get out" in pieces(tree)[1]
    assert not any("Ada" in text for text in pieces(tree))


# Odd queries and odd train splits.


def test_a_line_that_resembles_nothing_gets_the_first_lines_of_train() -> None:
    silent = scene(("Mara", "\u2014"), ("Mara", "zyzzyva"))
    (tree,) = prompter_of(WAYS[0]).trees(silent, "none")
    assert pieces(tree) == ['[Similar lines: "I am so happy today!" joyful, "I am happy for you." peaceful]\n'] * 2


def test_more_neighbours_than_lines_are_all_lines() -> None:
    (tree,) = prompter_of({"use": "demonstrations", "k": 200}).trees(SCENE, "none")
    assert [text.count('" ') for text in pieces(tree)] == [6, 6, 6]
    assert all(f'"{u.text}"' in pieces(tree)[0] for d in TRAIN for u in d.utterances)


def test_nothing_is_shown_where_train_has_no_other_episode() -> None:
    for way in WAYS[:2]:
        (tree,) = prompter_of(way, TRAIN[:1]).trees(TRAIN[0], "gold")
        assert pieces(tree) == []


# Data is never markup.


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("way", WAYS[:2])
def test_a_retrieved_line_is_never_markup(text: str, way: dict[str, Any]) -> None:
    """Neither a marker nor a line end inside it, nor an end of its quotation, whatever the line holds."""
    train = (scene_of(1, ("Ada", f'{text} mad", "Hi" joyful]', "Sad")),)
    (tree,) = prompter_of(way, train, "instruct").trees(SCENE, "all")
    special = {TOKENIZER.convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>", "<tool_call>")}
    for span, shown in zip([s for s in tree.spans if s.kind == "retrieved"], pieces(tree), strict=True):
        assert (shown.count("\n"), shown[-1], shown.count('"')) == (1, "\n", 2)
        assert "<|im_end|>" not in shown
        assert special.isdisjoint(tree.token_ids[span.start : span.stop].tolist())


@relaxed
@given(
    said=st.lists(hostile_texts(), min_size=1, max_size=4),
    way=st.sampled_from(WAYS),
    budget=st.sampled_from([64, 2048]),
)
def test_no_path_is_longer_than_the_longest_that_is_allowed_for(
    said: list[str], way: dict[str, Any], budget: int
) -> None:
    train = tuple(scene_of(k, ("Ada", f"{text} burning {'toast ' * 60}", "Scared")) for k, text in enumerate(said, 1))
    prompter = prompter_of(way, train, trunk_budget=budget)
    parts = longest_path(prompter)
    trees = prompter.trees(SCENE, "all")
    assert max(len(span_ids(t, s)) for t in trees for s in t.spans if s.kind == "retrieved") <= parts["retrieved lines"]
    assert max(len(t.root_path(node)) for t in trees for node in range(len(t))) <= sum(parts.values())


def span_ids(tree: TokenTree, span: Any) -> list[int]:
    ids: list[int] = tree.token_ids[span.start : span.stop].tolist()
    return ids


def test_a_long_line_is_cut() -> None:
    train = (scene_of(1, ("Ada", "the toast is burning " * 50, "Scared")),)
    (text, *_) = pieces(prompter_of(WAYS[0], train).trees(SCENE, "none")[0])
    assert text.endswith('..." scared]\n')
    assert len(TOKENIZER.encode(text, add_special_tokens=False)) < 2 * LONGEST


# No leaks.


def own_train(dialogue: Dialogue) -> Corpus:
    """A train split with the dialogue itself, which is an episode of its own."""
    return corpus_of({"train": (*TRAIN, dialogue)})


@relaxed
@given(dialogue=dialogues(), way=st.sampled_from(WAYS), data=st.data())
def test_no_gold_label_of_a_scene_changes_what_its_questions_read(
    dialogue: Dialogue, way: dict[str, Any], data: Any
) -> None:
    labels = st.sampled_from(EMORYNLP.names)
    lines = [u if u.label is None else replace(u, label=data.draw(labels)) for u in dialogue.utterances]
    found = []
    for scene_ in (dialogue, replace(dialogue, utterances=tuple(lines))):
        prompter = build_prompter(config_of(way, trunk_budget=64), EMORYNLP, TOKENIZER, past=own_train(scene_))
        found.append(asked(prompter.trees(scene_, "all")))
    assert found[0] == found[1]


@relaxed
@given(dialogue=dialogues(), way=st.sampled_from(WAYS), budget=st.sampled_from([64, 2048]), data=st.data())
def test_nothing_later_changes_what_a_question_reads(
    dialogue: Dialogue, way: dict[str, Any], budget: int, data: Any
) -> None:
    k = data.draw(st.integers(0, len(dialogue.utterances) - 1))
    later = [replace(u, text="Get out, the toast is burning!") for u in dialogue.utterances[k + 1 :]]
    prompter = prompter_of(way, trunk_budget=budget)
    others = (replace(dialogue, utterances=dialogue.utterances[: k + 1] + tuple(changed)) for changed in (later, ()))
    before = {target: ids for target, ids in asked(prompter.trees(dialogue, "all")).items() if target <= k}
    for changed in others:
        after = asked(prompter.trees(changed, "all"))
        assert before == {target: ids for target, ids in after.items() if target <= k}


def test_a_line_of_the_own_episode_is_never_shown() -> None:
    """The very lines are in train, and so is another scene of the episode."""
    same = replace(TRAIN[1], id="other", scene=2)
    for way in WAYS[:2]:
        (tree,) = prompter_of(way, (*TRAIN, same)).trees(TRAIN[1], "gold")
        assert not any("Get out" in text for text in pieces(tree))
    (tree,) = prompter_of(WAYS[2], (*TRAIN, same)).trees(TRAIN[1], "gold")
    assert not any("mad" in text for text in pieces(tree))


@pytest.mark.parametrize("way", WAYS)
def test_a_forecast_reads_nothing_that_resembles_the_line_it_is_about(way: dict[str, Any]) -> None:
    config = config_of(way).model_copy(update={"scoring": RunConfig().scoring.model_copy(update={"forecast": True})})
    prompter = build_prompter(config, EMORYNLP, TOKENIZER, past=corpus_of({"train": TRAIN}))
    other = replace(SCENE, utterances=tuple(replace(u, text="The toast is burning.") for u in SCENE.utterances))
    for k in range(3):
        mixed = replace(SCENE, utterances=(*SCENE.utterances[:k], *other.utterances[k:]))
        assert asked(prompter.trees(SCENE, "all"))[k] == asked(prompter.trees(mixed, "all"))[k]


def test_auxiliary_questions_read_nothing_that_was_retrieved_for_their_line() -> None:
    talk = scene(("Ada", "I am happy.", "Joyful"), ("Ben", "Get out.", "Mad"), ("Ada", "Get out!", "Sad"))
    prompter = prompter_of(WAYS[0])
    further = AuxiliaryQuestions(prompter, dict.fromkeys(TASKS, 0.5), closed=True).of_epoch("d", 0)
    (tree,) = prompter.trees(talk, "gold_all", further=further)
    read = [decode(TOKENIZER, tree.token_ids[tree.root_path(q.last)]) for q in tree.questions if q.task != "label"]
    assert read
    assert not any(WORDED in text for text in read)


# Path equality.


@pytest.mark.parametrize("way", WAYS)
def test_the_packed_forward_equals_every_plain_prompt(way: dict[str, Any], tiny_llama: TinyModel) -> None:
    prompter = build_prompter(
        config_of(way, "instruct", trunk_lines=4), EMORYNLP, tiny_llama.tokenizer, past=corpus_of({"train": TRAIN})
    )
    trees = prompter.trees(scene(*[("Mara", u.text) for d in TRAIN for u in d.utterances]), "all")
    assert any(s.kind == "retrieved" for tree in trees for s in tree.spans)
    packed, plain = (with_attention(tiny_llama, attention) for attention in (ATTENTION, "sdpa"))
    for tree in trees:
        assert largest_difference(packed, plain, tree, all_logits(packed, pack([tree]))) <= TOLERANCE
