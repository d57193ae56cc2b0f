"""Constrained generation: the output is always one of the labels.

A trie holds the answers, and a logits processor follows it. The processor masks scores and does not change the allowed
ones. In greedy search and sampling the softmax over the remaining scores makes each step a choice among the trie's
branches. Beam search normalises over the whole vocabulary *before* its processors (`_beam_search` of transformers 5),
so a beam's score stays the plain log-likelihood. With as many beams as labels, `length_penalty=0` and no early
stopping, the beams rank as in `erc_llm.decoding.scoring`.

Input: token ids of every label's answer, prompts as token ids, a model. Output: one label index per prompt, directly or
after free text.
Does not depend on: dialogues, label names, templates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from erc_llm.decoding.generation import end_id, generate_batches, generate_ids, pad_id
from erc_llm.errors import InternalError, ModelError, PromptError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Mode = Literal["greedy", "beam", "sample"]
_UNCUT: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "typical_p": 1.0, "min_p": 0.0}


class LabelTrie:
    """The answers' token ids as an automaton: which tokens may follow, and which label a complete answer is.

    State 0 is the beginning. A complete answer is a final state. The last state is final too; it is reached by ids that
    begin no answer.

    Args:
        answers: Token ids of each label as an answer, including end tokens, in label order. A label may be a prefix of
            another ("Sad", "Sadness"), because their end tokens distinguish them.

    Attributes:
        labels: Number of labels.
        depth: Number of tokens of the longest answer.
        answers: The given answers.
        open: (states,) whether a state is the beginning of an answer that is not complete.
        children: (states, most children) tokens that may follow, repeated to fill the row; 0 if none may.
        label: (states,) index of the label of a complete answer; -1 in other states.

    Raises:
        PromptError: An answer is empty, occurs twice, or is a prefix of another one, so that its end is ambiguous.
    """

    def __init__(self, answers: Sequence[Sequence[int]]) -> None:
        self.answers = tuple(tuple(answer) for answer in answers)
        _require_separate(self.answers)
        self.labels, self.depth = len(self.answers), max(map(len, self.answers))
        states = {a[:k]: 0 for a in self.answers for k in range(len(a) + 1)}
        states = {beginning: state for state, beginning in enumerate(sorted(states, key=len))}
        whole = {answer: label for label, answer in enumerate(self.answers)}
        following: list[list[int]] = [[] for _ in range(len(states) + 1)]
        for beginning in states:
            if beginning:
                following[states[beginning[:-1]]].append(beginning[-1])
        most = max(map(len, following))
        tokens = sorted({token for answer in self.answers for token in answer})
        # One column per token that occurs in an answer; column 0 is every other token of the vocabulary.
        self._column = torch.zeros(tokens[-1] + 2, dtype=torch.long)
        self._column[tokens] = torch.arange(1, len(tokens) + 1)
        self._next = torch.full((len(states) + 1, len(tokens) + 1), len(states))
        for beginning, state in states.items():
            if beginning in whole:
                self._next[state] = state
            if beginning:
                self._next[states[beginning[:-1]], self._column[beginning[-1]]] = state
        self.open = torch.tensor([bool(found) for found in following])
        self.children = torch.tensor([(f + f[:1] * most)[:most] if f else [0] * most for f in following])
        self.label = torch.tensor([*(whole.get(beginning, -1) for beginning in states), -1])

    def to(self, device: torch.device) -> LabelTrie:
        """The same trie on another device."""
        moved = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, torch.Tensor):
                setattr(moved, name, value.to(device))
        return moved

    def walk(self, generated: torch.Tensor) -> torch.Tensor:
        """Return (rows,) states after (rows, tokens) ids from the beginning; ids after an answer are ignored."""
        columns = self._column[generated.clamp(max=len(self._column) - 1)]
        state = generated.new_zeros(len(generated))
        for step in range(generated.shape[1]):
            state = self._next[state, columns[:, step]]
        return state

    def read(self, generated: torch.Tensor) -> torch.Tensor:
        """Return (rows,) index of the label that (rows, tokens) ids begin with; -1 without a complete answer."""
        return self.label[self.walk(generated)]


def _require_separate(answers: Sequence[tuple[int, ...]]) -> None:
    if not answers or not all(answers):
        raise PromptError(f"every label needs at least one token as its answer; found {list(answers)}")
    ordered = sorted(answers)
    for first, second in pairwise(ordered):
        if first == second:
            raise PromptError(f"two labels have the same answer {list(first)}; answers must differ")
        if second[: len(first)] == first:
            raise PromptError(
                f"the answer {list(first)} begins the answer {list(second)}, so its end is ambiguous; "
                "put end tokens after every answer"
            )


class LabelProcessor(LogitsProcessor):
    """Restricts `generate` to the labels; after a complete answer it allows only the end token, with log-probability 0.

    It keeps no state between steps, so beams may be reordered. Allowed scores are not changed.

    transformers' `prefix_allowed_tokens_fn` is as fast (SmolLM2-135M on a CPU, 16 prompts: 0.99 and 1.00 of the time of
    this class; medians of 7 alternating pairs) but less exact: the end token keeps its own score after a complete
    answer. If answers end with another token, such as the ")" of prompts for base models, beams then rank the labels
    wrongly on 49 of 60 random prompts of a stand-in model, with log-likelihoods off by up to 7.4 nats. It also raises
    no error if the model gives no label a probability.

    Args:
        trie: The labels, on the device of the scores.
        prompt_width: Number of tokens of the (left-padded) prompts; all later tokens are generated.
        end_id: Token that ends generation, the `eos_token_id` of the same `generate`; many answers end with it.

    Raises:
        PromptError: An answer holds the end token before its last position, so `generate` would cut it off.
    """

    def __init__(self, trie: LabelTrie, prompt_width: int, end_id: int) -> None:
        for answer in trie.answers:
            if end_id in answer[:-1]:
                raise PromptError(f"the answer {list(answer)} continues after {end_id}, which ends all generation")
        self._trie = trie
        self._prompt_width = prompt_width
        self._children = trie.children.masked_fill(~trie.open[:, None], end_id)
        # The end token's score: certain after a complete answer, impossible if there is no answer.
        self._end_score = torch.where(trie.label >= 0, 0.0, -torch.inf)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return (rows, vocabulary) scores, -inf for tokens that continue no label.

        Raises:
            ModelError: The scores of all allowed tokens are -inf, or one is not a number.
        """
        state = self._trie.walk(input_ids[:, self._prompt_width :])
        tokens, is_open = self._children[state], self._trie.open[state]
        kept = scores.gather(1, tokens)
        if bool((is_open & ~(kept.amax(1) > -torch.inf)).any()):
            raise ModelError(
                "the model gives no label a probability (its scores are -inf or not a number); "
                "load it in another precision"
            )
        kept = torch.where(is_open[:, None], kept, self._end_score[state].to(kept.dtype)[:, None])
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens, kept)


