"""Generated labels of whole scenes: constrained to the labels, a label after free reasons, or free text.

The prompts are the root paths of the trees that scoring uses too.

Input: a model, a prompter, dialogues. Output: a `GeneratedLabel` for every target, scene by scene.
Does not depend on: runs, tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from erc_llm.corpus.dialogues import Dialogue
from erc_llm.decoding.constrained import LabelTrie, generate_labels, reason_then_label
from erc_llm.decoding.generation import generate_texts
from erc_llm.decoding.scenes import State
from erc_llm.decoding.spelling import spelled_label
from erc_llm.predictions import Prediction
from erc_llm.prompting.prompter import Prompter

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Way = Literal["label", "reason_then_label", "free"]
LABEL_FOLLOWS = "\nAnswer:"


@dataclass(frozen=True, slots=True)
class GeneratedLabel:
    """The generated answer about one target.

    Attributes:
        target: Position of the utterance in its dialogue.
        label: Index of the generated label; None if the text spells no label.
        text: The whole generated text, without the token or stop string that ended it.
    """

    target: int
    label: int | None
    text: str

    def prediction(self, names: Sequence[str]) -> Prediction:
        """The row of the target, with `names` in label order; a text that spells no label is an invalid answer."""
        predicted = None if self.label is None else names[self.label]
        return Prediction(predicted, invalid=predicted is None, raw_answer=self.text)


class Writer:
    """Answers prompts by generation.

    Args:
        model: A causal LM with a plain or tree attention; it is used in eval mode.
        tokenizer: Its tokenizer.
        prompter: Builds the prompts.
        way: `label`: greedy generation constrained to the labels. `reason_then_label`: free text first. `free`:
            greedy text that is mapped to a label by its spelling.
        most_tokens: Most tokens of free text.
        tokens_per_batch: Most tokens in one batch.

    Attributes:
        bridge: Token ids between reasons and label. If labels have no leading space, it ends with a line break.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompter: Prompter,
        way: Way,
        most_tokens: int,
        tokens_per_batch: int = 4096,
    ) -> None:
        self.prompter = prompter
        self._model, self._tokenizer, self._way = model, tokenizer, way
        self._most_tokens, self._tokens_per_batch = most_tokens, tokens_per_batch
        self._bridge = LABEL_FOLLOWS + ("" if prompter.frame.lead else "\n")
        self.bridge = prompter.frame.encoder.data(self._bridge)
        end = prompter.frame.end
        special = set(prompter.frame.encoder.markup(end)) & set(tokenizer.all_special_ids)
        self._stop = () if special else (end,)  # without a special token, an answer ends at this text

    def write(
        self, prompts: Sequence[Sequence[int]], on_progress: Callable[[int], None] | None = None
    ) -> list[tuple[int | None, str]]:
        """Label and text generated for each prompt; `on_progress` is called with the number of prompts done."""
        model, tokenizer, prompter, budget = self._model, self._tokenizer, self.prompter, self._tokens_per_batch
        texts, names = prompter.answer_texts, prompter.labels.names
        if self._way == "free":
            generated = generate_texts(
                model,
                tokenizer,
                prompts,
                max_new_tokens=self._most_tokens,
                stop=self._stop,
                tokens_per_batch=budget,
                on_progress=on_progress,
            )
            spelled = [spelled_label(text, prompter.labels) for text in generated]
            return [(None if s is None else names.index(s), text) for s, text in zip(spelled, generated, strict=True)]
        trie = LabelTrie(prompter.answer_ids)
        if self._way == "label":
            labels = generate_labels(model, tokenizer, prompts, trie, tokens_per_batch=budget, on_progress=on_progress)
            return [(label, texts[label]) for label in labels]
        reasoned = reason_then_label(
            model,
            tokenizer,
            prompts,
            trie,
            self.bridge,
            max_new_tokens=self._most_tokens,
            stop=(*self._stop, LABEL_FOLLOWS),
            tokens_per_batch=budget,
            on_progress=on_progress,
        )
        behind = self._bridge + prompter.frame.lead
        return [(r.label, f"{r.text}{behind}{texts[r.label]}") for r in reasoned]


def answer_scenes(
    writer: Writer,
    dialogues: Sequence[Dialogue],
    *,
    passes: Literal[1, 2] = 1,
    on_progress: Callable[[int], None] | None = None,
) -> list[list[GeneratedLabel]]:
    """Answers about the targets of every dialogue, in order.

    Args:
        writer: Generates the answers.
        dialogues: The dialogues.
        passes: 2: a first pass without state, then a second one whose questions state the first one's answers for
            earlier lines.
        on_progress: Called with the number of dialogues done in the last pass.
    """
    states: list[State | None] = [None] * len(dialogues)
    if passes == 2:
        names = writer.prompter.labels.names
        for i, answers in enumerate(_answer(writer, dialogues, states, None)):
            predicted = {a.target: names[a.label] for a in answers if a.label is not None}
            states[i] = [predicted.get(k) for k in range(len(dialogues[i].utterances))]
    return _answer(writer, dialogues, states, on_progress)


def _answer(
    writer: Writer,
    dialogues: Sequence[Dialogue],
    states: Sequence[State | None],
    on_progress: Callable[[int], None] | None,
) -> list[list[GeneratedLabel]]:
    asked = [
        (i, question.target, tree.token_ids[tree.root_path(question.last)].tolist())
        for i, (dialogue, state) in enumerate(zip(dialogues, states, strict=True))
        for tree in writer.prompter.trees(dialogue, "none", state=state)
        for question in tree.questions
    ]
    done = None if on_progress is None else lambda n: on_progress(n * len(dialogues) // len(asked))
    results: list[list[GeneratedLabel]] = [[] for _ in dialogues]
    for (i, target, _), (label, text) in zip(asked, writer.write([ids for *_, ids in asked], done), strict=True):
        results[i].append(GeneratedLabel(target, label, text))
    return results
