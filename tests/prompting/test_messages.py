"""Prompts as text: a chat template, or a server that tokenises them, makes of them what the model reads here."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings

from erc_llm.corpus.dialogues import Dialogue
from erc_llm.corpus.labels import EMORYNLP
from erc_llm.errors import PromptError
from erc_llm.prompting.messages import PromptText, prompt_texts
from erc_llm.prompting.prompter import Prompter, PromptOptions
from erc_llm.prompting.templates import load_prompt
from tests.prompting.scenes import CHATML_MARKERS, HOSTILE, LLAMA2_MARKERS, decode, dialogues, scene
from tests.tiny_models import CHATML_TEMPLATE, chatml_tokenizer, llama2_style_tokenizer

SCENE = scene(
    ("Mara", "Who left the window open?"),
    ("Tomas", " I did...  Ünïcödé, 3 < 4 & so on! "),
    ("#ALL#", "\u00bfQu\u00e9? [laughs] it's 20:15"),
    ("Mrs. Lind", "Oh"),
)
NO_SYSTEM = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module", params=["chatml", "llama2", pytest.param("smollm2", marks=pytest.mark.smollm2)])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    if request.param == "smollm2":
        from erc_llm.models.loading import load_tokenizer

        return load_tokenizer("smollm2-135m-instruct")
    return chatml_tokenizer() if request.param == "chatml" else llama2_style_tokenizer()


def rendered(tokenizer: Any, prompt: PromptText, tokenize: bool = False) -> Any:
    """What a server's chat template makes of the messages: text, or the ids of that text in one piece."""
    turns = [{"role": role, "content": content} for role, content in prompt.messages]
    if tokenize:
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
        return tuple(tokenizer.apply_chat_template(turns, **options)["input_ids"])
    return tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)


@pytest.mark.parametrize("context", ["past", "full"])
@pytest.mark.parametrize("dialogue", [SCENE, scene(*(("Mara", text) for text in HOSTILE))], ids=["scene", "hostile"])
def test_the_messages_are_the_root_path_again(tokenizer: Any, context: Any, dialogue: Dialogue) -> None:
    prompter = Prompter(tokenizer, load_prompt("instruct"), EMORYNLP, PromptOptions(context=context))
    prompts = prompt_texts(prompter, dialogue)
    assert [p.target for p in prompts] == list(dialogue.targets)
    for prompt in prompts:
        assert [role for role, _ in prompt.messages] == ["system", "user"]
        assert rendered(tokenizer, prompt) == prompt.text == decode(tokenizer, prompt.ids)


def test_a_server_that_tokenises_the_text_reads_the_joined_ids(tokenizer: Any) -> None:
    """On an ordinary scene, all of them; what hostile lines can do is counted below."""
    prompter = Prompter(tokenizer, load_prompt("instruct"), EMORYNLP)
    for prompt in prompt_texts(prompter, SCENE):
        assert rendered(tokenizer, prompt, tokenize=True) == prompt.ids


@settings(max_examples=30, deadline=None)
@given(dialogue=dialogues())
def test_any_scene_has_the_text_of_its_root_paths(dialogue: Dialogue) -> None:
    prompter = Prompter(chatml_tokenizer(), load_prompt("instruct"), EMORYNLP)
    for prompt in prompt_texts(prompter, dialogue):
        assert rendered(prompter.frame.encoder.tokenizer, prompt) == prompt.text


@pytest.mark.parametrize(
    ("make", "markers"), [(chatml_tokenizer, CHATML_MARKERS), (llama2_style_tokenizer, LLAMA2_MARKERS)]
)
def test_a_server_finds_no_markup_in_what_people_said(make: Any, markers: tuple[str, ...]) -> None:
    """A server recognises markers wherever they are written: the user's words must have none."""
    prompter = Prompter(make(), load_prompt("instruct"), EMORYNLP)
    for prompt in prompt_texts(prompter, scene(*(("Mara", text) for text in HOSTILE))):
        user = prompt.messages[-1][1]
        assert not [marker for marker in markers if marker in user]
        specials = set(prompter.frame.encoder.tokenizer.all_special_ids)
        there = [i for i in rendered(prompter.frame.encoder.tokenizer, prompt, tokenize=True) if i in specials]
        assert there == [i for i in prompt.ids if i in specials]


def test_without_a_system_message_the_instruction_opens_the_users_turn() -> None:
    tokenizer = chatml_tokenizer()
    tokenizer.chat_template = NO_SYSTEM
    prompter = Prompter(tokenizer, load_prompt("instruct"), EMORYNLP)
    for prompt in prompt_texts(prompter, SCENE):
        ((role, content),) = prompt.messages
        assert role == "user"
        assert content.startswith("Label the emotion of each line: Joyful, ")
        assert rendered(tokenizer, prompt) == prompt.text


@pytest.mark.parametrize("make", [chatml_tokenizer, lambda: llama2_style_tokenizer(chat=False)])
def test_a_plain_prompt_is_text_without_the_bos_that_a_server_adds(make: Any) -> None:
    tokenizer = make()
    prompter = Prompter(tokenizer, load_prompt("plain"), EMORYNLP)
    for prompt in prompt_texts(prompter, SCENE):
        assert prompt.messages == ()
        assert prompt.text.startswith("A scene. After each line, ")
        assert prompt.text.endswith(" feels")
        whole = tokenizer(prompt.text)["input_ids"]
        assert whole[: len(prompter.frame.bos)] == list(prompter.frame.bos)
        # A metaspace tokenizer puts a space before the first word; joined ids have none there.
        assert "".join(decode(tokenizer, whole).split()) == "".join(decode(tokenizer, prompt.ids).split())


def test_each_target_of_a_long_scene_has_the_prompt_of_its_window() -> None:
    tokenizer = chatml_tokenizer()
    prompter = Prompter(tokenizer, load_prompt("instruct"), EMORYNLP, PromptOptions(trunk_budget=96))
    long = scene(*[("Mara", f"Who left the window open, {k}?") for k in range(12)])
    assert len(prompter.trees(long, "none")) > 1
    prompts = prompt_texts(prompter, long)
    assert [p.target for p in prompts] == list(range(12))
    assert "open, 0?" not in prompts[-1].text
    assert "open, 11?" in prompts[-1].text


def test_what_was_predicted_is_told() -> None:
    prompter = Prompter(chatml_tokenizer(), load_prompt("instruct"), EMORYNLP)
    prompts = prompt_texts(prompter, SCENE, ["Mad", "Sad", None, None])
    assert "Mara was mad. Tomas feels" in prompts[1].text


def test_a_tokenizer_that_changes_the_text_is_refused() -> None:
    from tokenizers import normalizers

    tokenizer = chatml_tokenizer()
    tokenizer.chat_template = CHATML_TEMPLATE
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    prompter = Prompter(tokenizer, load_prompt("instruct"), EMORYNLP)
    with pytest.raises(PromptError, match="changes the text"):
        prompt_texts(prompter, SCENE)
