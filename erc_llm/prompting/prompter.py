"""Scenes become token trees: the one place where a prompt is put together.

In: a `Dialogue`, a prompt template, a tokenizer. Out: one `TokenTree` per window of the scene. Training, scoring,
generation, `render` and the benchmarks' peers all take their ids from here. Knows no model.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from erc_llm.corpus.dialogues import Dialogue, Utterance
from erc_llm.corpus.labels import LabelSet
from erc_llm.errors import PromptError
from erc_llm.prompting.names import Names, Renaming, called, line_names
from erc_llm.prompting.state import state_text
from erc_llm.prompting.templates import PromptTemplate, cut_frame
from erc_llm.trees.tree import TokenTree, TreeBuilder
from erc_llm.trees.windows import LineCost, cut_windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Context = Literal["past", "full"]
Answers = Literal["gold", "all", "gold_all", "none"]
Placement = Literal["trunk", "question"]


@dataclass(frozen=True, slots=True)
class PromptOptions:
    """What may vary in a prompt besides its template.

    Attributes:
        context: `past`: a question sees the lines up to its own; `full`: all lines of its window.
        names: Call speakers by first name (full name where two share one) or by full name.
        trunk_budget: Most tokens the lines of one window may take, profiles included; a single line takes at most half
            of it.
        placement: Where profiles stand: in the trunk before their speaker's first line, or in the speaker's questions.
        profile_budget: Most tokens of one profile, cut at a sentence.
    """

    context: Context = "past"
    names: Names = "first"
    trunk_budget: int = 2048
    placement: Placement = "trunk"
    profile_budget: int = 60


@dataclass(frozen=True, slots=True)
class Scene:
    """The pieces of a scene's prompt before it is cut into windows.

    Attributes:
        utterances: Its lines.
        names: How the prompt calls the speaker of each.
        lines: Token ids of each.
        profiles: Speaker to the token ids of a profile.
        in_trunk: Whether profiles stand in the trunk.
    """

    utterances: Sequence[Utterance]
    names: Sequence[str]
    lines: Sequence[tuple[int, ...]]
    profiles: Mapping[str, tuple[int, ...]]
    in_trunk: bool

    def profiles_at(self, k: int) -> dict[str, tuple[int, ...]]:
        """Profiles of those who speak line `k`, by speaker."""
        return {s: self.profiles[s] for s in self.utterances[k].speakers if s in self.profiles}

    def question_profiles(self, k: int) -> list[tuple[int, ...]]:
        """Profiles that stand in the question about line `k`."""
        return [] if self.in_trunk else list(self.profiles_at(k).values())

    def costs(self) -> list[LineCost]:
        """What each line takes in a trunk, in tokens."""
        return [self.cost(k) for k in range(len(self.lines))]

    def cost(self, k: int) -> LineCost:
        """Tokens of line `k`, and of the profiles that stand before it if it is their speaker's first in a window."""
        introduced = {s: len(ids) for s, ids in self.profiles_at(k).items()} if self.in_trunk else {}
        return LineCost(len(self.lines[k]), introduced)

    def add_lines(self, builder: TreeBuilder, start: int, stop: int) -> dict[int, int]:
        """Extend a trunk by lines and profiles; returns the last node of each line."""
        introduced: set[str] = set()
        ends = {}
        for k in range(start, stop):
            for speaker, ids in self.profiles_at(k).items() if self.in_trunk else ():
                if speaker not in introduced:
                    builder.add_trunk("profile", ids)
                    introduced.add(speaker)
            ends[k] = builder.add_trunk("line", self.lines[k])
        return ends


