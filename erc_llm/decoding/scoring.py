"""Exact label distributions for every target of a scene, from one forward pass over its token tree.

Trees are batched into forests under a token budget. A tree that alone exceeds it is scored in pieces, on the KV cache
of its trunk (the shared prefix of its questions).

Input: a model and token trees with all labels as answers. Output: a `LabelScores` per question.
Does not depend on: text, training, files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from erc_llm.errors import ModelError
from erc_llm.models.autocast import autocast
from erc_llm.trees.attention import forest_logits, reading_states, require_tree_attention
from erc_llm.trees.forest import Forest, pack, rows_of
from erc_llm.trees.likelihoods import answer_log_likelihoods
from erc_llm.trees.tree import Question, TokenTree

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel


@dataclass(frozen=True, eq=False)
class LabelScores:
    """The label scores of one target.

    Attributes:
        target: Position of the utterance in its dialogue.
        log_likelihoods: (labels,) log-probability of each label followed by its end tokens, in label order.
        state: (width,) last hidden state at the question's last token, from which an answer's first token is
            predicted; None unless asked for.
    """

    target: int
    log_likelihoods: np.ndarray
    state: np.ndarray | None = None

    @property
    def probabilities(self) -> np.ndarray:
        """(labels,) the log-likelihoods normalised over the label set."""
        shifted = np.exp(self.log_likelihoods - self.log_likelihoods.max())
        normalised: np.ndarray = shifted / shifted.sum()
        return normalised

    @property
    def label_mass(self) -> float:
        """Probability that free generation would give one of the labels and end there: a diagnostic, 0 to 1."""
        return float(np.exp(self.log_likelihoods).sum())


def score_trees(
    model: PreTrainedModel,
    trees: Sequence[TokenTree],
    *,
    tokens_per_forest: int = 4096,
    on_progress: Callable[[int], None] | None = None,
    states: bool = False,
) -> list[list[LabelScores]]:
    """Scores of every question of every tree, in the order of `trees`.

    Args:
        model: A causal LM loaded with the `erc_tree` attention; it is used in eval mode.
        trees: Token trees whose questions have all labels as answers.
        tokens_per_forest: Most tokens in one forward pass; bounds memory.
        on_progress: Called with the number of trees done.
        states: Keep the hidden state of every question too; it comes from the same forward pass.

    Raises:
        ModelError: The model does not use tree attention.
    """
    require_tree_attention(model)
    was_training = model.training
    model.eval()
    scores: dict[int, list[LabelScores]] = {}
    launched: _Launched | None = None
    try:
        with torch.inference_mode(), autocast(model):
            for group in batch_by_rows([rows_of(t) for t in trees], tokens_per_forest):
                before, launched = launched, None
                if len(group) == 1 and rows_of(trees[group[0]]) > tokens_per_forest:
                    scores[group[0]] = _score_on_cache(model, trees[group[0]], tokens_per_forest, states)
                else:
                    launched = _launch(model, trees, group, states)
                if before is not None:
                    scores |= _collect(before)
                if on_progress and scores:
                    on_progress(len(scores))
            if launched is not None:
                scores |= _collect(launched)
                if on_progress:
                    on_progress(len(scores))
    finally:
        model.train(was_training)
    return [scores[i] for i in range(len(trees))]


def batch_by_rows(rows: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Group indices, largest first, so that no group exceeds `budget` rows unless it is a single one."""
    order = sorted(range(len(rows)), key=lambda i: -rows[i])
    used: set[int] = set()
    for position, first in enumerate(order):
        if first in used:
            continue
        group, total = [first], rows[first]
        for other in order[position + 1 :]:
            if other not in used and total + rows[other] <= budget:
                group.append(other)
                used.add(other)
                total += rows[other]
        used.add(first)
        yield group


