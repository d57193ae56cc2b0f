"""Training losses, one per target of a forest.

`label` is the negative log-likelihood of the gold label's tokens, including end tokens. It also trains the model to
answer with labels only. `closed_set` is the same after normalising over all labels: the cross-entropy of the
distribution that scoring gives. It moves probability between labels, and does not train their sum.

Input: the log-likelihoods of a forest's answers. Output: one loss per question.
Does not depend on: optimizer steps, what weights mean, models.
"""

from __future__ import annotations

from typing import Literal

import torch

from erc_llm.errors import InternalError
from erc_llm.trees.forest import Forest

Objective = Literal["label", "closed_set"]


def target_losses(likelihoods: torch.Tensor, forest: Forest, objective: Objective) -> torch.Tensor:
    """(questions,) loss of each target in nats.

    Args:
        likelihoods: (answers,) log-likelihoods from `answer_log_likelihoods`.
        forest: The forest with these answers; under `closed_set` its questions have all labels as answers.
        objective: The kind of loss.
    """
    gold = likelihoods[forest.gold]
    return -gold if objective == "label" else total_log_likelihood(likelihoods, forest) - gold


def total_log_likelihood(likelihoods: torch.Tensor, forest: Forest) -> torch.Tensor:
    """(questions,) log of the summed probabilities of a question's answers; `likelihoods` is (answers,), in nats."""
    questions = len(forest.gold)
    top = likelihoods.new_full((questions,), -torch.inf).scatter_reduce(
        0, forest.question, likelihoods.detach(), "amax"
    )
    shifted = (likelihoods - top[forest.question]).exp()
    return top + likelihoods.new_zeros(questions).index_add(0, forest.question, shifted).log()


def target_weights(forest: Forest) -> torch.Tensor:
    """(questions,) weight of each target."""
    return forest.weights[forest.gold]


def require_gold(forest: Forest) -> None:
    """Check that every question has its gold answer.

    Raises:
        InternalError: A question has none, so the loss would be that of another answer.
    """
    if bool((forest.gold < 0).any()):
        raise InternalError("a question in training has no gold answer among its answers")