class Prompter:
    """Builds the token trees of scenes for one template, label set and tokenizer.

    Args:
        tokenizer: The model's tokenizer.
        template: The prompt.
        labels: The label set.
        options: What may vary.
        sentences_of: What is known of each speaker of a scene before it, as sentences; None for prompts without
            profiles.
        invented: Other names for everybody, where options.names asks for them.

    Attributes:
        frame: What the model's chat template puts around the prompt.
        answer_ids: Token ids of each label as an answer, end tokens included, in label order.
        answer_texts: The same as text, without what ends it.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: PromptTemplate,
        labels: LabelSet,
        options: PromptOptions | None = None,
        sentences_of: Callable[[Dialogue], Mapping[str, Sequence[str]]] | None = None,
        invented: Renaming | None = None,
    ) -> None:
        self._invented = invented
        self._sentences_of = sentences_of
        self.template = template
        self.labels = labels
        self.options = options or PromptOptions()
        self.frame = cut_frame(tokenizer, template)
        encoder = self.frame.encoder
        end = encoder.markup(self.frame.end)
        texts = tuple(template.render("answer", {"label": encoder.harmless(name)}) for name in labels.names)
        self.answer_texts = texts
        self.answer_ids = tuple(encoder.data(self.frame.lead + text) + end for text in texts)
        if not end or len(set(self.answer_ids)) < len(labels):
            raise PromptError(f"prompt '{template.name}': answers must differ and have an end; they are {texts}")
        self._bridge = encoder.markup(self.frame.bridge)
        if not any(ids for _, ids in self.question_ids(1, "Ada", "Hello.")):
            raise PromptError(f"prompt '{template.name}': a question needs words, or a chat template around it")
        if sentences_of is not None and not template.has("profile"):
            raise PromptError(f"prompt '{template.name}' has no block `profile`, so it cannot show profiles; add one")
        self.head_ids = lru_cache(maxsize=10_000)(self._head_ids)

    def _head_ids(self, order: tuple[str, ...]) -> tuple[int, ...]:
        return self.frame.head_ids(self.system_text(order))

    def system_text(self, order: Sequence[str]) -> str:
        """The instruction, with the labels in this order."""
        values = {"labels": [self.frame.encoder.harmless(name) for name in order], "context": self.options.context}
        return self.template.render("system", values)

    @property
    def shows_profiles(self) -> bool:
        """Whether prompts hold profiles of speakers."""
        return self._sentences_of is not None

    @property
    def longest_line(self) -> int:
        """Most tokens of one trunk line, and of a text that a question repeats: half the trunk budget."""
        return max(self.options.trunk_budget // 2, 8)

    def line_ids(self, number: int, name: str, text: str) -> tuple[int, ...]:
        """Ids of one trunk line, cut to `longest_line`."""
        ids = self._data("line", number, name, text)
        limit = self.longest_line
        return ids if len(ids) <= limit else ids[: limit - 1] + ids[-1:]

    def profile_ids(self, name: str, sentences: Sequence[str]) -> tuple[int, ...]:
        """Ids of a speaker's profile: as many first sentences as fit the profile budget; maybe none."""
        for count in range(len(sentences), 0, -1):
            ids = self._data("profile", 0, name, " ".join(sentences[:count]))
            if len(ids) <= self.options.profile_budget:
                return ids
        return ()

    def question_ids(
        self, number: int, name: str, text: str, state: str = "", profiles: Sequence[Sequence[int]] = ()
    ) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """The pieces of a question branch: what is known, its own words, the end of the user's turn and the header.

        Args:
            number: Of the line, from 1.
            name: Who spoke it.
            text: What was said; a template that repeats it in the question shows `longest_line` tokens of it.
            state: What was predicted for earlier lines, as `state_text` puts it.
            profiles: Profiles that stand in the question.
        """
        text = self._beginning(text)
        known = tuple(("profile", tuple(ids)) for ids in profiles)
        return (*known, ("question", self._data("question", number, name, text, state)), ("bridge", self._bridge))

    def _beginning(self, text: str) -> str:
        """As much of a text as `longest_line` tokens hold."""
        if len(text) * 4 <= self.longest_line:  # no tokenizer makes more than a token of each of its UTF-8 bytes
            return text

        def tokens(length: int) -> int:
            return len(self.frame.encoder.data(self.frame.encoder.harmless(text[:length])))

        if tokens(len(text)) <= self.longest_line:
            return text
        return text[: bisect_right(range(len(text)), self.longest_line, key=tokens) - 1]

    def _data(self, block: str, number: int, name: str, text: str, state: str = "") -> tuple[int, ...]:
        encoder = self.frame.encoder
        values = {
            "number": number,
            "name": encoder.harmless(name),
            "text": encoder.harmless(text),
            "context": self.options.context,
            "state": encoder.harmless(state),
        }
        # Once more as a whole: a name and our own colon may have made a marker together.
        return encoder.data(encoder.break_markers(self.template.render(block, values)))

    def scene(self, dialogue: Dialogue) -> Scene:
        """The ids of a scene's lines and profiles."""
        utterances = dialogue.utterances
        names = line_names(utterances, self.options.names)
        shown = called(utterances, self.options.names)
        known = {} if self._sentences_of is None else self._sentences_of(dialogue)
        if self._invented is not None:
            new = self._invented
            utterances = tuple(replace(u, text=new.text(u.text)) for u in utterances)
            names = [new.name(name) for name in names]
            shown = {speaker: new.name(name) for speaker, name in shown.items()}
            known = {speaker: [new.text(sentence) for sentence in text] for speaker, text in known.items()}
        lines = [self.line_ids(k + 1, name, u.text) for k, (name, u) in enumerate(zip(names, utterances, strict=True))]
        profiles = {s: ids for s, text in known.items() if (ids := self.profile_ids(shown[s], text))}
        return Scene(utterances, tuple(names), tuple(lines), profiles, self.options.placement == "trunk")

    def trees(
        self,
        dialogue: Dialogue,
        answers: Answers,
        *,
        weights: Mapping[int, float] | None = None,
        label_order: Sequence[str] | None = None,
        state: Sequence[str | None] | None = None,
    ) -> list[TokenTree]:
        """The scene as token trees, one per window that has a target.

        Args:
            dialogue: The scene.
            answers: `gold` asks about labelled targets and hangs their label on (training); `all` hangs every label
                on every target (scoring), `gold_all` on labelled targets only (selection scores, and training on the
                distribution over all labels); `none` ends at the answer's header (generation). Under `gold` and
                `gold_all` a question knows which answer is right; nothing that the model reads does.
            weights: Ask about these targets only, with these weights; by default about all with 1. The lines of a
                window stay the same whatever is asked; a window in which nothing is asked gives no tree.
            label_order: The order in which the prompt lists the labels; the canonical one by default.
            state: A label for each line of the scene, or None where there is none, from which a question tells what
                its speaker and the last one were predicted to feel.
        """
        utterances = dialogue.utterances
        targets: Sequence[int] = dialogue.targets
        if answers in ("gold", "gold_all"):
            targets = [k for k in targets if utterances[k].label is not None]
        asked = dict.fromkeys(targets, 1.0) if weights is None else weights
        scene = self.scene(dialogue)
        head = self.head_ids(tuple(label_order or self.labels.names))
        trees = []
        for window in cut_windows(scene.costs(), self.options.trunk_budget):
            here = [k for k in targets if window.first_target <= k < window.stop]
            questions = {k: asked[k] for k in here if k in asked}
            if questions:
                stop = here[-1] + 1 if self.options.context == "past" else window.stop
                trees.append(self._tree(scene, head, range(window.start, stop), questions, answers, state))
        return trees

    def _tree(
        self,
        scene: Scene,
        head: tuple[int, ...],
        lines: range,
        questions: Mapping[int, float],
        answers: Answers,
        state: Sequence[str | None] | None,
    ) -> TokenTree:
        builder = TreeBuilder()
        builder.add_trunk("instruction", head)
        ends = scene.add_lines(builder, lines.start, lines.stop)
        for k, weight in questions.items():
            after = ends[k] if self.options.context == "past" else ends[lines[-1]]
            gold = self._gold(scene.utterances[k], answers)
            builder.add_question(k, after, self.pieces(scene, k, state), self._answers(gold, answers), weight, gold)
        return builder.build()

    def pieces(
        self, scene: Scene, k: int, state: Sequence[str | None] | None = None
    ) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """The pieces of the question about line `k`."""
        told = "" if state is None else state_text(scene, k, state)
        return self.question_ids(k + 1, scene.names[k], scene.utterances[k].text, told, scene.question_profiles(k))

    def _gold(self, utterance: Utterance, answers: Answers) -> int | None:
        if answers in ("all", "none"):
            return None
        assert utterance.label is not None
        return self.labels.index(utterance.label)

    def _answers(self, gold: int | None, answers: Answers) -> list[tuple[int, tuple[int, ...]]]:
        if answers == "none":
            return []
        if answers == "gold":
            assert gold is not None
            return [(gold, self.answer_ids[gold])]
        return list(enumerate(self.answer_ids))


def shuffled_labels(labels: LabelSet, seed: int, epoch: int, dialogue_id: str) -> tuple[str, ...]:
    """An order of the label names drawn for one scene in one epoch of one run."""
    names = list(labels.names)
    random.Random(f"{seed}/{epoch}/{dialogue_id}").shuffle(names)
    return tuple(names)


def scoring_orders(labels: LabelSet, count: int, seed: int, dialogue_id: str) -> tuple[tuple[str, ...], ...]:
    """Orders of the label names over which one scene's scores are averaged: the canonical one, then drawn ones.

    They depend on seed and scene alone, and are all different as long as there are so many.
    """
    orders = [labels.names]
    names, draw = list(labels.names), random.Random(f"orders/{seed}/{dialogue_id}")
    while len(orders) < count:
        draw.shuffle(names)
        if tuple(names) not in orders or len(orders) >= math.factorial(len(names)):
            orders.append(tuple(names))
    return tuple(orders)