@dataclass(frozen=True, eq=False)
class _Launched:
    """A forest whose scores a GPU may still compute, while the next forest is packed.

    Attributes:
        group: Indices of its trees.
        trees: Its trees.
        values: (answers,) log-likelihoods, on the device of the model.
        states: (questions, width) hidden states, on the device of the model; None unless asked for.
    """

    group: Sequence[int]
    trees: Sequence[TokenTree]
    values: torch.Tensor
    states: torch.Tensor | None


def _launch(model: PreTrainedModel, trees: Sequence[TokenTree], group: Sequence[int], states: bool) -> _Launched:
    chosen = [trees[i] for i in group]
    forest = _on_device(pack(chosen), model.device)
    with reading_states(model, states) as seen:
        logits = forest_logits(model, forest)
    return _Launched(group, chosen, answer_log_likelihoods(logits, forest), _asked(seen, forest))


def _asked(seen: Sequence[torch.Tensor], forest: Forest) -> torch.Tensor | None:
    """(questions, width) states at the questions' last tokens, from those of the logit rows, if there are any."""
    return seen[0][0, forest.asked_rows].float() if seen else None


def _on_device(forest: Forest, device: torch.device) -> Forest:
    """The forest on a device; a GPU copies it while this process goes on."""
    return forest.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else forest.to(device)


def _collect(launched: _Launched) -> dict[int, list[LabelScores]]:
    """Wait for the scores of a forest; index of each of its trees to its scores."""
    questions = [question for tree in launched.trees for question in tree.questions]
    found = iter(_scores(questions, launched.values, launched.states))
    return {i: [next(found) for _ in tree.questions] for i, tree in zip(launched.group, launched.trees, strict=True)}


def _scores(questions: Sequence[Question], values: torch.Tensor, states: torch.Tensor | None) -> list[LabelScores]:
    """Scores of questions, from the values of all their answers, and the states of all if there are any."""
    numbers = values.double().cpu().numpy()
    kept = [None] * len(questions) if states is None else list(states.cpu().numpy())
    scores, position = [], 0
    for question, state in zip(questions, kept, strict=True):
        ordered = np.empty(len(question.labels))
        ordered[list(question.labels)] = numbers[position : position + len(question.answers)]
        scores.append(LabelScores(question.target, ordered, state))
        position += len(question.answers)
    return scores


def _score_on_cache(model: PreTrainedModel, tree: TokenTree, budget: int, states: bool) -> list[LabelScores]:
    """Read the trunk into a KV cache, `budget` tokens at a time; then score as many questions at a time as fit."""
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    for start in range(0, tree.trunk, budget):
        extend_trunk(model, cache, tree.token_ids[start : min(start + budget, tree.trunk)])
    sizes = [q.stop - q.start for q in tree.questions]
    results: dict[int, LabelScores] = {}
    for group in batch_by_rows(sizes, budget):
        found = score_questions(model, cache, tree, [tree.questions[i] for i in group], states)
        results |= zip(group, found, strict=True)
    return [results[i] for i in range(len(tree.questions))]


def extend_trunk(model: PreTrainedModel, cache: DynamicCache, ids: np.ndarray) -> None:
    """Read further trunk tokens, (tokens,) ids, into the cache; positions continue where the cache ends."""
    past = cache.get_seq_length()
    tokens = torch.as_tensor(ids, device=model.device)[None]
    positions = torch.arange(past, past + tokens.shape[1], device=model.device)
    mask = torch.arange(past + tokens.shape[1], device=model.device)[None, :] <= positions[:, None]
    with autocast(model):
        model(
            input_ids=tokens,
            position_ids=positions[None],
            attention_mask=mask[None, None],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            tree=True,
        )


