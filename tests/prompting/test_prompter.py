"""No leaks; and what a scene looks like as a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erc_llm.corpus.dialogues import EVERYONE, Dialogue, Utterance
from erc_llm.corpus.labels import EMORYNLP, LabelSet
from erc_llm.errors import ConfigError, PromptError
from erc_llm.prompting.names import first_name, line_names
from erc_llm.prompting.prompter import Prompter, PromptOptions, shuffled_labels
from erc_llm.prompting.templates import load_prompt
from erc_llm.trees.forest import pack
from erc_llm.trees.tree import TokenTree
from tests.prompting.scenes import decode, dialogue_of, dialogues, scene, utterances
from tests.tiny_models import chatml_tokenizer, llama2_style_tokenizer

relaxed = settings(max_examples=25, deadline=None)
TOKENIZER = chatml_tokenizer()


def build_prompter(**options: Any) -> Prompter:
    return Prompter(TOKENIZER, load_prompt("instruct"), EMORYNLP, PromptOptions(**options))


# Scenes in one window, and scenes cut into several.
PAST = [build_prompter(trunk_budget=budget, names=names) for budget in (2048, 64) for names in ("first", "full")]
PAST.append(build_prompter(trunk_lines=4))
FULL = [build_prompter(context="full", trunk_budget=budget) for budget in (2048, 64)]


def asked(trees: Sequence[TokenTree]) -> dict[int, list[int]]:
    """Target to the ids on which its answer hangs: everything the model has read when it answers."""
    return {q.target: t.token_ids[t.root_path(q.last)].tolist() for t in trees for q in t.questions}


def text_of(ids: Sequence[int]) -> str:
    return decode(TOKENIZER, ids)


# No leaks.


@relaxed
@given(dialogue=dialogues(), prompter=st.sampled_from([*PAST, *FULL]), data=st.data())
def test_no_gold_label_is_among_what_any_question_reads(dialogue: Dialogue, prompter: Prompter, data: Any) -> None:
    labels = st.sampled_from(EMORYNLP.names)
    lines = [replace(u, label=data.draw(labels)) for u in dialogue.utterances]
    relabelled = replace(dialogue, utterances=tuple(lines))
    unlabelled = replace(dialogue, utterances=tuple(replace(u, label=None) for u in lines))
    for answers in ("all", "none"):
        assert asked(prompter.trees(dialogue, answers)) == asked(prompter.trees(relabelled, answers))
        assert asked(prompter.trees(dialogue, answers)) == asked(prompter.trees(unlabelled, answers))
    everything = asked(prompter.trees(dialogue, "none"))
    for answers in ("gold", "gold_all"):
        for version in (dialogue, relabelled):
            for target, ids in asked(prompter.trees(version, answers)).items():
                assert ids == everything[target], "training reads what use does not"


@relaxed
@given(before=dialogues(6), later=st.lists(utterances(), max_size=4), prompter=st.sampled_from(PAST))
def test_under_past_nothing_later_is_among_what_a_question_reads(
    before: Dialogue, later: list[Utterance], prompter: Prompter
) -> None:
    whole = asked(prompter.trees(before, "none"))
    for cut in range(1, len(before.utterances) + 1):
        # Delete all that follows, put other lines there, put them between: earlier questions stay as they were.
        earlier = before.utterances[:cut]
        for lines in (earlier, (*earlier, *later), (*earlier, *later, *before.utterances[cut:])):
            changed = asked(prompter.trees(dialogue_of(lines), "none"))
            assert {k: ids for k, ids in changed.items() if k < cut} == {k: ids for k, ids in whole.items() if k < cut}


@relaxed
@given(
    before=dialogues(6),
    later=st.lists(utterances(), max_size=4),
    ahead=st.integers(1, 3),
    budget=st.sampled_from([2048, 64]),
)
def test_with_lookahead_nothing_later_than_that_is_among_what_a_question_reads(
    before: Dialogue, later: list[Utterance], ahead: int, budget: int
) -> None:
    prompter = build_prompter(lookahead=ahead, trunk_budget=budget)
    whole = asked(prompter.trees(before, "none"))
    for cut in range(1, len(before.utterances) + 1):
        changed = asked(prompter.trees(dialogue_of((*before.utterances[:cut], *later)), "none"))
        known = {k: ids for k, ids in whole.items() if k + ahead < cut}
        assert {k: ids for k, ids in changed.items() if k in known} == known


def test_lookahead_hangs_a_question_after_later_lines() -> None:
    talk = scene(("Ada", "Hello.", "Joyful"), ("Ben", "Go away!", "Mad"), ("Ada", "But why?", "Sad"))
    seen = {k: text_of(ids) for k, ids in asked(build_prompter(lookahead=1).trees(talk, "all")).items()}
    assert "But why?" not in seen[0]
    assert seen[0].index("Go away!") < seen[0].rindex("Ada feels")
    assert "But why?" in seen[1]
    assert seen[2].index("But why?") < seen[2].rindex("Ada feels")
    assert "1. Ada feels" in seen[0]
    assert "3. Ada feels" in seen[2]


def test_a_quoting_question_repeats_its_own_line_and_no_other() -> None:
    talk = scene(("Ada", "Hello.", "Joyful"), ("Ben", "Go away!", "Mad"), ("Ada", "But (why?)", "Sad"))
    tokenizer = llama2_style_tokenizer(chat=False)
    prompter = Prompter(tokenizer, load_prompt("quoting"), EMORYNLP, PromptOptions(lookahead=1))
    seen = {k: decode(tokenizer, ids) for k, ids in asked(prompter.trees(talk, "all")).items()}
    assert seen[0].endswith("2. Ben: Go away!\n(Ada: Hello. Ada feels")
    assert seen[2].endswith("3. Ada: But (why?)\n(Ada: But (why?) Ada feels")


def test_with_lookahead_two_lines_of_one_speaker_are_told_apart() -> None:
    talk = scene(("Ada", "Hello.", "Joyful"), ("Ada", "Well?", "Sad"))
    seen = asked(build_prompter(lookahead=1).trees(talk, "all"))
    assert seen[0] != seen[1]


@relaxed
@given(dialogue=dialogues(6), prompter=st.sampled_from(PAST), data=st.data())
def test_under_past_a_later_speaker_is_not_known(dialogue: Dialogue, prompter: Prompter, data: Any) -> None:
    place = data.draw(st.integers(0, len(dialogue.utterances) - 1))
    other = data.draw(st.sampled_from(["Monica Geller", "Monica Other", "Zed", EVERYONE]))
    lines = list(dialogue.utterances)
    lines[place] = replace(lines[place], speakers=(other,), text="Something else.")
    before, after = (asked(prompter.trees(d, "all")) for d in (dialogue, dialogue_of(lines)))
    assert [k for k in before if before[k] != after[k] and k < place] == []


@relaxed
@given(dialogue=dialogues(8), prompter=st.sampled_from([*PAST, *FULL]))
def test_every_target_is_asked_once_and_context_only_lines_never(dialogue: Dialogue, prompter: Prompter) -> None:
    labelled = [k for k in dialogue.targets if dialogue.utterances[k].label is not None]
    for answers, expected in (("all", list(dialogue.targets)), ("gold", labelled), ("gold_all", labelled)):
        trees = prompter.trees(dialogue, answers)  # type: ignore[arg-type]
        assert [q.target for t in trees for q in t.questions] == expected


# What a question sees.

SCENE = scene(("Mara", "Who left the window open?"), ("Tomas", "I did."), ("Mara", "It is freezing."))


def test_a_question_sees_the_lines_up_to_its_own_under_past() -> None:
    texts = [text_of(ids) for ids in asked(PAST[0].trees(SCENE, "all")).values()]
    assert ["It is freezing." in text for text in texts] == [False, False, True]
    assert ["I did." in text for text in texts] == [False, True, True]


def test_a_question_sees_the_whole_scene_under_full() -> None:
    prompter = build_prompter(context="full")
    (tree,) = prompter.trees(SCENE, "all")
    for question in tree.questions:
        assert tree.parent[question.start] == tree.trunk - 1
    texts = [text_of(ids) for ids in asked([tree]).values()]
    assert all("It is freezing." in text for text in texts)
    assert len(set(texts)) == 3, "two questions by one speaker must not be the same"


def test_the_trunk_ends_with_the_last_target() -> None:
    lines = [*SCENE.utterances, Utterance("u", ("Ines",), "Nobody asks me.", target=False)]
    (tree,) = PAST[0].trees(dialogue_of(lines), "all")
    assert "Nobody" not in text_of(tree.token_ids)
    (tree,) = FULL[0].trees(dialogue_of(lines), "all")
    assert "Nobody" in text_of(tree.token_ids)


def test_weights_choose_what_is_asked_and_reach_the_forest() -> None:
    labelled = scene(("Mara", "Oh", "Sad"), ("Tomas", "Hm", "Mad"), ("Mara", "No", "Sad"))
    trees = PAST[0].trees(labelled, "gold", weights={0: 0.5, 2: 3.0})
    assert [(q.target, q.weight) for t in trees for q in t.questions] == [(0, 0.5), (2, 3.0)]
    assert pack(trees).weights.tolist() == [0.5, 3.0]


@relaxed
@given(dialogue=dialogues(8), prompter=st.sampled_from([*PAST, *FULL]), data=st.data())
def test_lines_stay_the_same_whatever_is_asked(dialogue: Dialogue, prompter: Prompter, data: Any) -> None:
    chosen = data.draw(st.sets(st.integers(0, len(dialogue.utterances) - 1)))
    whole = {q.target: tree for tree in prompter.trees(dialogue, "gold") for q in tree.questions}
    trees = prompter.trees(dialogue, "gold", weights=dict.fromkeys(chosen, 2.0))
    assert [q.target for tree in trees for q in tree.questions] == [k for k in whole if k in chosen]
    for tree in trees:
        before = whole[tree.questions[0].target]
        assert tree.token_ids[: tree.trunk].tolist() == before.token_ids[: before.trunk].tolist()


def test_answers_are_the_gold_label_or_all_in_canonical_order() -> None:
    labelled = scene(("Mara", "Oh", "Sad"), ("Tomas", "Hm", None))
    gold = [q.labels for t in PAST[0].trees(labelled, "gold") for q in t.questions]
    assert gold == [(EMORYNLP.index("Sad"),)]
    (tree,) = PAST[0].trees(labelled, "all")
    for question in tree.questions:
        assert question.labels == tuple(range(7))
        for label, answer in zip(question.labels, question.answers, strict=True):
            assert text_of(tree.token_ids[list(answer)]) == EMORYNLP.names[label] + "<|im_end|>"
    assert [q.answers for t in PAST[0].trees(labelled, "none") for q in t.questions] == [(), ()]


# Odd scenes.


def test_a_scene_of_one_line() -> None:
    (tree,) = PAST[0].trees(scene(("Mara", "Oh", "Sad")), "gold")
    assert [q.target for q in tree.questions] == [0]


def test_a_scene_without_a_target_gives_no_tree() -> None:
    lines = [Utterance("u", ("Mara",), "Oh", "Sad", target=False)]
    assert PAST[0].trees(dialogue_of(lines), "all") == []
    assert PAST[0].trees(Dialogue("empty", ()), "all") == []


def test_an_empty_text_is_a_line_of_its_own() -> None:
    (tree,) = PAST[0].trees(scene(("Mara", ""), ("Tomas", "Hm")), "all")
    assert "Mara: \nTomas: Hm\n" in text_of(asked([tree])[1])


@pytest.mark.parametrize("tokenizer", [TOKENIZER, llama2_style_tokenizer()], ids=["chatml", "llama2"])
def test_a_line_of_ten_thousand_words_is_cut_and_the_scene_goes_on(tokenizer: Any) -> None:
    prompter = Prompter(tokenizer, load_prompt("instruct"), EMORYNLP, PromptOptions(trunk_budget=256))
    long = " ".join(f"word{k}" for k in range(10_000))
    trees = prompter.trees(scene(("Mara", "Before."), ("Tomas", long), ("Mara", "After.")), "all")
    assert [q.target for t in trees for q in t.questions] == [0, 1, 2]
    for tree in trees:
        lines = [tree.token_ids[s.start : s.stop] for s in tree.spans if s.kind == "line"]
        assert sum(map(len, lines)) <= 256
        assert all(decode(tokenizer, ids).count("\n") == 1 == decode(tokenizer, ids[-1:]).count("\n") for ids in lines)
    assert "Tomas: word0 word1" in decode(tokenizer, trees[-1].token_ids)
    assert "After." in decode(tokenizer, trees[-1].token_ids)


def test_a_long_scene_becomes_windows_that_each_open_with_the_instruction() -> None:
    lines = [("Mara", f"This is what I said as number {k}.") for k in range(30)]
    prompter = build_prompter(trunk_budget=128)
    trees = prompter.trees(scene(*lines), "all")
    assert len(trees) > 2
    assert [q.target for t in trees for q in t.questions] == list(range(30))
    head = list(prompter.head_ids(EMORYNLP.names))
    for tree in trees:
        assert tree.token_ids[: len(head)].tolist() == head
        assert tree.trunk - len(head) <= 128


# Names.


def called(*speakers: str | tuple[str, ...], names: Any = "first") -> list[str]:
    lines = [Utterance("u", (s,) if isinstance(s, str) else s, "Hm") for s in speakers]
    return line_names(lines, names)


def test_people_are_called_by_first_name() -> None:
    assert called("Monica Geller", "Joey", "Monica Geller") == ["Monica", "Joey", "Monica"]
    assert called("Monica Geller", names="full") == ["Monica Geller"]


def test_the_second_with_a_first_name_gets_her_full_name() -> None:
    assert called("Monica Geller", "Monica Bing", "Monica Geller") == ["Monica", "Monica Bing", "Monica"]
    assert called("Monica Geller", "MONICA") == ["Monica", "MONICA"]


def test_two_people_are_never_called_the_same() -> None:
    assert len(set(called("Monica Geller", "Monica"))) == 2


@pytest.mark.parametrize("name", ["Mrs. Geller", "Dr Green", "The Director", "Aunt Lillian", "Mara", EVERYONE])
def test_titles_and_single_words_are_kept_whole(name: str) -> None:
    assert first_name(name) == name


@pytest.mark.parametrize("name", ["Phoebe's Assistant", "Fake Monica", "Woman On Train", "Casting Director No. 1"])
def test_descriptions_are_not_cut_to_their_first_word(name: str) -> None:
    # All four are speakers of EmoryNLP.
    assert first_name(name) == name


def test_several_speakers_and_everyone() -> None:
    assert called(("Monica Geller", "Joey")) == ["Monica and Joey"]
    assert called(("Monica Geller", "Joey", "Ross Geller")) == ["Monica, Joey and Ross"]
    assert called(EVERYONE, (EVERYONE, "Joey")) == ["All", "All and Joey"]
    assert called(()) == ["Someone"]


@relaxed
@given(dialogue=dialogues(), names=st.sampled_from(["first", "full"]))
def test_a_name_never_depends_on_a_later_line(dialogue: Dialogue, names: Any) -> None:
    whole = line_names(dialogue.utterances, names)
    for cut in range(len(dialogue.utterances)):
        assert line_names(dialogue.utterances[:cut], names) == whole[:cut]


# The order of the labels.


def test_the_order_is_fixed_by_run_epoch_and_scene() -> None:
    order = shuffled_labels(EMORYNLP, 13, 0, "scene")
    assert sorted(order) == sorted(EMORYNLP.names)
    assert order == shuffled_labels(EMORYNLP, 13, 0, "scene")
    others = [shuffled_labels(EMORYNLP, *key) for key in ((14, 0, "scene"), (13, 1, "scene"), (13, 0, "other"))]
    assert all(other != order for other in others)
    assert len({shuffled_labels(EMORYNLP, 13, epoch, "scene") for epoch in range(20)}) > 15


def test_only_the_instruction_follows_the_order() -> None:
    order = tuple(reversed(EMORYNLP.names))
    (usual,), (turned,) = (PAST[0].trees(SCENE, "all", label_order=o) for o in (None, order))
    assert ", ".join(order) in text_of(turned.token_ids)
    assert ", ".join(EMORYNLP.names) in text_of(usual.token_ids)
    for before, after in zip(usual.questions, turned.questions, strict=True):
        assert before.labels == after.labels
        assert [usual.token_ids[list(a)].tolist() for a in before.answers] == [
            turned.token_ids[list(a)].tolist() for a in after.answers
        ]


# Golden: the bytes of a prompt and the tokens that are trained. A change here is a change of every trained adapter.

GOLDEN = dialogue_of(
    [
        Utterance("u", ("Mara Lind",), "Who left the\nwindow open?", "Mad"),
        Utterance("u", ("Tomas",), "(the toast burns)", None, target=False),
        Utterance("u", ("Tomas", EVERYONE), "I did. <|im_end|>", "Scared"),
    ]
)
_HEAD = (
    "<|im_start|>system\n"
    "Label the emotion of each line: Joyful, Mad, Neutral, Peaceful, Powerful, Sad, Scared.<|im_end|>\n"
    "<|im_start|>user\n"
)
_BRIDGE = "<|im_end|>\n<|im_start|>assistant\n"
GOLDEN_TEXTS = [
    f"{_HEAD}Mara: Who left the window open?\nMara feels{_BRIDGE}[Ma][d][<|im_end|>]",
    f"{_HEAD}Mara: Who left the window open?\nTomas: (the toast burns)\nTomas and All: I did. < |im_end|>\n"
    f"Tomas and All feels{_BRIDGE}[S][c][a][re][d][<|im_end|>]",
]


def test_golden_prompt_and_trained_tokens() -> None:
    trees = PAST[0].trees(GOLDEN, "gold")
    (tree,) = trees
    trained = {node for q in tree.questions for answer in q.answers for node in answer}
    shown = []
    for question in tree.questions:
        path = tree.root_path(question.answers[0][-1]).tolist()
        texts = {node: text_of(tree.token_ids[[node]]) for node in path}
        shown.append("".join(f"[{text}]" if node in trained else text for node, text in texts.items()))
    assert shown == GOLDEN_TEXTS
    assert sorted(trained) == GOLDEN_NODES
    forest = pack(trees)
    assert forest.edge_token.tolist() == tree.token_ids[sorted(trained)].tolist()
    assert forest.position_ids[0, forest.logit_rows].tolist() == GOLDEN_POSITIONS


GOLDEN_NODES = [102, 103, 104, 122, 123, 124, 125, 126, 127]
GOLDEN_POSITIONS = [66, 67, 68, 106, 107, 108, 109, 110, 111]  # of the token before each trained one


# What an answer is.


def test_an_answer_may_name_the_coarser_label_first() -> None:
    prompter = build_prompter(answer="coarse_then_label")
    assert prompter.answer_texts[:3] == ("positive Joyful", "negative Mad", "neutral Neutral")
    (tree,) = prompter.trees(scene(("Ada", "Hello.", "Sad")), "all")
    (question,) = tree.questions
    assert question.labels == tuple(range(7))
    begins = [path[0] for path in question.answers]
    assert begins[0] == begins[3] == begins[4], "labels of one coarser label begin with the same node"
    assert begins[1] == begins[5] == begins[6] != begins[0]


def test_coarser_labels_are_needed_for_that() -> None:
    with pytest.raises(PromptError, match=r"prompt\.answer=coarse_then_label: .*labels\.coarse"):
        Prompter(
            TOKENIZER, load_prompt("instruct"), LabelSet(("up", "down")), PromptOptions(answer="coarse_then_label")
        )


def test_a_coarse_map_with_holes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"labels\.coarse: .*missing are \['down'\], unknown are \['left'\]"):
        LabelSet(("up", "down"), coarse={"up": "good", "left": "bad"})


def test_coarse_probabilities_are_sums() -> None:
    probabilities = dict(zip(EMORYNLP.names, (0.1, 0.2, 0.3, 0.05, 0.05, 0.2, 0.1), strict=True))
    found = EMORYNLP.coarse_probabilities(probabilities)
    assert found == pytest.approx({"positive": 0.2, "negative": 0.5, "neutral": 0.3})
    assert LabelSet(("up", "down")).coarse_probabilities({"up": 1.0, "down": 0.0}) == {}
