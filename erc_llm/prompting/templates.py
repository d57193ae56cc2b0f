"""Prompt templates (ours, Jinja) and the frame a chat template (the model's) puts around them.

A prompt template has named blocks: `system`, `line`, `question`, `answer`, for base models `end`, and `profile` where
it can show one. A `Frame` is what stands around user text and answer once the chat template is cut: head, bridge, lead,
end.

Input: a template's name or file, a tokenizer. Output: a `PromptTemplate`, a `Frame`.
Does not depend on: dialogues, trees, models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from erc_llm.errors import PromptError
from erc_llm.prompting.encoding import TextEncoder, markers_in
from erc_llm.resources import prompts_dir

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BLOCKS = ("system", "line", "question", "answer")
AUXILIARY_BLOCKS = ("next_emotion", "speaker", "polarity", "person")  # of prompts/auxiliary.jinja
RETRIEVAL_BLOCKS = ("demonstrations", "distribution")  # of prompts/retrieval.jinja
# In mixed case, so that a template that changes the case of what it is given is noticed.
_SYSTEM, _USER, _ANSWER = "ErcSystemSentinel", "ErcUserSentinel", "ErcAnswerSentinel"
_IN_USER_TURN = "\n\n"  # between the system's and the user's words, where a template has no system message
_RENDERING = (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError)


class PromptTemplate:
    """One prompt template, rendered block by block.

    Attributes:
        name: Its file's stem.
        source: Its text.
        chat: Whether the model's chat template goes around it (no `end` block) or it stands alone (with one).
        sha256: Hash of its source.
    """

    def __init__(self, name: str, source: str, blocks: Sequence[str] = BLOCKS) -> None:
        self.name = name
        self.source = source
        self.sha256 = hashlib.sha256(source.encode()).hexdigest()
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise PromptError(f"prompt '{name}', line {error.lineno}: {error.message}") from error
        missing = [block for block in blocks if block not in self._template.blocks]
        if missing:
            raise PromptError(f"prompt '{name}' lacks the blocks {missing}; a prompt needs {list(blocks)}")
        self.chat = not self.has("end")

    def has(self, block: str) -> bool:
        """Whether the template has a block."""
        return block in self._template.blocks

    def render(self, block: str, values: Mapping[str, Any]) -> str:
        """Text of one block.

        Raises:
            PromptError: The block cannot be rendered: it uses a variable it is not given, or the like.
        """
        try:
            return "".join(self._template.blocks[block](self._template.new_context(dict(values))))
        except _RENDERING as error:
            raise PromptError(f"prompt '{self.name}', block '{block}': {error}; given are {sorted(values)}") from error


def load_prompt(name: str, blocks: Sequence[str] = BLOCKS) -> PromptTemplate:
    """A template that comes with the package (`instruct`, `plain`) or a file of the user's own.

    Raises:
        PromptError: There is no such template; the message lists those there are.
    """
    path = Path(name) if name.endswith(".jinja") else prompts_dir() / f"{name}.jinja"
    if not path.is_file():
        known = sorted(p.stem for p in prompts_dir().glob("*.jinja"))
        raise PromptError(f"no prompt template '{name}' (looked for {path}); there are {known}, or give a .jinja file")
    try:
        source = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PromptError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    return PromptTemplate(path.stem, source, blocks)


def load_auxiliary() -> PromptTemplate:
    """The template of auxiliary questions."""
    return load_prompt("auxiliary", AUXILIARY_BLOCKS)


def load_retrieval() -> PromptTemplate:
    """The template that words what is retrieved for a line."""
    return load_prompt("retrieval", RETRIEVAL_BLOCKS)


@dataclass(frozen=True)
class Frame:
    """Ids and texts that stand around user text and answer.

    The prompt of one target is head + user text + bridge, its answer is lead + label + end. The lead is where an
    answer's leading space lives, and nowhere else: white space that the template puts right before an answer is
    tokenised together with the label, as it would be in running text.

    Attributes:
        head: Text before the user text (BOS, system turn, user header).
        bridge: Text between the user text and the answer (end of the user turn, assistant header).
        lead: White space before the label.
        end: Text after the label, up to the token that ends a turn.
        after: What the chat template still puts behind `end`; nobody generates or reads it.
        encoder: Encodes around these texts, with the template's markers made harmless in data.
        bos: Ids put before everything because the tokenizer would and the template does not.
        system_turn: Whether the chat template has a place for a system message; else it opens the user's.
    """

    head: str
    bridge: str
    lead: str
    end: str
    after: str
    encoder: TextEncoder
    bos: tuple[int, ...] = ()
    system_turn: bool = True

    @property
    def around_system(self) -> tuple[str, str]:
        """The head's texts before and behind the system text."""
        before, _, behind = self.head.partition(_SYSTEM)
        return before, behind

    def head_ids(self, system: str) -> tuple[int, ...]:
        """Ids of BOS, where it is due, and head; the system text in it is data to the tokenizer."""
        before, behind = self.around_system
        system = self._harmless(system)
        return self.bos + self.encoder.markup(before) + self.encoder.data(system) + self.encoder.markup(behind)

    def messages(self, system: str, prompt: str) -> tuple[tuple[str, str], ...]:
        """The (role, content) messages of a prompt, which the chat template puts together again.

        Args:
            system: What the system block renders to.
            prompt: The text of a whole prompt, from the first token to the one an answer follows.

        Raises:
            PromptError: The prompt does not begin and end with what the template puts there; a tokenizer that changes
                the text it reads does that.
        """
        before, behind = self.around_system
        system = self._harmless(system)
        head = before + system + behind
        if len(prompt) < len(head + self.bridge) or not (prompt.startswith(head) and prompt.endswith(self.bridge)):
            raise PromptError("this tokenizer changes the text it reads, so a server cannot be sent the same prompt")
        user = prompt[len(head) : len(prompt) - len(self.bridge)]
        if self.system_turn:
            return ("system", system), ("user", user)
        return (("user", system + _IN_USER_TURN + user),)

    def _harmless(self, system: str) -> str:
        return "\n".join(self.encoder.harmless(line) for line in system.split("\n"))


