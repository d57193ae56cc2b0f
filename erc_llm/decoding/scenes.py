"""Label scores of whole scenes, in one pass or in two, of which the second states what the first one predicted.

A prompt lists the labels in some order. Averaging over K orders is averaging the probabilities of the label sequences:
the likelihoods of a reader who gets one of the K prompts at random. So log-likelihoods keep their meaning, label mass
too, and probabilities are, as ever, likelihoods normalised over the labels. It costs K times the time of one order.

Input: a model, a prompter, dialogues. Output: `LabelScores` of every asked target, scene by scene.
Does not depend on: runs, tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from erc_llm.corpus.dialogues import Dialogue
from erc_llm.decoding.scoring import LabelScores, score_trees
from erc_llm.predictions import Prediction
from erc_llm.prompting.prompter import Prompter, scoring_orders

if TYPE_CHECKING:
    from transformers import PreTrainedModel

State = Sequence[str | None]


def score_scenes(
    model: PreTrainedModel,
    prompter: Prompter,
    dialogues: Sequence[Dialogue],
    answers: Literal["all", "gold_all"] = "all",
    *,
    passes: Literal[1, 2] = 1,
    label_orders: int = 1,
    seed: int = 0,
    tokens_per_forest: int = 4096,
    on_progress: Callable[[int], None] | None = None,
) -> list[list[LabelScores]]:
    """Scores of the targets of every dialogue, in order.

    Args:
        model: A model with token tree attention.
        prompter: Makes the trees.
        dialogues: The scenes.
        answers: Which targets are asked about, see `Prompter.trees`.
        passes: 2: all targets are asked first without, then with what the first pass answered for earlier lines.
        label_orders: Orders of the labels in the prompt to average over in each pass.
        seed: Draws these orders, scene by scene; the first one is always the canonical.
        tokens_per_forest: Most tokens of one forward.
        on_progress: Gets how much of the last pass is done, in dialogues.
    """
    states: list[State | None] = [None] * len(dialogues)
    orders = [scoring_orders(prompter.labels, label_orders, seed, dialogue.id) for dialogue in dialogues]
    if passes == 2:
        first = _score(model, prompter, dialogues, "all", orders, states, tokens_per_forest, None)
        states = [state_of(d, s, prompter.labels.names) for d, s in zip(dialogues, first, strict=True)]
    return _score(model, prompter, dialogues, answers, orders, states, tokens_per_forest, on_progress)


def state_of(dialogue: Dialogue, scores: Sequence[LabelScores], names: Sequence[str]) -> State:
    """The predicted label of each line; None where it was not asked about."""
    state: list[str | None] = [None] * len(dialogue.utterances)
    for score in scores:
        state[score.target] = names[int(score.log_likelihoods.argmax())]
    return state


def _score(
    model: PreTrainedModel,
    prompter: Prompter,
    dialogues: Sequence[Dialogue],
    answers: Literal["all", "gold_all"],
    orders: Sequence[Sequence[Sequence[str]]],
    states: Sequence[State | None],
    tokens_per_forest: int,
    on_progress: Callable[[int], None] | None,
) -> list[list[LabelScores]]:
    trees = [
        (i, tree)
        for i, (dialogue, state) in enumerate(zip(dialogues, states, strict=True))
        for order in orders[i]
        for tree in prompter.trees(dialogue, answers, label_order=order, state=state)
    ]
    done = None if on_progress is None else lambda n: on_progress(n * len(dialogues) // len(trees))
    scored = score_trees(model, [t for _, t in trees], tokens_per_forest=tokens_per_forest, on_progress=done)
    results: list[list[LabelScores]] = [[] for _ in dialogues]
    for (i, _), scores in zip(trees, scored, strict=True):
        results[i] += scores
    return [_mean_of_orders(found, len(order)) for found, order in zip(results, orders, strict=True)]


def _mean_of_orders(scores: Sequence[LabelScores], orders: int) -> list[LabelScores]:
    """One score per target from those of each order, which stand one order after the other."""
    targets = len(scores) // orders
    return [mean_score(scores[k::targets]) for k in range(targets)]


def mean_score(scores: Sequence[LabelScores]) -> LabelScores:
    """The scores of one target under several prompts, averaged as probabilities."""
    first, *others = scores
    if not others:
        return first
    assert all(s.target == first.target for s in others)
    together: np.ndarray = np.logaddexp.reduce([s.log_likelihoods for s in scores], axis=0)
    return LabelScores(first.target, together - np.log(len(scores)))


def scored_prediction(scores: LabelScores, names: Sequence[str]) -> Prediction:
    """The row of a target from its scores: the most probable label, and the distribution; `names` in label order."""
    return Prediction(
        predicted=names[int(scores.log_likelihoods.argmax())],
        log_likelihoods=scores.log_likelihoods.tolist(),
        probabilities=scores.probabilities.tolist(),
        label_mass=min(scores.label_mass, 1.0),
    )
