"""Auxiliary questions: what training asks about a line besides its label, as further branches of the same tree.

- `next_emotion`: which label will the next line have? It hangs after the line and sees nothing of the next one.
- `speaker`: who says this line? It hangs after the line before and repeats the line's text without its name. The
  answers are the speakers of earlier lines; a line of somebody who has not spoken yet is left out.
- `polarity`: which coarser label does the line have? It hangs where the question about the label hangs.

Source of the first two: Lei et al., "InstructERC", 2023 (emotion influence prediction, speaker identification).

Input: a prompter and the weight of each task. Output: a function that returns the branches of a line.
Does not depend on: models, training.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

from erc_llm.errors import PromptError
from erc_llm.prompting.prompter import Prompter
from erc_llm.prompting.scene import Branch, Further, Scene
from erc_llm.prompting.templates import load_auxiliary

Task = Literal["next_emotion", "speaker", "polarity"]
TASKS: tuple[Task, ...] = ("next_emotion", "speaker", "polarity")
Pieces = Sequence[tuple[str, tuple[int, ...]]]


class AuxiliaryQuestions:
    """Builds the auxiliary questions of a scene's lines.

    Args:
        prompter: Builds the prompts; its frame goes around these questions too.
        weights: Task to the weight of its loss; tasks of weight 0 are not asked.
        fraction: Fraction of lines about which each task is asked.
        seed: Seed by which these lines are drawn.
        closed: Whether a question has all its answers; else the right one only.

    Raises:
        PromptError: Polarity is to be asked, and the label set has no coarser labels.
    """

    def __init__(
        self, prompter: Prompter, weights: Mapping[Task, float], fraction: float = 1.0, seed: int = 0, *, closed: bool
    ) -> None:
        self._prompter = prompter
        self._weights = {task: weight for task, weight in weights.items() if weight > 0}
        self._fraction = fraction
        self._seed = seed
        self._closed = closed
        self._template = load_auxiliary()
        if "polarity" in self._weights and not prompter.labels.coarse:
            raise PromptError("training.auxiliary.polarity: the label set has no coarser labels (labels.coarse)")

    def __bool__(self) -> bool:
        return bool(self._weights)

    def of_epoch(self, dialogue_id: str, epoch: int) -> Further:
        """The function that returns the branches of a line of a dialogue in an epoch."""
        return partial(self._branches, draw=f"auxiliary/{self._seed}/{epoch}/{dialogue_id}")

    def _branches(self, scene: Scene, k: int, lines: range, *, draw: str) -> list[Branch]:
        """The branches about line `k` of a scene whose trunk has these lines.

        Args:
            scene: The scene.
            k: Number of the line, from 0.
            lines: Lines of the trunk.
            draw: Text that seeds which tasks are asked about the line.
        """
        build = {"next_emotion": self._next, "speaker": self._speaker, "polarity": self._polarity}
        found = []
        for task in self._weights:
            if self._fraction == 1 or random.Random(f"{draw}/{task}/{k}").random() < self._fraction:
                branch = build[task](scene, k, lines)
                found += [] if branch is None else [branch]
        return found

    def _next(self, scene: Scene, k: int, lines: range) -> Branch | None:
        label = scene.utterances[k + 1].label if k + 1 < len(scene.utterances) else None
        if label is None:
            return None
        gold, pieces = self._prompter.labels.index(label), self._prompter.forecast_pieces
        return self._branch("next_emotion", k, pieces, self._prompter.answer_ids, gold)

    def _speaker(self, scene: Scene, k: int, lines: range) -> Branch | None:
        earlier = list(dict.fromkeys(scene.names[lines.start : k]))
        if scene.names[k] not in earlier or len(earlier) < 2:
            return None
        gold, text = earlier.index(scene.names[k]), scene.utterances[k].text
        people = [self._template.render("person", {"name": self._harmless(name)}) for name in earlier]
        answers = [*map(self._prompter.ids_of_answer, people)]
        return self._branch("speaker", k - 1, self._pieces("speaker", k, "", text), answers, gold)

    def _polarity(self, scene: Scene, k: int, lines: range) -> Branch | None:
        label = scene.utterances[k].label
        if label is None:
            return None
        coarse = self._prompter.labels.coarse_names
        gold = coarse.index(self._prompter.labels.coarse[label])
        answers = [self._prompter.ids_of_answer(self._harmless(name)) for name in coarse]
        pieces = self._pieces("polarity", k, scene.names[k], "")
        return self._branch("polarity", self._prompter.after(k, lines), pieces, answers, gold)

    def _branch(self, task: Task, line: int, pieces: Pieces, answers: Sequence[tuple[int, ...]], gold: int) -> Branch:
        asked = list(enumerate(answers)) if self._closed else [(gold, answers[gold])]
        return Branch(task, line, pieces, asked, gold, self._weights[task])

    def _pieces(self, task: Task, k: int, name: str, text: str) -> Pieces:
        values = {
            "number": k + 1,
            "name": self._harmless(name),
            "text": self._harmless(self._prompter.beginning(text)),
            "context": self._prompter.options.shown_context,
            "plain": not self._prompter.template.chat,
        }
        return self._prompter.ids_of_question(self._template.render(task, values))

    def _harmless(self, text: str) -> str:
        return self._prompter.frame.encoder.harmless(text)
