"""The prompt that a model saw for a line, piece by piece, and the profiles in it.

Input: a prompter, a dialogue and the position of a line. Output: a `Shown` prompt.
Does not depend on: models, HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass

from erc_llm.corpus.dialogues import Dialogue
from erc_llm.errors import PromptError
from erc_llm.prompting.prompter import Prompter


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a prompt: its kind (such as instruction, profile, line or question), and its exact text."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A prompt.

    Attributes:
        pieces: Its pieces in order.
        tokens: Number of its tokens.
        has_profiles: Whether prompts of this run contain profiles.
    """

    pieces: tuple[Piece, ...]
    tokens: int
    has_profiles: bool

    @property
    def profiles(self) -> tuple[str, ...]:
        """The profiles in it, in order."""
        return tuple(piece.text.strip() for piece in self.pieces if piece.kind == "profile")


def prompt_of_line(prompter: Prompter, dialogue: Dialogue, position: int) -> Shown:
    """The prompt for the line at a position of a dialogue.

    Raises:
        PromptError: The line is empty, so nothing is asked about it.
    """
    decode = prompter.frame.encoder.tokenizer.decode
    for tree in prompter.trees(dialogue, "none", weights={position: 1.0} if position in dialogue.targets else {}):
        for question in tree.questions:
            spans = tree.prompt_of(question)
            pieces = tuple(Piece(s.kind, str(decode(tree.token_ids[s.start : s.stop].tolist()))) for s in spans)
            return Shown(pieces, sum(s.stop - s.start for s in spans), prompter.shows_profiles)
    raise PromptError(f"line {position + 1} is empty, so the model is not asked about it")
