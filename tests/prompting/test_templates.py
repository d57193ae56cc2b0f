"""Prompt templates, and the frame that is cut out of a model's chat template."""

from __future__ import annotations

import difflib
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from erc_llm.corpus.dialogues import Dialogue
from erc_llm.corpus.labels import EMORYNLP, LabelSet
from erc_llm.errors import PromptError
from erc_llm.prompting.names import line_names
from erc_llm.prompting.prompter import Prompter, PromptOptions
from erc_llm.prompting.templates import BLOCKS, PromptTemplate, cut_frame, load_prompt
from erc_llm.trees.tree import Question, TokenTree
from tests.prompting.scenes import decode, scene
from tests.tiny_models import CHATML_TEMPLATE, chatml_tokenizer, llama2_style_tokenizer

CHATS = ["chatml", "llama2", pytest.param("smollm2", marks=pytest.mark.smollm2)]

SCENE = scene(
    ("Mara", "Who left the window open?", "Mad"),
    ("Tomas", " I did...  Ünïcödé, 3 < 4 & so on! ", "Sad"),
    ("#ALL#", "\u00bfQu\u00e9? [laughs] it's 20:15", "Powerful"),
    ("Mrs. Lind", "Oh", "Scared"),
)

SOURCE = (
    "{% block system %}Choose: {{ labels | join(', ') }}.{% endblock %}"
    "{% block line %}{{ name }}: {{ text }}\n{% endblock %}"
    "{% block question %}{{ name }} feels{% endblock %}"
    "{% block answer %}{{ label }}{% endblock %}"
)