def cut_frame(tokenizer: PreTrainedTokenizerBase, template: PromptTemplate) -> Frame:
    """The frame that a tokenizer's chat template (or a plain prompt's own blocks) puts around a prompt.

    Raises:
        PromptError: The chat template is missing or cannot be cut uniquely, with the reason.
    """
    if not template.chat:
        return _plain_frame(tokenizer, template)
    if not getattr(tokenizer, "chat_template", None):
        raise PromptError(
            f"prompt '{template.name}' needs a chat template and this tokenizer has none; use `prompt.template=plain`"
        )
    rendered, with_system = _render_sentinels(tokenizer)
    head, bridge, tail = _cut(rendered)
    encoder = TextEncoder(tokenizer, markers_in("\n".join((head.replace(_SYSTEM, "\n"), bridge, tail))))
    if not with_system:
        head += _SYSTEM + _IN_USER_TURN
    stripped = bridge.rstrip(" ")
    end, after = _cut_end(tail, tokenizer)
    return Frame(head, stripped, bridge[len(stripped) :], end, after, encoder, system_turn=with_system)


def _plain_frame(tokenizer: PreTrainedTokenizerBase, template: PromptTemplate) -> Frame:
    first = tokenizer("a")["input_ids"][:1]
    bos = (tokenizer.bos_token_id,) if tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id] else ()
    return Frame(_SYSTEM, "", " ", template.render("end", {}), "", TextEncoder(tokenizer), bos)


def _render_sentinels(tokenizer: PreTrainedTokenizerBase) -> tuple[str, bool]:
    """The chat template around three sentinels; and whether it took the system message."""
    user, answer = {"role": "user", "content": _USER}, {"role": "assistant", "content": _ANSWER}
    system = {"role": "system", "content": _SYSTEM}
    for messages in ([system, user, answer], [user, answer]):
        try:
            text = str(tokenizer.apply_chat_template(messages, tokenize=False))
        except _RENDERING as error:
            reason = str(error)
            continue
        if len(messages) == 2 or text.count(_SYSTEM) == 1:
            return text, len(messages) == 3
    raise PromptError(f"the model's chat template failed on a plain conversation: {reason}")


def _cut(rendered: str) -> tuple[str, str, str]:
    for name, sentinel in (("user", _USER), ("assistant", _ANSWER)):
        found = rendered.count(sentinel)
        if found != 1:
            raise PromptError(f"the model's chat template shows the {name} text {found} times; cannot cut it")
    head, _, rest = rendered.partition(_USER)
    bridge, sentinel, tail = rest.partition(_ANSWER)
    if not sentinel or (_SYSTEM in rendered and _SYSTEM not in head):
        raise PromptError("the model's chat template does not keep the order system, user, assistant; cannot cut it")
    if not bridge.strip() and not tail.strip():
        raise PromptError("the model's chat template marks neither the user's end nor the answer's; cannot cut it")
    return head, bridge, tail


def _cut_end(tail: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Split what follows an answer behind the first special token, which ends a turn; without one, all is its end."""
    ends = [tail.find(m) + len(m) for m in _end_markers(tokenizer) if m in tail]
    if not tail:
        raise PromptError("the model's chat template puts nothing after an answer, so a label would have no end")
    cut = min(ends, default=len(tail))
    return tail[:cut], tail[cut:]


def _end_markers(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Special tokens of the tokenizer: the first one behind an answer is what stops generation."""
    return [str(t.content) for t in tokenizer.added_tokens_decoder.values() if t.special]
