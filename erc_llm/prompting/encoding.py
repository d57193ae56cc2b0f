"""Text to token ids, with data kept apart from markup.

`markup` encodes our own and the chat template's text, special tokens recognised; `data` encodes names, lines and label
words, which can never become a special token or a template marker. Each piece is tokenised on its own and the ids are
joined by the caller.

Input: a tokenizer, the markers of a template, texts. Output: token ids.
Does not depend on: prompts, trees, models.
"""

from __future__ import annotations

import json
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from erc_llm.errors import PromptError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What chat templates use to mark turns: <|x|>, </s>, <<SYS>>, [INST], and whole lines such as "### Response:".
_MARKER = re.compile(r"<<[^<>\s]+>>|<[^<>\s]{1,40}>|\[/?[A-Z_]{2,}\]|^[^\S\n]*\S[^\n]*:[^\S\n]*$", re.MULTILINE)
# The last word of such a line, where it is prose: "A chat between a user and an assistant. USER:".
_LAST_WORD = (re.compile(r"[\w-]+\s*:$"), re.compile(r"\S+\s*:$"))

_METASPACE = "▁"  # U+2581, which SentencePiece-like tokenizers read as a space


def markers_in(glue: str) -> tuple[str, ...]:
    """Turn markers that stand in a chat template's own text.

    Args:
        glue: The template's text around sentinels, each piece on lines of its own.
    """
    found = {m.strip() for m in _MARKER.findall(glue)}
    return tuple(sorted(found | {word for marker in found if (word := _last_word(marker))}))


def _last_word(marker: str) -> str | None:
    """The word before a line's final colon; None where nothing but signs stands before it ("### Response:")."""
    for pattern in _LAST_WORD:
        if word := pattern.search(marker):
            return word[0] if any(char.isalnum() for char in marker[: word.start()]) else None
    return None


def one_line(text: str) -> str:
    """The text on one line: control and invisible characters dropped, white space runs made one space.

    So that an utterance can neither forge another speaker's line nor hide a marker between invisible characters.
    """
    kept = []
    for char in text:
        if char.isspace() or char == _METASPACE:
            kept.append(" ")
        elif unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co"):
            kept.append(char)
    return " ".join("".join(kept).split())


class TextEncoder:
    """Encodes markup and data for one tokenizer.

    Args:
        tokenizer: A fast tokenizer.
        markers: Textual markers of the active template, made harmless in data.

    Raises:
        PromptError: The tokenizer has no fast backend, so its added tokens cannot be switched off for data.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, markers: Iterable[str] = ()) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise PromptError(f"{type(tokenizer).__name__} has no fast backend; erc-llm needs a tokenizer.json")
        self.tokenizer = tokenizer
        self._markup = backend
        # Some vocabularies add plain white space; that is no markup.
        added = {i: str(token.content) for i, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}
        self._added = frozenset(added)
        self._data = _without_added_tokens(backend)
        self.markers = tuple(
            sorted({m for m in (*added.values(), *markers) if len(m.strip()) > 1}, key=len, reverse=True)
        )
        # A metaspace tokenizer puts a space before whatever it gets; behind a newline it does not.
        first = self._data.encode("a", add_special_tokens=False).tokens[0]
        self._anchor = "\n" if first.startswith(_METASPACE) else ""
        self.data = lru_cache(maxsize=100_000)(self._encode_data)

    def markup(self, text: str) -> tuple[int, ...]:
        """Ids of trusted text; added tokens written in it become themselves. No BOS or EOS is put around it."""
        return self._encode(self._markup, text)

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids from the beginning of a prompt on, added tokens spelled out."""
        return str(self._markup.decode(list(map(int, ids)), skip_special_tokens=False))

    def _encode_data(self, text: str) -> tuple[int, ...]:
        """Ids of data, none of which is an added token. The text should come from `harmless`."""
        ids = self._encode(self._data, text)
        if self._added.isdisjoint(ids):
            return ids
        single = (self._encode(self._data, char) for char in text)
        return tuple(i for piece in single if self._added.isdisjoint(piece) for i in piece)

    def _encode(self, backend: Tokenizer, text: str) -> tuple[int, ...]:
        if not text:
            return ()
        if not self._anchor:
            return tuple(backend.encode(text, add_special_tokens=False).ids)
        anchor = backend.encode(self._anchor, add_special_tokens=False).ids
        ids = backend.encode(self._anchor + text, add_special_tokens=False).ids
        if ids[: len(anchor)] != anchor:  # the anchor merged with the text; only possible behind another newline
            return tuple(backend.encode(text, add_special_tokens=False).ids)
        return tuple(ids[len(anchor) :])

    def harmless(self, text: str) -> str:
        """The text on one line with every marker broken: `<|im_end|>` becomes `< |im_end|>`."""
        return self.break_markers(one_line(text))

    def beginning(self, text: str, most: int) -> str:
        """The beginning of a text that fits this many tokens once it is harmless."""
        if len(text) * 4 <= most:  # a tokenizer makes at most one token per UTF-8 byte
            return text

        def tokens(length: int) -> int:
            return len(self.data(self.harmless(text[:length])))

        if tokens(len(text)) <= most:
            return text
        return text[: bisect_right(range(len(text)), most, key=tokens) - 1]

    def break_markers(self, text: str) -> str:
        """The text with a space put behind, or taken from behind, the first character of every marker."""
        if any(m in unicodedata.normalize("NFKC", text) for m in self.markers):
            text = unicodedata.normalize("NFKC", text)
        for marker in self.markers:
            broken = marker[0] + (marker[1:].lstrip() if marker[1].isspace() else f" {marker[1:]}")
            text = text.replace(marker, broken)
        return text


def _without_added_tokens(backend: Tokenizer) -> Tokenizer:
    state = json.loads(backend.to_str())
    state["added_tokens"] = []
    state["truncation"] = state["padding"] = None
    return Tokenizer.from_str(json.dumps(state))