@pytest.fixture(scope="module", params=CHATS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    if request.param == "smollm2":
        from erc_llm.models.loading import load_tokenizer

        return load_tokenizer("smollm2-135m-instruct")
    return chatml_tokenizer() if request.param == "chatml" else llama2_style_tokenizer()


def with_chat_template(chat_template: str | None) -> Any:
    tokenizer = chatml_tokenizer()
    tokenizer.chat_template = chat_template
    return tokenizer


def user_text(prompter: Prompter, dialogue: Dialogue, target: int) -> tuple[str, str]:
    """System and user text of one target's prompt, put together anew from the template's blocks."""
    harmless, context = prompter.frame.encoder.harmless, prompter.options.context
    given = [
        {"number": k + 1, "name": harmless(name), "text": harmless(u.text), "context": context, "state": ""}
        for k, (name, u) in enumerate(
            zip(line_names(dialogue.utterances, prompter.options.names), dialogue.utterances, strict=True)
        )
    ]
    seen = given if context == "full" else given[: target + 1]
    lines = "".join(prompter.template.render("line", values) for values in seen)
    system = prompter.template.render("system", {"labels": prompter.labels.names, "context": context})
    return system, lines + prompter.template.render("question", given[target])


def paths(tree: TokenTree) -> list[tuple[Question, int, list[int]]]:
    """(question, label, ids of the root path to the end of that answer)."""
    return [
        (question, label, tree.token_ids[tree.root_path(answer[-1])].tolist())
        for question in tree.questions
        for label, answer in zip(question.labels, question.answers, strict=True)
    ]


# The text of a root path.


@pytest.mark.parametrize("context", ["past", "full"])
def test_every_root_path_is_the_chat_templates_own_text(tokenizer: Any, context: Any) -> None:
    prompter = Prompter(tokenizer, load_prompt("instruct"), EMORYNLP, PromptOptions(context=context))
    (tree,) = prompter.trees(SCENE, "all")
    checked = 0
    for question, label, ids in paths(tree):
        system, user = user_text(prompter, SCENE, question.target)
        conversation = [
            {"role": "system", "content": system},
            {"role": "user", "content": user},
            {"role": "assistant", "content": EMORYNLP.names[label]},
        ]
        whole = tokenizer.apply_chat_template(conversation, tokenize=False)
        assert decode(tokenizer, ids) + prompter.frame.after == whole
        checked += 1
    assert checked == 4 * 7


def test_a_prompt_for_generation_is_the_template_with_its_generation_prompt(tokenizer: Any) -> None:
    prompter = Prompter(tokenizer, load_prompt("instruct"), EMORYNLP)
    (tree,) = prompter.trees(SCENE, "none")
    for question in tree.questions:
        system, user = user_text(prompter, SCENE, question.target)
        conversation = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        expected = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        assert decode(tokenizer, tree.token_ids[tree.root_path(question.last)]) == expected


def test_what_is_left_behind_an_answer_is_at_most_white_space(tokenizer: Any) -> None:
    assert cut_frame(tokenizer, load_prompt("instruct")).after.strip() == ""


def merged_seams(tokenizer: Any, tree: TokenTree, question: Question, ids: list[int]) -> list[tuple[Any, Any]]:
    """Where joined ids differ from tokenising in one piece: (tokens joined, tokens in one piece) at every such seam.

    Fails where they differ anywhere but at a seam between two pieces.
    """
    text = decode(tokenizer, ids)
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    nodes = tree.root_path(question.answers[0][-1]).tolist()
    starts = {s.start for s in tree.spans}
    seams = {len(decode(tokenizer, ids[:i])) for i, node in enumerate(nodes) if node in starts}
    found = []
    places = [len(decode(tokenizer, whole[:i])) for i in range(len(whole) + 1)]
    for kind, i, j, k, m in difflib.SequenceMatcher(None, ids, whole, autojunk=False).get_opcodes():
        if kind != "equal":
            assert any(places[k] < seam < places[m] for seam in seams), "a piece by itself is tokenised another way"
            found.append((tokenizer.convert_ids_to_tokens(ids[i:j]), tokenizer.convert_ids_to_tokens(whole[k:m])))
    return found


def test_joined_ids_are_those_of_the_whole_text(tokenizer: Any) -> None:
    prompter = Prompter(tokenizer, load_prompt("instruct"), EMORYNLP)
    (tree,) = prompter.trees(SCENE, "gold")
    for question, _, ids in paths(tree):
        assert merged_seams(tokenizer, tree, question, ids) == []


def test_a_merge_across_a_seam_is_not_made() -> None:
    # Here the vocabulary has a piece for a label and the full stop that ends the answer; the tree keeps them apart,
    # so that all labels end with the same token and share none of it with their last piece.
    tokenizer = llama2_style_tokenizer(chat=False)
    template = PromptTemplate("dot", SOURCE + "{% block end %}.\n{% endblock %}")
    prompter = Prompter(tokenizer, template, LabelSet(("Mad", "Sad")))
    (tree,) = prompter.trees(scene(("Mara", "Hm", "Mad")), "gold")
    ((question, _, ids),) = paths(tree)
    assert merged_seams(tokenizer, tree, question, ids) == [(["▁Mad", "."], ["▁Mad."])]
    end = prompter.frame.encoder.markup(".\n")
    assert all(answer[-len(end) :] == end for answer in prompter.answer_ids)


# Beginning and end.


def test_bos_stands_first_and_only_there() -> None:
    for chat in (True, False):
        tokenizer = llama2_style_tokenizer(chat)
        prompter = Prompter(tokenizer, load_prompt("instruct" if chat else "plain"), EMORYNLP)
        for tree in prompter.trees(SCENE, "all"):
            assert tree.token_ids.tolist().count(tokenizer.bos_token_id) == 1
            assert tree.token_ids[0] == tokenizer.bos_token_id


def test_a_tokenizer_without_bos_gets_none() -> None:
    prompter = Prompter(chatml_tokenizer(), load_prompt("plain"), EMORYNLP)
    assert prompter.frame.bos == ()
    (tree,) = prompter.trees(SCENE, "all")
    assert not set(tree.token_ids.tolist()) & set(prompter.frame.encoder.tokenizer.added_tokens_decoder)


@pytest.mark.parametrize(("make", "end"), [(chatml_tokenizer, "<|im_end|>"), (llama2_style_tokenizer, "</s>")])
def test_an_answer_ends_with_the_token_that_ends_a_turn(make: Any, end: str) -> None:
    tokenizer = make()
    prompter = Prompter(tokenizer, load_prompt("instruct"), EMORYNLP)
    for ids in prompter.answer_ids:
        assert tokenizer.convert_ids_to_tokens(ids[-1]) == end
        assert len(set(ids) & set(tokenizer.added_tokens_decoder)) == 1


def test_the_end_comes_from_the_template_not_from_eos() -> None:
    tokenizer = with_chat_template(CHATML_TEMPLATE.replace("<|im_end|>", "<|endoftext|>"))
    assert tokenizer.eos_token == "<|im_end|>"
    assert cut_frame(tokenizer, load_prompt("instruct")).end == "<|endoftext|>"


def test_a_template_that_ends_an_answer_with_text_only_keeps_all_of_it() -> None:
    tokenizer = with_chat_template(CHATML_TEMPLATE.replace("<|im_end|>", "[END]"))
    frame = cut_frame(tokenizer, load_prompt("instruct"))
    assert (frame.end, frame.after) == ("[END]\n", "")


def test_the_leading_space_of_an_answer_lives_in_the_lead() -> None:
    frame = cut_frame(llama2_style_tokenizer(), load_prompt("instruct"))
    assert (frame.bridge, frame.lead) == (" [/INST]", " ")
    frame = cut_frame(chatml_tokenizer(), load_prompt("instruct"))
    assert (frame.bridge, frame.lead) == ("<|im_end|>\n<|im_start|>assistant\n", "")
    assert cut_frame(llama2_style_tokenizer(chat=False), load_prompt("plain")).lead == " "


def test_a_plain_prompt_is_bos_and_its_own_blocks() -> None:
    tokenizer = llama2_style_tokenizer(chat=False)
    prompter = Prompter(tokenizer, load_prompt("plain"), EMORYNLP)
    end = prompter.template.render("end", {})
    for tree in prompter.trees(SCENE, "all"):
        for question, label, ids in paths(tree):
            system, user = user_text(prompter, SCENE, question.target)
            answer = prompter.template.render("answer", {"label": EMORYNLP.names[label]})
            assert decode(tokenizer, ids) == f"<s>{system}{user} {answer}{end}"


# Templates without a system role.

_REFUSE = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
NO_SYSTEM = _REFUSE + CHATML_TEMPLATE
DROPS_SYSTEM = CHATML_TEMPLATE.replace("messages %}", "messages if message['role'] != 'system' %}", 1)


@pytest.mark.parametrize("chat_template", [NO_SYSTEM, DROPS_SYSTEM])
def test_without_a_system_role_the_instruction_opens_the_user_turn(chat_template: str) -> None:
    tokenizer = with_chat_template(chat_template)
    prompter = Prompter(tokenizer, load_prompt("instruct"), EMORYNLP)
    (tree,) = prompter.trees(SCENE, "gold")
    for question, label, ids in paths(tree):
        system, user = user_text(prompter, SCENE, question.target)
        conversation = [
            {"role": "user", "content": f"{system}\n\n{user}"},
            {"role": "assistant", "content": EMORYNLP.names[label]},
        ]
        whole = tokenizer.apply_chat_template(conversation, tokenize=False)
        assert decode(tokenizer, ids) + prompter.frame.after == whole


# Templates that cannot be cut.

CONTENT = "message['content']"


@pytest.mark.parametrize(
    ("chat_template", "reason"),
    [
        (CHATML_TEMPLATE.replace(CONTENT, f"{CONTENT} + {CONTENT}"), "user text 2 times"),
        (CHATML_TEMPLATE.replace(CONTENT, "message['role']"), "user text 0 times"),
        (CHATML_TEMPLATE.replace(CONTENT, f"{CONTENT} | lower"), "user text 0 times"),
        (CHATML_TEMPLATE.replace(CONTENT, f"{CONTENT} | upper"), "user text 0 times"),
        (
            "{% for message in messages if message['role'] != 'assistant' %}{{ message['content'] }}#{% endfor %}",
            "assistant text 0 times",
        ),
        (
            "{% for message in messages %}{{ '<|im_start|>' + message['role'] + message['content'] }}{% endfor %}",
            "nothing after an answer",
        ),
        ("{% for message in messages %}{{ message['content'] }}{% endfor %}", "marks neither"),
        ("{% for message in messages | reverse %}{{ message['content'] + '<|im_end|>' }}{% endfor %}", "order"),
        ("{{ raise_exception('only tools') }}", "failed on a plain conversation: only tools"),
        ("{% for message in messages %}", "failed on a plain conversation"),
        (None, r"needs a chat template.*prompt\.template=plain"),
    ],
)
def test_a_template_that_cannot_be_cut_is_refused_with_the_reason(chat_template: str | None, reason: str) -> None:
    with pytest.raises(PromptError, match=reason):
        cut_frame(with_chat_template(chat_template), load_prompt("instruct"))


# Prompt templates.


def test_the_templates_of_the_package_are_one_for_chat_and_one_for_base_models() -> None:
    assert load_prompt("instruct").chat
    assert not load_prompt("plain").chat


def test_a_template_of_the_users_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text(SOURCE, encoding="utf-8")
    template = load_prompt(str(file))
    assert template.name == "mine"
    assert template.render("line", {"name": "Mara", "text": "{{ name }} Hi"}) == "Mara: {{ name }} Hi\n"
    assert template.sha256 != load_prompt("instruct").sha256


@pytest.mark.parametrize("name", ["instuct", "nowhere/mine.jinja"])
def test_an_unknown_prompt_lists_those_there_are(name: str) -> None:
    with pytest.raises(PromptError, match=rf"'{name}'.*instruct.*plain"):
        load_prompt(name)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_missing_block_is_named(block: str) -> None:
    with pytest.raises(PromptError, match=rf"'mine' lacks the blocks \['{block}'\]"):
        PromptTemplate("mine", SOURCE.replace(f"block {block}", "block other"))


def test_an_undefined_variable_is_named_with_those_there_are() -> None:
    template = PromptTemplate("mine", SOURCE.replace("{{ text }}", "{{ utterance }}"))
    with pytest.raises(PromptError, match=r"'mine', block 'line': 'utterance' is undefined.*'text'"):
        template.render("line", {"name": "Mara", "text": "Hi"})


@pytest.mark.parametrize(("broken", "line"), [("{% block x %}", 4), ("{{ 1 +", 4), ("{{ 'a' | nothing_like_it }}", 4)])
def test_a_syntax_error_names_its_line(broken: str, line: int) -> None:
    with pytest.raises(PromptError, match=rf"'mine', line {line}: "):
        PromptTemplate("mine", SOURCE + "\n\n" + broken)


@pytest.mark.parametrize(
    "wrong", ["{{ text + 1 }}", "{{ 1 / 0 }}", "{% include 'other' %}", "{{ text | join(1, 2, 3) }}"]
)
def test_whatever_a_template_does_wrong_is_one_message(wrong: str) -> None:
    template = PromptTemplate("mine", SOURCE.replace("{{ text }}", wrong))
    with pytest.raises(PromptError, match="'mine', block 'line'"):
        template.render("line", {"name": "Mara", "text": "Hi"})


def test_a_template_that_is_not_utf8_is_one_message(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_bytes(SOURCE.encode("utf-16"))
    with pytest.raises(PromptError, match="UTF-8"):
        load_prompt(str(file))


def test_answers_that_cannot_be_told_apart_are_refused() -> None:
    template = PromptTemplate("mine", SOURCE.replace("{{ label }}", "{{ label[0] }}"))
    with pytest.raises(PromptError, match=r"'mine'.*differ"):
        Prompter(chatml_tokenizer(), template, EMORYNLP)


def test_the_hash_is_that_of_the_source() -> None:
    hashes = [PromptTemplate("a", SOURCE), PromptTemplate("b", SOURCE), PromptTemplate("a", SOURCE + " ")]
    assert [len({t.sha256 for t in hashes[:k]}) for k in (1, 2, 3)] == [1, 1, 2]
    assert list(accumulate(len(t.sha256) for t in hashes)) == [64, 128, 192]
