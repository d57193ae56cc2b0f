"""Tree sizes: how many tokens a scene has as token trees, and as one prompt per utterance.

The lines, questions and answers are those that the prompt template renders. What the model's chat template puts around
them, a profile and a stated emotion are counted at a fixed size, since they are known only when the model is there.

Input: dialogues, a prompt template, a token counter. Output: a `SceneSize` for each dialogue.
Does not depend on: models, torch; it builds no token trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from erc_llm.corpus import Dialogue
from erc_llm.planning.token_counts import TokenCounter
from erc_llm.prompting.names import Names, line_names
from erc_llm.prompting.templates import PromptTemplate
from erc_llm.trees.windows import LineCost, Window, cut_windows

# Tokens of a chat template before the user's words, between them and the answer, and after it: 16, 4 and 1 with that of
# Llama-2, 9, 5 and 1 with ChatML.
CHAT_HEAD, CHAT_BRIDGE, CHAT_END = 16, 5, 1
# Means on EmoryNLP's train with SmolLM2: a similar line with its label, what stands around all of them, and shares
# such as "[Similar lines: 45 % joyful, 30 % neutral, 10 % mad]".
RETRIEVED_LINE, RETRIEVED_AROUND, RETRIEVED_SHARES = 11, 4, 22
STATE_TOKENS = 14  # "Ada was joyful, Ben was neutral. "


@dataclass(frozen=True, slots=True)
class TreeOptions:
    """What decides the size of trees, besides the template.

    Attributes:
        labels: Names of the labels.
        spoken: What an answer names for each of them; empty: the label.
        context: `past` or `full`, as in `prompt.context`.
        names: As in `prompt.names`.
        trunk_budget: Most tokens of the lines of one tree.
        profile: Tokens of one speaker's profile; 0 without profiles.
        profile_in_question: Whether profiles stand in questions instead of the trunk.
        retrieved: Tokens of what is retrieved for a line; 0 without.
        retrieved_in_trunk: Whether it stands once at the beginning of a tree instead of in questions.
        state: Whether questions state earlier emotions.
        all_answers: Whether every question has all labels as answers, as in scoring; else its own label.
        lookahead: As in `prompt.lookahead`; lines are numbered if it is above 0.
        trunk_lines: Most lines of one tree; None for no limit.
        words: Whether the tokens of the lines are trained too (`training.auxiliary.words`).
    """

    labels: tuple[str, ...]
    spoken: tuple[str, ...] = ()
    context: str = "past"
    names: Names = "first"
    trunk_budget: int = 2048
    profile: int = 0
    profile_in_question: bool = False
    retrieved: int = 0
    retrieved_in_trunk: bool = False
    state: bool = False
    all_answers: bool = False
    lookahead: int = 0
    trunk_lines: int | None = None
    words: bool = False

    @property
    def shown_context(self) -> str:
        """The context that templates are told."""
        return "full" if self.lookahead else self.context


@dataclass(frozen=True, slots=True)
class SceneSize:
    """Sizes of one dialogue's trees.

    Attributes:
        targets: Number of utterances that are asked about.
        rows: Tokens that the model reads, over its windows.
        logit_rows: Rows of them whose logits predict a token of an answer.
        mask: Entries of the masks of its branches (branch rows times rows of the tree).
        prompt_tokens: Tokens of the same targets as one prompt each.
        attended: Pairs of a row and a row that it attends to, in the trees.
        prompt_attended: The same in one prompt per utterance.
    """

    targets: int
    rows: int
    logit_rows: int
    mask: int
    prompt_tokens: int
    attended: int
    prompt_attended: int


class SceneMeter:
    """Measures dialogues.

    Args:
        template: The prompt template.
        options: What else decides the size.
        counter: Counts tokens.
    """

    def __init__(self, template: PromptTemplate, options: TreeOptions, counter: TokenCounter) -> None:
        self._template = template
        self._options = options
        self._count = counter.count
        chat = template.chat
        system = template.render("system", {"labels": list(options.labels), "context": options.shown_context})
        opening = options.retrieved if options.retrieved_in_trunk else 0
        self._head = self._count(system) + (CHAT_HEAD if chat else 1) + opening
        self._bridge = CHAT_BRIDGE if chat else 0
        end = CHAT_END if chat else max(self._count(template.render("end", {})), 1)
        space = "" if chat else " "
        spoken = zip(options.labels, options.spoken or options.labels, strict=True)
        answers = {label: space + template.render("answer", {"label": text}) for label, text in spoken}
        self._answers = {label: counter.count_words(text) + end for label, text in answers.items()}

    def size(self, dialogue: Dialogue, *, labelled: bool = True) -> SceneSize:
        """Sizes of one dialogue; with `labelled`, only labelled targets are asked about, as in training."""
        utterances = dialogue.utterances
        names = line_names(utterances, self._options.names)
        texts = [utterance.text for utterance in utterances]
        lines = [self._line(k, name, text) for k, (name, text) in enumerate(zip(names, texts, strict=True))]
        targets = [k for k in dialogue.targets if not labelled or utterances[k].label is not None]
        in_trunk = 0 if self._options.profile_in_question else self._options.profile
        costs = [
            LineCost(length, dict.fromkeys(utterance.speakers, in_trunk) if in_trunk else {})
            for length, utterance in zip(lines, utterances, strict=True)
        ]
        windows = cut_windows(costs, self._options.trunk_budget, self._options.trunk_lines)
        parts = []
        for window in windows:
            here = [k for k in targets if window.first_target <= k < window.stop]
            if here:
                questions = [self._question(k, names[k], texts[k], len(utterances[k].speakers)) for k in here]
                answers = [self._answer(utterances[k].label) for k in here]
                parts.append(self._window(costs, window, here, questions, answers))
        return _together(parts)

    def _line(self, k: int, name: str, text: str) -> int:
        return min(self._rendered("line", k, name, text), max(self._options.trunk_budget // 2, 8))

    def _question(self, k: int, name: str, text: str, speakers: int) -> int:
        known = speakers * self._options.profile if self._options.profile_in_question else 0
        stated = STATE_TOKENS if self._options.state else 0
        retrieved = 0 if self._options.retrieved_in_trunk else self._options.retrieved
        return self._rendered("question", k, name, text) + self._bridge + retrieved + known + stated

    def _rendered(self, block: str, k: int, name: str, text: str) -> int:
        values: dict[str, Any] = {"number": k + 1, "name": name, "text": text, "state": ""}
        return self._count(self._template.render(block, values | {"context": self._options.shown_context}))

    def _answer(self, label: str | None) -> tuple[int, int]:
        """(rows, logit rows) of a question's answers; the last token of an answer is predicted and not read."""
        if self._options.all_answers or label not in self._answers:
            return sum(n - 1 for n in self._answers.values()), 1 + sum(n - 1 for n in self._answers.values())
        return self._answers[label] - 1, self._answers[label]

    def _window(
        self,
        costs: Sequence[LineCost],
        window: Window,
        targets: Sequence[int],
        questions: Sequence[int],
        answers: Sequence[tuple[int, int]],
    ) -> SceneSize:
        past = self._options.context == "past"
        ahead = self._options.lookahead
        stop = min(targets[-1] + 1 + ahead, window.stop) if past else window.stop
        reached, length, present = {}, self._head, set[str]()
        for k in range(window.start, stop):
            length += costs[k].within(present)
            present |= costs[k].introduced.keys()
            reached[k] = length
        trunk = length
        branches = [question + rows for question, (rows, _) in zip(questions, answers, strict=True)]
        before = [reached[min(k + ahead, stop - 1)] if past else trunk for k in targets]
        trained_lines = sum(costs[k].length for k in targets) if self._options.words else 0
        prompts = [above + branch for above, branch in zip(before, branches, strict=True)]
        rows = trunk + sum(branches)
        seen = sum(above * branch + branch * (branch + 1) // 2 for above, branch in zip(before, branches, strict=True))
        return SceneSize(
            targets=len(targets),
            rows=rows,
            logit_rows=sum(logits for _, logits in answers) + trained_lines,
            mask=sum(branches) * rows,
            prompt_tokens=sum(prompts),
            attended=trunk * (trunk + 1) // 2 + seen,
            prompt_attended=sum(n * (n + 1) // 2 for n in prompts),
        )


def _together(parts: Sequence[SceneSize]) -> SceneSize:
    """The windows of a dialogue as one size."""

    def total(name: str) -> int:
        return sum(getattr(part, name) for part in parts)

    return SceneSize(
        targets=total("targets"),
        rows=total("rows"),
        logit_rows=total("logit_rows"),
        mask=total("mask"),
        prompt_tokens=total("prompt_tokens"),
        attended=total("attended"),
        prompt_attended=total("prompt_attended"),
    )
