"""Prompts as text, for servers that tokenise requests themselves.

Input: a prompter, a `Dialogue`. Output: one `PromptText` per target: the token ids of its root path, their text, and
for chat models the messages from which a chat template makes the same text.
Does not depend on: servers, models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from erc_llm.corpus.dialogues import Dialogue
from erc_llm.prompting.prompter import Prompter


@dataclass(frozen=True, slots=True)
class PromptText:
    """The prompt of one target.

    Attributes:
        target: Position of the utterance in its dialogue.
        ids: Token ids from the first one, BOS included, to the last one before an answer.
        text: Text of these ids, without a BOS that the tokenizer adds itself.
        messages: (role, content) of the chat turns; empty for prompts without a chat template.
    """

    target: int
    ids: tuple[int, ...]
    text: str
    messages: tuple[tuple[str, str], ...]


def prompt_texts(prompter: Prompter, dialogue: Dialogue, state: Sequence[str | None] | None = None) -> list[PromptText]:
    """The prompts of all targets, in order.

    All template markers in names, lines and profiles are broken up, so that a server which parses markup in requests
    finds none in them. Where the joined ids differ from tokenising the text in one piece (a merge across a seam), a
    server sees the latter.

    Args:
        prompter: Builds the trees; the prompts are the root paths of their questions.
        dialogue: The scene.
        state: See `Prompter.trees`.

    Raises:
        PromptError: The tokenizer alters the text that it encodes.
    """
    system = prompter.system_text(prompter.labels.names)
    frame = prompter.frame
    bos = frame.encoder.text(frame.bos)
    prompts = []
    for tree in prompter.trees(dialogue, "none", state=state):
        for question in tree.questions:
            ids = tree.token_ids[tree.root_path(question.last)].tolist()
            text = frame.encoder.text(ids).removeprefix(bos)
            messages = frame.messages(system, text) if prompter.template.chat else ()
            prompts.append(PromptText(question.target, tuple(ids), text, messages))
    return prompts
