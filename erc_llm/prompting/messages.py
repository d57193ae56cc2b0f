"""The prompts of a scene's targets as text: what a server is sent, which tokenises it itself.

In: a prompter, a `Dialogue`. Out: one `PromptText` per target: the token ids of its root path, their text, and for chat
models the messages that a chat template makes the same text of. Knows no server.
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
        ids: Token ids from the first one, BOS included, to the one that an answer follows.
        text: Their text, without a BOS that the tokenizer puts there by itself.
        messages: (role, content) of the chat turns; empty where the prompt stands alone, without a chat template.
    """

    target: int
    ids: tuple[int, ...]
    text: str
    messages: tuple[tuple[str, str], ...]


def prompt_texts(prompter: Prompter, dialogue: Dialogue, state: Sequence[str | None] | None = None) -> list[PromptText]:
    """The prompts of all targets, in order.

    Names, lines and profiles in them have every marker of the template broken, so a server that reads markup in what it
    is sent finds none in them. Where joined ids differ from the tokens of the text in one piece (a merge across a
    seam), a server sees the latter.

    Args:
        prompter: Makes the trees; the prompts are the root paths of their questions.
        dialogue: The scene.
        state: See `Prompter.trees`.

    Raises:
        PromptError: The tokenizer changes the text it reads.
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