def generate_labels(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    trie: LabelTrie,
    *,
    mode: Mode = "greedy",
    temperature: float = 1.0,
    tokens_per_batch: int = 8192,
    on_progress: Callable[[int], None] | None = None,
) -> list[int]:
    """The index of the label that constrained generation gives for each prompt.

    Args:
        model: A causal LM with a plain or tree attention; it is used in eval mode.
        tokenizer: Its tokenizer; only its pad and end ids are used.
        prompts: Token ids up to the beginning of the answer.
        trie: The answers.
        mode: `greedy` takes the most likely token at every step; `beam` takes the most likely label exactly, with one
            beam per label; `sample` draws among the tokens that the trie allows, by torch's global generator.
        temperature: Temperature of `sample`.
        tokens_per_batch: Most tokens in one batch, including padding, beams and answers.
        on_progress: Called with the number of prompts done.

    Raises:
        ModelError: The model gives no label a probability.
        PromptError: A prompt is empty, or the tokenizer's end token would cut an answer.
    """
    options: dict[str, Any] = {"do_sample": mode == "sample", "num_beams": trie.labels if mode == "beam" else 1}
    if mode == "sample":
        options |= _UNCUT | {"temperature": temperature}
    elif mode == "beam":
        options |= {"length_penalty": 0.0, "early_stopping": False}
    end, here = end_id(tokenizer), trie.to(model.device)
    found: dict[int, int] = {}
    for batch, new in generate_batches(
        model,
        prompts,
        tokens_per_batch // options["num_beams"],
        lambda width: {"logits_processor": LogitsProcessorList([LabelProcessor(here, width, end)])},
        max_new_tokens=trie.depth,
        eos_token_id=end,
        pad_token_id=pad_id(tokenizer),
        **options,
    ):
        labels = here.read(new).tolist()
        if min(labels) < 0:
            raise InternalError(f"constrained generation gave no label: {new.tolist()}")
        found |= dict(zip(batch, labels, strict=True))
        if on_progress:
            on_progress(len(found))
    return [found[i] for i in range(len(prompts))]


@dataclass(frozen=True, slots=True)
class Reasoned:
    """A label and the text that the model generated before it.

    Attributes:
        label: Index of the label.
        text: The free text, without the token or stop string that ended it.
    """

    label: int
    text: str


def reason_then_label(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    trie: LabelTrie,
    bridge: Sequence[int],
    *,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    mode: Mode = "greedy",
    temperature: float = 1.0,
    tokens_per_batch: int = 8192,
    on_progress: Callable[[int], None] | None = None,
) -> list[Reasoned]:
    """Free text after each prompt by greedy generation, then the bridge, then the constrained label.

    The free text ends with the first special token, before the token that completes a stop string, or at the limit.

    Args:
        model: As in `generate_labels`.
        tokenizer: As in `generate_labels`; it also decodes the free text.
        prompts: Token ids up to the beginning of the free text.
        trie: The answers.
        bridge: Token ids between free text and answer, such as those of "\\nAnswer:".
        max_new_tokens: Most tokens of free text.
        stop: Texts that end the free text.
        mode: Mode for the label, as in `generate_labels`.
        temperature: Temperature for the label, as in `generate_labels`.
        tokens_per_batch: As in `generate_labels`.
        on_progress: Called with the number of prompts whose label is known.

    Raises:
        ModelError: As in `generate_labels`.
        PromptError: As in `generate_labels`.
    """
    free = generate_ids(
        model, tokenizer, prompts, max_new_tokens=max_new_tokens, stop=stop, tokens_per_batch=tokens_per_batch
    )
    labels = generate_labels(
        model,
        tokenizer,
        [[*prompt, *free[i], *bridge] for i, prompt in enumerate(prompts)],
        trie,
        mode=mode,
        temperature=temperature,
        tokens_per_batch=tokens_per_batch,
        on_progress=on_progress,
    )
    return [Reasoned(label, str(tokenizer.decode(free[i]))) for i, label in enumerate(labels)]
