"""What constrained generation must say, walked one plain forward per token; and random prompts to say it behind."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from erc_llm.corpus.labels import EMORYNLP, LabelSet
from erc_llm.decoding.constrained import LabelTrie, Mode
from erc_llm.prompting.prompter import Prompter
from erc_llm.prompting.templates import load_prompt
from tests.tiny_models import TinyModel

MODES: tuple[Mode, ...] = ("greedy", "beam", "sample")


def prompter_of(tiny: TinyModel, labels: LabelSet = EMORYNLP) -> Prompter:
    return Prompter(tiny.tokenizer, load_prompt("instruct" if tiny.tokenizer.chat_template else "plain"), labels)


def trie_of(tiny: TinyModel, labels: LabelSet = EMORYNLP) -> LabelTrie:
    return LabelTrie(prompter_of(tiny, labels).answer_ids)


def random_prompts(tiny: TinyModel, count: int, seed: int = 0, longest: int = 24) -> list[list[int]]:
    draw = random.Random(seed)
    size = len(tiny.tokenizer)
    return [[draw.randrange(size) for _ in range(draw.randint(1, longest))] for _ in range(count)]


@torch.no_grad()
def greedy_walk(model: Any, prompt: Sequence[int], answers: Sequence[Sequence[int]]) -> int:
    """The label found by taking the likeliest token that continues an answer, one plain forward per token."""
    done: list[int] = []
    while tuple(done) not in answers:
        allowed = sorted({a[len(done)] for a in answers if list(a[: len(done)]) == done})
        logits = model(input_ids=torch.tensor([[*prompt, *done]]), use_cache=False).logits[0, -1]
        done.append(allowed[int(logits[allowed].argmax())])
    return list(answers).index(tuple(done))


@torch.no_grad()
def walk_probabilities(model: Any, prompt: Sequence[int], answers: Sequence[Sequence[int]]) -> np.ndarray:
    """(labels,) probability of each label when every token is drawn among those that continue an answer."""
    result = np.ones(len(answers))
    for label, answer in enumerate(answers):
        for k, token in enumerate(answer):
            allowed = sorted({a[k] for a in answers if a[:k] == answer[:k] and len(a) > k})
            logits = model(input_ids=torch.tensor([[*prompt, *answer[:k]]]), use_cache=False).logits[0, -1]
            result[label] *= float(logits[allowed].softmax(0)[allowed.index(token)])
    return result


def end_of(tiny: TinyModel) -> int:
    return int(tiny.tokenizer.eos_token_id)


@torch.no_grad()
def free_walk(model: Any, prompt: Sequence[int], most: int, ends: set[int]) -> list[int]:
    """Greedy ids behind a prompt, one plain forward per token, up to an end."""
    done: list[int] = []
    while len(done) < most:
        token = int(model(input_ids=torch.tensor([[*prompt, *done]]), use_cache=False).logits[0, -1].argmax())
        if token in ends:
            break
        done.append(token)
    return done
