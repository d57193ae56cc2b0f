"""The pieces of a scene's prompt: token ids of its lines and profiles, and additional questions about a line.

Input: what the prompter encoded. Output: a `Scene`, which extends the trunk of a token tree.
Does not depend on: templates, tokenizers, models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from erc_llm.corpus.dialogues import Utterance
from erc_llm.trees.tree import TreeBuilder
from erc_llm.trees.windows import LineCost


@dataclass(frozen=True, slots=True)
class Branch:
    """An additional question about a line.

    Attributes:
        task: What is asked.
        line: The line after which it hangs.
        pieces: Kinds and token ids of its text.
        answers: Index and token ids of each of its answers.
        gold: Index of the right answer.
        weight: Weight of its loss, relative to the question about the line's label.
    """

    task: str
    line: int
    pieces: Sequence[tuple[str, tuple[int, ...]]]
    answers: Sequence[tuple[int, tuple[int, ...]]]
    gold: int
    weight: float


Further = Callable[["Scene", int, range], Sequence[Branch]]  # scene, number of a line, lines of the trunk


def nothing(k: int) -> tuple[int, ...]:
    """Nothing was retrieved for line `k`."""
    return ()


@dataclass(frozen=True, slots=True)
class Scene:
    """The pieces of a scene's prompt before it is cut into windows.

    Attributes:
        utterances: Lines of the scene.
        names: Display name before each line.
        lines: Token ids of each line.
        profiles: Speaker to the token ids of the profile.
        in_trunk: Whether profiles stand in the trunk.
        opening: Returns what stands before the first line of a trunk: what was retrieved for that line.
        beside: Returns what stands in the question about a line: what was retrieved for it.
    """

    utterances: Sequence[Utterance]
    names: Sequence[str]
    lines: Sequence[tuple[int, ...]]
    profiles: Mapping[str, tuple[int, ...]]
    in_trunk: bool
    opening: Callable[[int], tuple[int, ...]] = nothing
    beside: Callable[[int], tuple[int, ...]] = nothing

    def profiles_at(self, k: int) -> dict[str, tuple[int, ...]]:
        """Speaker to profile, for the speakers of line `k`."""
        return {s: self.profiles[s] for s in self.utterances[k].speakers if s in self.profiles}

    def question_profiles(self, k: int) -> list[tuple[int, ...]]:
        """Profiles that stand in the question about line `k`."""
        return [] if self.in_trunk else list(self.profiles_at(k).values())

    def costs(self) -> list[LineCost]:
        """Tokens that each line adds to a trunk."""
        return [self.cost(k) for k in range(len(self.lines))]

    def cost(self, k: int) -> LineCost:
        """Tokens of line `k`, and of the profiles before it if it is their speaker's first line in a window."""
        introduced = {s: len(ids) for s, ids in self.profiles_at(k).items()} if self.in_trunk else {}
        return LineCost(len(self.lines[k]), introduced)

    def add_lines(self, builder: TreeBuilder, start: int, stop: int) -> dict[int, int]:
        """Extend a trunk by lines and profiles; returns line number to the last node of the line."""
        introduced: set[str] = set()
        builder.add_trunk("retrieved", self.opening(start))
        ends = {}
        for k in range(start, stop):
            for speaker, ids in self.profiles_at(k).items() if self.in_trunk else ():
                if speaker not in introduced:
                    builder.add_trunk("profile", ids)
                    introduced.add(speaker)
            ends[k] = builder.add_trunk("line", self.lines[k])
        return ends
