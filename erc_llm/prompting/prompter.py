"""The prompter: builds the token trees of scenes; the only place where prompts are assembled.

Training, scoring, generation, `render` and the peers of the benchmarks all take their token ids from it.

Input: a `Dialogue`, a prompt template, a tokenizer. Output: one `TokenTree` per window of the scene.
Does not depend on: models.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Literal

from erc_llm.corpus.dialogues import Dialogue, Utterance
from erc_llm.corpus.labels import LabelSet
from erc_llm.errors import PromptError
from erc_llm.prompting.names import Names, Renaming, called, line_names
from erc_llm.prompting.retrieved import Retrieve, RetrievedText
from erc_llm.prompting.scene import Further, Scene, nothing
from erc_llm.prompting.state import state_text
from erc_llm.prompting.templates import PromptTemplate, cut_frame, load_auxiliary
from erc_llm.trees.tree import TokenTree, TreeBuilder
from erc_llm.trees.windows import cut_windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Context = Literal["past", "full"]
Answers = Literal["gold", "all", "gold_all", "none"]
Placement = Literal["trunk", "question"]
AnswerForm = Literal["label", "coarse_then_label"]


@dataclass(frozen=True, slots=True)
class PromptOptions:
    """Options of a prompt besides its template.

    Attributes:
        context: `past`: a question sees the lines up to its own; `full`: all lines of its window.
        lookahead: With `past`, number of later lines of its window that a question sees too. Lines are numbered then,
            as under `full`, because a question no longer stands right behind its line.
        forecast: Ask about a line before it is read: the question hangs after the line before and does not name it.
        answer: `label`: an answer is a label; `coarse_then_label`: its coarser label, then the label.
        names: `first`: first names (full names where two speakers share one); `full`: full names; `invented`: replaced.
        trunk_budget: Maximum tokens of the lines of one window, profiles included; a single line gets at most half of
            it.
        trunk_lines: Maximum number of lines of one window; None for no limit.
        placement: Place of profiles: in the trunk before their speaker's first line, or in the speaker's questions.
        profile_budget: Maximum tokens of one profile, cut at a sentence.
        retrieved_place: Place of what is retrieved for a line: in its question, or for the first line of a trunk right
            before that line, beside the trunk budget.
        demonstrations: Maximum number of lines that are retrieved as demonstrations; 0 for a label distribution.
    """

    context: Context = "past"
    names: Names = "first"
    trunk_budget: int = 2048
    placement: Placement = "trunk"
    profile_budget: int = 60
    lookahead: int = 0
    trunk_lines: int | None = None
    answer: AnswerForm = "label"
    forecast: bool = False
    retrieved_place: Placement = "question"
    demonstrations: int = 0

    @property
    def shown_context(self) -> Context:
        """The context that templates are told: `full` if a question may stand behind later lines than its own."""
        return "full" if self.lookahead else self.context


class Prompter:
    """Builds the token trees of scenes for one template, label set and tokenizer.

    Args:
        tokenizer: The model's tokenizer.
        template: The prompt template.
        labels: The label set.
        options: Options besides the template; the defaults if None.
        sentences_of: Returns the profile sentences of each speaker of a scene; None for prompts without profiles.
        invented: Replaces names, if `options.names` is `invented`.
        retrieve: Finds labelled lines that resemble lines of a scene; None for prompts without them.

    Attributes:
        frame: Token ids that the model's chat template puts around the prompt.
        answer_ids: Token ids of each label as an answer, end tokens included, in label order.
        answer_texts: Text of each label as an answer, without end tokens.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: PromptTemplate,
        labels: LabelSet,
        options: PromptOptions | None = None,
        sentences_of: Callable[[Dialogue], Mapping[str, Sequence[str]]] | None = None,
        invented: Renaming | None = None,
        retrieve: Retrieve | None = None,
    ) -> None:
        self._invented = invented
        self._sentences_of = sentences_of
        self.template = template
        self.labels = labels
        self.options = options or PromptOptions()
        self.frame = cut_frame(tokenizer, template)
        encoder = self.frame.encoder
        end = encoder.markup(self.frame.end)
        self._end = end
        spoken = spoken_labels(labels, self.options.answer)
        texts = tuple(template.render("answer", {"label": encoder.harmless(name)}) for name in spoken)
        self.answer_texts = texts
        renamed = None if invented is None else invented.text
        self._retrieved = None if retrieve is None else RetrievedText(retrieve, encoder, texts, renamed)
        self.answer_ids = tuple(map(self.ids_of_answer, texts))
        if not end or len(set(self.answer_ids)) < len(labels):
            raise PromptError(f"prompt '{template.name}': answers must differ and have an end, found {texts}")
        self._bridge = encoder.markup(self.frame.bridge)
        if not any(ids for _, ids in self.question_ids(1, "Ada", "Hello.")):
            raise PromptError(f"prompt '{template.name}': a question needs text, or a chat template around it")
        if self.options.forecast and (self.options.context == "full" or self.options.lookahead):
            raise PromptError("scoring.forecast: a prompt that contains later lines cannot forecast; use context=past")
        if sentences_of is not None and not template.has("profile"):
            raise PromptError(f"prompt '{template.name}' has no block `profile`, so it cannot show profiles; add one")
        self.head_ids = lru_cache(maxsize=10_000)(self._head_ids)

    def ids_of_answer(self, text: str) -> tuple[int, ...]:
        """Token ids of a text as an answer, end tokens included."""
        return self.frame.encoder.data(self.frame.lead + text) + self._end

    def ids_of_question(self, text: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """The pieces of a query branch with this text, which is data to the tokenizer."""
        encoder = self.frame.encoder
        return ("question", encoder.data(encoder.break_markers(text))), ("bridge", self._bridge)

    def _head_ids(self, order: tuple[str, ...]) -> tuple[int, ...]:
        return self.frame.head_ids(self.system_text(order))

    def system_text(self, order: Sequence[str]) -> str:
        """The instruction, with the labels in the given order."""
        values = {
            "labels": [self.frame.encoder.harmless(name) for name in order],
            "context": self.options.shown_context,
        }
        return self.template.render("system", values)

    @property
    def shows_profiles(self) -> bool:
        """Whether prompts contain speaker profiles."""
        return self._sentences_of is not None

    @property
    def longest_retrieved(self) -> int:
        """Maximum tokens of what is retrieved for one line."""
        return 0 if self._retrieved is None else self._retrieved.longest(self.options.demonstrations)

    @property
    def longest_line(self) -> int:
        """Maximum tokens of one trunk line, and of a text that a question repeats: half the trunk budget."""
        return max(self.options.trunk_budget // 2, 8)

    def line_ids(self, number: int, name: str, text: str) -> tuple[int, ...]:
        """Token ids of one trunk line, cut to `longest_line`."""
        ids = self._data("line", number, name, text)
        limit = self.longest_line
        return ids if len(ids) <= limit else ids[: limit - 1] + ids[-1:]

    def profile_ids(self, name: str, sentences: Sequence[str]) -> tuple[int, ...]:
        """Token ids of a speaker's profile: as many leading sentences as fit the profile budget, possibly none."""
        for count in range(len(sentences), 0, -1):
            ids = self._data("profile", 0, name, " ".join(sentences[:count]))
            if len(ids) <= self.options.profile_budget:
                return ids
        return ()

    def question_ids(
        self, number: int, name: str, text: str, state: str = "", profiles: Sequence[Sequence[int]] = ()
    ) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """The pieces of a query branch: profiles, question text, the end of the user turn and the assistant's header.

        Args:
            number: Number of the line, from 1.
            name: Display name of its speaker.
            text: Text of the line; a template that repeats it in the question shows `longest_line` tokens of it.
            state: Labels predicted for earlier lines, as `state_text` words them.
            profiles: Profiles that stand in the question.
        """
        text = self.beginning(text)
        known = tuple(("profile", tuple(ids)) for ids in profiles)
        return (*known, ("question", self._data("question", number, name, text, state)), ("bridge", self._bridge))

    def beginning(self, text: str) -> str:
        """The beginning of a text that fits `longest_line` tokens."""
        return self.frame.encoder.beginning(text, self.longest_line)

    def _data(self, block: str, number: int, name: str, text: str, state: str = "") -> tuple[int, ...]:
        encoder = self.frame.encoder
        values = {
            "number": number,
            "name": encoder.harmless(name),
            "text": encoder.harmless(text),
            "context": self.options.shown_context,
            "state": encoder.harmless(state),
        }
        # Break markers in the whole text too: a name and the template's own colon may form one together.
        return encoder.data(encoder.break_markers(self.template.render(block, values)))

    def scene(self, dialogue: Dialogue, episode: str | None = None) -> Scene:
        """The pieces of a scene's prompt: token ids of its lines and profiles.

        Lines of its episode are not retrieved; `episode` names it where the dialogue does not.
        """
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
        found = nothing if self._retrieved is None else partial(self._retrieved.ids, dialogue, episode)
        opening, beside = (found, nothing) if self.options.retrieved_place == "trunk" else (nothing, found)
        in_trunk = self.options.placement == "trunk"
        return Scene(utterances, tuple(names), tuple(lines), profiles, in_trunk, opening, beside)

    def trees(
        self,
        dialogue: Dialogue,
        answers: Answers,
        *,
        weights: Mapping[int, float] | None = None,
        label_order: Sequence[str] | None = None,
        state: Sequence[str | None] | None = None,
        further: Further | None = None,
        words: float = 0.0,
    ) -> list[TokenTree]:
        """The scene as token trees, one per window that has a target.

        Args:
            dialogue: The scene.
            answers: `gold`: labelled targets, each with its own label as the answer (training); `all`: all targets,
                each with every label as an answer (scoring); `gold_all`: labelled targets, each with every label
                (selection scores, and training on the distribution over all labels); `none`: all targets, without
                answers (generation). `gold` and `gold_all` set `Question.gold`, which the model never reads.
            weights: Target to weight; only these targets are queried. By default all targets with weight 1. The lines
                of a window are the same for every choice of targets; a window without queried targets gives no tree.
            label_order: The order in which the prompt lists the labels; the canonical one by default.
            state: Predicted label of each line of the scene, None for lines without one. A question states the
                predictions for its speaker's last line and for the preceding line.
            further: Returns additional questions about a line that is asked about, for training.
            words: Weight of the mean log-likelihood of the line's own tokens, for training.
        """
        utterances = dialogue.utterances
        targets: Sequence[int] = dialogue.targets
        if answers in ("gold", "gold_all"):
            targets = [k for k in targets if utterances[k].label is not None]
        asked = dict.fromkeys(targets, 1.0) if weights is None else weights
        scene = self.scene(dialogue)
        if self._retrieved is not None and self.options.retrieved_place == "question":
            self._retrieved.search(dialogue, [*asked], None)  # at once, which is faster than line by line
        head = self.head_ids(tuple(label_order or self.labels.names))
        trees = []
        for window in cut_windows(scene.costs(), self.options.trunk_budget, self.options.trunk_lines):
            here = [k for k in targets if window.first_target <= self._last_read(k) < window.stop]
            questions = {k: asked[k] for k in here if k in asked}
            if questions:
                stop = min(self._last_read(here[-1]) + 1 + self.options.lookahead, window.stop)
                stop = stop if self.options.context == "past" else window.stop
                lines = range(window.start, stop)
                trees.append(self._tree(scene, head, lines, questions, answers, state, further, words))
        return trees

    def _last_read(self, k: int) -> int:
        """The last line that is read before line `k` is asked about; later ones of the context aside."""
        return max(k - 1, 0) if self.options.forecast else k

    def _tree(
        self,
        scene: Scene,
        head: tuple[int, ...],
        lines: range,
        questions: Mapping[int, float],
        answers: Answers,
        state: Sequence[str | None] | None,
        further: Further | None,
        words: float,
    ) -> TokenTree:
        builder = TreeBuilder()
        begin = builder.add_trunk("instruction", head)
        ends = scene.add_lines(builder, lines.start, lines.stop)
        for k, weight in questions.items():
            after = ends[self.after(k, lines)] if k > 0 or not self.options.forecast else begin
            gold = self._gold(scene.utterances[k], answers)
            pieces = self.forecast_pieces if self.options.forecast else self.pieces(scene, k, state)
            builder.add_question(k, after, pieces, self._answers(gold, answers), weight, gold)
            for extra in () if further is None else further(scene, k, lines):
                above, share = ends[extra.line], weight * extra.weight
                builder.add_question(k, above, extra.pieces, extra.answers, share, extra.gold, extra.task)
            if words and (length := len(scene.lines[k])):
                builder.add_trunk_words(k, ends[k], length, weight * words / length)
        return builder.build()

    def after(self, k: int, lines: range) -> int:
        """The line after which the question about line `k` hangs in a trunk of these lines."""
        if self.options.context == "full":
            return lines[-1]
        return self._last_read(k) if self.options.forecast else min(k + self.options.lookahead, lines[-1])

    @cached_property
    def forecast_pieces(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """The pieces of the question about a line that is not read yet."""
        values = {"plain": not self.template.chat}
        return self.ids_of_question(load_auxiliary().render("next_emotion", values))

    def pieces(
        self, scene: Scene, k: int, state: Sequence[str | None] | None = None
    ) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """The pieces of the question about line `k`."""
        stated = "" if state is None else state_text(scene, k, state)
        text, profiles = scene.utterances[k].text, scene.question_profiles(k)
        question = self.question_ids(k + 1, scene.names[k], text, stated, profiles)
        return (("retrieved", scene.beside(k)), *question)

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


def spoken_labels(labels: LabelSet, form: AnswerForm) -> tuple[str, ...]:
    """What an answer names for each label: the label, or the coarser one and the label.

    Raises:
        PromptError: The label set has no coarser labels.
    """
    if form == "label":
        return labels.names
    if not labels.coarse:
        raise PromptError("prompt.answer=coarse_then_label: the label set has no coarser labels (labels.coarse)")
    return tuple(f"{labels.coarse[name]} {name}" for name in labels.names)


def shuffled_labels(labels: LabelSet, seed: int, epoch: int, dialogue_id: str) -> tuple[str, ...]:
    """A random order of the label names, drawn for one scene in one epoch of one run."""
    names = list(labels.names)
    random.Random(f"{seed}/{epoch}/{dialogue_id}").shuffle(names)
    return tuple(names)


def scoring_orders(labels: LabelSet, count: int, seed: int, dialogue_id: str) -> tuple[tuple[str, ...], ...]:
    """Orders of the label names over which the scores of one scene are averaged: the canonical one, then random ones.

    They depend on seed and scene alone. All are different, unless `count` exceeds the number of possible orders.
    """
    orders = [labels.names]
    names, draw = list(labels.names), random.Random(f"orders/{seed}/{dialogue_id}")
    while len(orders) < count:
        draw.shuffle(names)
        if tuple(names) not in orders or len(orders) >= math.factorial(len(names)):
            orders.append(tuple(names))
    return tuple(orders)
