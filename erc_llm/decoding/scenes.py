"""Label scores of whole scenes, in one pass or in two; in the second, questions state the first one's predictions.

A prompt lists the labels in some order. Averaging over K orders averages the probabilities of the label sequences, as
if one of the K prompts were drawn at random. So log-likelihoods and label mass keep their meaning, and probabilities
are likelihoods normalised over the labels as usual. It takes K times as long as one order.

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
    states: bool = False,
) -> list[list[LabelScores]]:
    """Scores of the targets of every dialogue, in order.

    Args:
        model: A model with token tree attention.
        prompter: Builds the trees.
        dialogues: The dialogues.
        answers: The targets to ask about, see `Prompter.trees`.
        passes: 2: a first pass without state, then a second one whose questions state the first one's predictions for
            earlier lines.
        label_orders: Number of orders of the labels in the prompt to average over in each pass.
        seed: Seed of these orders for each scene; the first order is always the canonical one.
        tokens_per_forest: Most tokens of one forward pass.
        on_progress: Called with the number of dialogues done in the last pass.
        states: Keep the hidden state of every question of the last pass; over several orders, their mean.
    """
    stated: list[State | None] = [None] * len(dialogues)
    orders = [scoring_orders(prompter.labels, label_orders, seed, dialogue.id) for dialogue in dialogues]
    if passes == 2:
        first = _score(model, prompter, dialogues, "all", orders, stated, tokens_per_forest, None, False)
        stated = [state_of(d, s, prompter.labels.names) for d, s in zip(dialogues, first, strict=True)]
    return _score(model, prompter, dialogues, answers, orders, stated, tokens_per_forest, on_progress, states)


def state_of(dialogue: Dialogue, scores: Sequence[LabelScores], names: Sequence[str]) -> State:
    """The predicted label of each line; None for a line without a question."""
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
    stated: Sequence[State | None],
    tokens_per_forest: int,
    on_progress: Callable[[int], None] | None,
    states: bool,
) -> list[list[LabelScores]]:
    trees = [
        (i, tree)
        for i, (dialogue, state) in enumerate(zip(dialogues, stated, strict=True))
        for order in orders[i]
        for tree in prompter.trees(dialogue, answers, label_order=order, state=state)
    ]
    done = None if on_progress is None else lambda n: on_progress(n * len(dialogues) // len(trees))
    scored = score_trees(
        model, [t for _, t in trees], tokens_per_forest=tokens_per_forest, on_progress=done, states=states
    )
    results: list[list[LabelScores]] = [[] for _ in dialogues]
    for (i, _), scores in zip(trees, scored, strict=True):
        results[i] += scores
    return [_mean_of_orders(found, len(order)) for found, order in zip(results, orders, strict=True)]


def _mean_of_orders(scores: Sequence[LabelScores], orders: int) -> list[LabelScores]:
    """One score per target, from scores that are listed order by order."""
    targets = len(scores) // orders
    return [mean_score(scores[k::targets]) for k in range(targets)]


def mean_score(scores: Sequence[LabelScores]) -> LabelScores:
    """The scores of one target under several prompts, averaged as probabilities."""
    first, *others = scores
    if not others:
        return first
    assert all(s.target == first.target for s in others)
    together: np.ndarray = np.logaddexp.reduce([s.log_likelihoods for s in scores], axis=0)
    states = [s.state for s in scores if s.state is not None]
    return LabelScores(first.target, together - np.log(len(scores)), np.mean(states, axis=0) if states else None)


def scored_prediction(scores: LabelScores, names: Sequence[str]) -> Prediction:
    """The row of a target from its scores: the most probable label, and the distribution; `names` in label order."""
    return Prediction(
        predicted=names[int(scores.log_likelihoods.argmax())],
        log_likelihoods=scores.log_likelihoods.tolist(),
        probabilities=scores.probabilities.tolist(),
        label_mass=min(scores.label_mass, 1.0),
    )
