"""Scenes become token trees: the one place where a prompt is put together.

In: a `Dialogue`, a prompt template, a tokenizer. Out: one `TokenTree` per window of the scene. Training, scoring,
generation, `render` and the benchmarks' peers all take their ids from here. Knows no model.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, count
from typing import TYPE_CHECKING, Literal

from erc_llm.corpus.dialogues import EVERYONE, Dialogue, Utterance
from erc_llm.corpus.labels import LabelSet
from erc_llm.corpus.speakers import is_generic
from erc_llm.errors import PromptError
from erc_llm.prompting.templates import PromptTemplate, cut_frame
from erc_llm.prompting.tree import TokenTree, TreeBuilder, Window, cut_windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Context = Literal["past", "full"]
Names = Literal["first", "full"]
Answers = Literal["gold", "all", "gold_all", "none"]

# Titles and descriptions that begin a name of two words without being anybody's first name.
_NOT_FIRST_NAMES = frozenset(
    [
        "mr",
        "mrs",
        "ms",
        "miss",
        "dr",
        "prof",
        "aunt",
        "uncle",
        "the",
        "sir",
        "lady",
        "officer",
        "judge",
        "father",
        "sister",
        "fake",
        "young",
        "old",
        "little",
        "big",
        "other",
        "casting",
    ]
)


@dataclass(frozen=True, slots=True)
class PromptOptions:
    """What may vary in a prompt besides its template.

    Attributes:
        context: `past`: a question sees the lines up to its own; `full`: all lines of its window.
        names: Call speakers by first name (full name where two share one) or by full name.
        trunk_budget: Most tokens the lines of one window may take; a single line takes at most half of it.
    """

    context: Context = "past"
    names: Names = "first"
    trunk_budget: int = 2048


class Prompter:
    """Builds the token trees of scenes for one template, label set and tokenizer.

    Attributes:
        frame: What the model's chat template puts around the prompt.
        answer_ids: Token ids of each label as an answer, end tokens included, in label order.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: PromptTemplate,
        labels: LabelSet,
        options: PromptOptions | None = None,
    ) -> None:
        self.template = template
        self.labels = labels
        self.options = options or PromptOptions()
        self.frame = cut_frame(tokenizer, template)
        encoder = self.frame.encoder
        end = encoder.markup(self.frame.end)
        texts = [template.render("answer", {"label": encoder.harmless(name)}) for name in labels.names]
        self.answer_ids = tuple(encoder.data(self.frame.lead + text) + end for text in texts)
        if not end or len(set(self.answer_ids)) < len(labels):
            raise PromptError(f"prompt '{template.name}': answers must differ and have an end; they are {texts}")
        self._bridge = encoder.markup(self.frame.bridge)
        if not any(ids for _, ids in self.question_ids(1, "Ada", "Hello.")):
            raise PromptError(f"prompt '{template.name}': a question needs words, or a chat template around it")
        self.head_ids = lru_cache(maxsize=10_000)(self._head_ids)

    def _head_ids(self, order: tuple[str, ...]) -> tuple[int, ...]:
        values = {"labels": [self.frame.encoder.harmless(name) for name in order], "context": self.options.context}
        return self.frame.head_ids(self.template.render("system", values))

    def line_ids(self, number: int, name: str, text: str) -> tuple[int, ...]:
        """Ids of one trunk line, cut to half the trunk budget."""
        ids = self._data("line", number, name, text)
        limit = max(self.options.trunk_budget // 2, 8)
        return ids if len(ids) <= limit else ids[: limit - 1] + ids[-1:]

    def question_ids(self, number: int, name: str, text: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """The pieces of a question branch: its own words, then the end of the user's turn and the answer's header."""
        return (("question", self._data("question", number, name, text)), ("bridge", self._bridge))

    def _data(self, block: str, number: int, name: str, text: str) -> tuple[int, ...]:
        encoder = self.frame.encoder
        values = {
            "number": number,
            "name": encoder.harmless(name),
            "text": encoder.harmless(text),
            "context": self.options.context,
        }
        # Once more as a whole: a name and our own colon may have made a marker together.
        return encoder.data(encoder.break_markers(self.template.render(block, values)))

    def names(self, utterances: Sequence[Utterance]) -> list[str]:
        """How the prompt calls the speaker of each line; a name never depends on a later line."""
        if self.options.names == "full":
            return [_join(u.speakers) for u in utterances]
        called: dict[str, str] = {}
        for utterance in utterances:
            for speaker in utterance.speakers:
                if speaker not in called:
                    numbered = (f"{speaker} {number}" for number in count(2))
                    taken = set(called.values())
                    called[speaker] = next(n for n in chain((first_name(speaker), speaker), numbered) if n not in taken)
        return [_join([called[s] for s in u.speakers]) for u in utterances]

    def windows(self, lines: Sequence[Sequence[int]]) -> tuple[Window, ...]:
        """How a scene of these lines is cut under the trunk budget."""
        return cut_windows([len(ids) for ids in lines], self.options.trunk_budget)

    def trees(
        self,
        dialogue: Dialogue,
        answers: Answers,
        *,
        weights: Mapping[int, float] | None = None,
        label_order: Sequence[str] | None = None,
    ) -> list[TokenTree]:
        """The scene as token trees, one per window that has a target.

        Args:
            dialogue: The scene.
            answers: `gold` asks about labelled targets and hangs their label on (training); `all` hangs every label
                on every target (scoring), `gold_all` on labelled targets only (selection scores); `none` ends at the
                answer's header (generation).
            weights: Ask about these positions only, with these weights; by default about all targets with 1.
            label_order: The order in which the prompt lists the labels; the canonical one by default.
        """
        utterances = dialogue.utterances
        asked = dict.fromkeys(dialogue.targets, 1.0) if weights is None else weights
        if answers in ("gold", "gold_all"):
            asked = {k: w for k, w in asked.items() if utterances[k].label is not None}
        names = self.names(utterances)
        lines = [self.line_ids(k + 1, name, u.text) for k, (name, u) in enumerate(zip(names, utterances, strict=True))]
        head = self.head_ids(tuple(label_order or self.labels.names))
        trees = []
        for window in self.windows(lines):
            targets = [k for k in range(window.first_target, window.stop) if k in asked]
            if targets:
                trees.append(self._tree(utterances, names, lines, head, window, targets, asked, answers))
        return trees

    def _tree(
        self,
        utterances: Sequence[Utterance],
        names: Sequence[str],
        lines: Sequence[tuple[int, ...]],
        head: tuple[int, ...],
        window: Window,
        targets: Collection[int],
        weights: Mapping[int, float],
        answers: Answers,
    ) -> TokenTree:
        builder = TreeBuilder()
        end = builder.add_trunk("instruction", head)
        stop = max(targets) + 1 if self.options.context == "past" else window.stop
        last_node = {}
        for k in range(window.start, stop):
            last_node[k] = end = builder.add_trunk("line", lines[k])
        for k in targets:
            utterance = utterances[k]
            pieces = self.question_ids(k + 1, names[k], utterance.text)
            after = last_node[k] if self.options.context == "past" else end
            builder.add_question(k, after, pieces, self._answers(utterance, answers), weights[k])
        return builder.build()

    def _answers(self, utterance: Utterance, answers: Answers) -> list[tuple[int, tuple[int, ...]]]:
        if answers == "none":
            return []
        if answers in ("all", "gold_all"):
            return list(enumerate(self.answer_ids))
        assert utterance.label is not None
        index = self.labels.index(utterance.label)
        return [(index, self.answer_ids[index])]


def first_name(speaker: str) -> str:
    """First name of a person's full name; anything else as it is ("Mrs. Geller", "Fake Monica", "Woman On Train")."""
    words = speaker.split()
    described = len(words) != 2 or not all(w.isalpha() and w.istitle() for w in words)
    if described or words[0].casefold() in _NOT_FIRST_NAMES or any(is_generic(word) for word in words):
        return speaker
    return words[0]


def _join(names: Sequence[str]) -> str:
    shown = ["All" if name == EVERYONE else name for name in names] or ["Someone"]
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + " and " + shown[-1]


def shuffled_labels(labels: LabelSet, seed: int, epoch: int, dialogue_id: str) -> tuple[str, ...]:
    """An order of the label names drawn for one scene in one epoch of one run."""
    names = list(labels.names)
    random.Random(f"{seed}/{epoch}/{dialogue_id}").shuffle(names)
    return tuple(names)