def score_questions(
    model: PreTrainedModel, cache: DynamicCache, tree: TokenTree, questions: Sequence[Question], states: bool = False
) -> list[LabelScores]:
    """Scores of some of a tree's questions, computed on a KV cache.

    The cache may hold any beginning of the trunk; the rest is read in the same forward pass. Afterwards it holds
    exactly the trunk, ready for the next questions or the next line. With `states`, they keep their hidden states.
    """
    held = cache.get_seq_length()
    assert held <= tree.trunk, f"the cache holds {held} positions, the trunk has {tree.trunk}"
    branch = branches_only(tree, questions)
    packed = pack([branch])
    # An answer directly on the trunk needs the logits of that trunk token, so the token is read again.
    past = min(held, int(packed.logit_rows.min()))
    forest = packed.to(model.device)
    _shorten(cache, past)
    with autocast(model), reading_states(model, states) as seen:
        logits = model(
            input_ids=forest.input_ids[:, past:],
            position_ids=forest.position_ids[:, past:],
            attention_mask=_mask_behind(forest, past),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=forest.logit_rows - past,
            tree=True,
        ).logits[0]
    _shorten(cache, tree.trunk)
    return _scores(branch.questions, answer_log_likelihoods(logits, forest), _asked(seen, forest))


def _mask_behind(forest: Forest, past: int) -> torch.Tensor:
    """Return a (1, 1, rows - past, rows) mask: what a single tree's rows from `past` on may attend to."""
    layout, branches = forest.layouts[0], forest.masks.branches[0]
    rows = torch.arange(past, layout.trunk, device=forest.input_ids.device)
    causal = torch.arange(layout.stop, device=rows.device)[None, :] <= rows[:, None]
    return causal[None, None] if branches is None else torch.cat([causal[None, None], branches], dim=2)


def _shorten(cache: DynamicCache, length: int) -> None:
    excess = cache.get_seq_length() - length
    if excess > 0:
        cache.crop(-excess)


def verify_tree_attention(model: PreTrainedModel, tree: TokenTree, tolerance: float) -> None:
    """Check on one small tree that the packed forward pass equals the plain causal one; this is for untested models.

    Raises:
        ModelError: They differ by more than `tolerance` nats, so this architecture does not support token trees.
    """
    scored = score_trees(model, [tree])[0]
    with torch.inference_mode(), autocast(model):
        for question, scores in zip(tree.questions, scored, strict=True):
            for label, path in zip(question.labels, question.answers, strict=True):
                plain = _plain_log_likelihood(model, tree, path)
                if not math.isfinite(plain):
                    raise ModelError(
                        f"{type(model).__name__} gives no finite score on a plain prompt in {model.dtype}; set "
                        "model.precision=fp32"
                    )
                difference = abs(plain - float(scores.log_likelihoods[label]))
                if not difference <= tolerance:
                    raise ModelError(
                        f"{type(model).__name__} gives another answer on a token tree than on a plain prompt "
                        f"(log-likelihoods differ by {difference:.3g} nats, expected at most {tolerance}); "
                        "its layers are not supported"
                    )


def _plain_log_likelihood(model: PreTrainedModel, tree: TokenTree, path: Sequence[int]) -> float:
    """An answer's log-likelihood from a plain causal forward pass over its root path."""
    ids = torch.from_numpy(tree.token_ids[tree.root_path(path[-1])]).to(model.device)
    logits = model(input_ids=ids[None], use_cache=False, logits_to_keep=len(path) + 1).logits[0].float()
    return float(logits[:-1].log_softmax(-1).gather(1, ids[-len(path) :, None]).sum())


def branches_only(tree: TokenTree, questions: Sequence[Question]) -> TokenTree:
    """The same trunk with only some of its questions."""
    keep = np.concatenate([np.arange(tree.trunk), *(np.arange(q.start, q.stop) for q in questions)])
    new = np.full(len(tree), -1, dtype=np.int64)
    new[keep] = np.arange(len(keep))
    parent = tree.parent[keep]
    moved = tuple(
        Question(
            q.target,
            int(new[q.start]),
            int(new[q.stop - 1]) + 1,
            int(new[q.last]),
            q.labels,
            tuple(tuple(int(new[n]) for n in path) for path in q.answers),
            q.weight,
            q.gold,
        )
        for q in questions
    )
    return TokenTree(tree.token_ids[keep], np.where(parent >= 0, new[parent], -1), tree.trunk, moved)
