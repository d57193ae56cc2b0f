"""Token counts: by a model's own tokenizer where its file is at hand, else estimated from characters.

Input: a `tokenizer.json`, or the size of a vocabulary. Output: a `TokenCounter`.
Does not depend on: transformers, prompts, corpora.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from erc_llm.errors import ModelError

# Characters per token of lines `Name: text` of EmoryNLP, measured with the tokenizers of Llama-2 (32,000 tokens: 2.90
# on `aligned`, 3.01 on `original`) and SmolLM2 (49,152 tokens: 3.09 and 3.21).
_CHARACTERS = ((40_000, 2.9), (math.inf, 3.1))
_WORD = 8  # characters of an English word that is one token; EmoryNLP's labels are one or two


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """Counts the tokens of a text.

    Attributes:
        count: From a text to its number of tokens; special tokens of the beginning are not counted.
        estimated: Characters per token of an estimate; None if a tokenizer counts.
    """

    count: Callable[[str], int]
    estimated: float | None

    def count_words(self, text: str) -> int:
        """Tokens of a label: plain English words, which vocabularies have as one or two tokens each."""
        return self.count(text) if self.estimated is None else math.ceil(len(text.strip()) / _WORD)

    @property
    def description(self) -> str:
        """How tokens are counted, in a few words."""
        if self.estimated is None:
            return "counted by the model's tokenizer"
        return f"estimated at {self.estimated:g} characters a token, as the tokenizer is not on this machine"


def token_counter(tokenizer: Path | None, vocabulary: int) -> TokenCounter:
    """The counter of a model.

    Args:
        tokenizer: Its `tokenizer.json`; None if it is not on this machine.
        vocabulary: Number of tokens in its vocabulary, for the estimate.

    Raises:
        ModelError: The file is not a tokenizer.
    """
    if tokenizer is None:
        characters = next(value for bound, value in _CHARACTERS if vocabulary < bound)
        return TokenCounter(lambda text: math.ceil(len(text) / characters), characters)
    from tokenizers import Tokenizer

    try:
        backend = Tokenizer.from_file(str(tokenizer))
    # tokenizers raises a bare Exception for a damaged file.
    except Exception as error:
        raise ModelError(f"{tokenizer}: its tokenizer cannot be loaded: {error}") from error

    @lru_cache(maxsize=100_000)
    def count(text: str) -> int:
        # Behind a newline, as a piece is inside a prompt: some tokenizers put a space before whatever they get first.
        return max(len(backend.encode("\n" + text, add_special_tokens=False).ids) - newline, 1) if text else 0

    newline = len(backend.encode("\n", add_special_tokens=False).ids)
    return TokenCounter(count, None)
