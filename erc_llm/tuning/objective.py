"""Training losses, one per target of a forest.

`label` is the negative log-likelihood of the gold label's tokens, including end tokens. It also trains the model to
answer with labels only. `closed_set` is the same after normalising over all labels: the cross-entropy of the
distribution that scoring gives. It moves probability between labels, and does not train their sum. Label smoothing
replaces the gold label by a distribution over the labels, in questions about the label only. R-Drop adds the divergence
between two passes with different dropout, in all questions.

Input: the log-likelihoods of a forest's answers. Output: one loss per question.
Does not depend on: optimizer steps, what weights mean, models.
"""

from __future__ import annotations

from typing import Literal

import torch

from erc_llm.errors import InternalError
from erc_llm.trees.forest import Forest

Objective = Literal["label", "closed_set"]


def target_losses(
    likelihoods: torch.Tensor, forest: Forest, objective: Objective, smoothed: torch.Tensor | None = None
) -> torch.Tensor:
    """(questions,) loss of each target in nats.

    Args:
        likelihoods: (answers,) log-likelihoods from `answer_log_likelihoods`.
        forest: The forest with these answers; under `closed_set` its questions have all labels as answers.
        objective: The kind of loss. A question with one answer alone, such as a line's own words, always has `label`.
        smoothed: (labels, labels) distribution to be learned for each gold label (row), under `closed_set` only; None:
            the gold label alone.
    """
    if objective == "label":
        return -likelihoods[forest.gold]
    wanted = likelihoods[forest.gold] if smoothed is None else expected_log_likelihood(likelihoods, forest, smoothed)
    total = total_log_likelihood(likelihoods, forest)
    closed = forest.question.bincount(minlength=len(forest.gold)) > 1  # a line's own words have no other answers
    return torch.where(closed, total, 0) - wanted


def expected_log_likelihood(likelihoods: torch.Tensor, forest: Forest, smoothed: torch.Tensor) -> torch.Tensor:
    """(questions,) mean log-likelihood of the answers under the distribution to be learned, in nats.

    With it `total - expected` is the cross-entropy against that distribution (Szegedy et al., "Rethinking the Inception
    Architecture for Computer Vision", 2016, section 7). Auxiliary questions have the log-likelihood of their gold
    answer.

    Args:
        likelihoods: (answers,) log-likelihoods.
        forest: The forest; a question about the label has all labels as answers.
        smoothed: (labels, labels) the distribution for each gold label (row); rows sum to 1.
    """
    about_label = forest.about_label[forest.question]
    gold = forest.label[forest.gold][forest.question]
    shares = smoothed[gold * about_label, forest.label * about_label]  # indices of auxiliary answers are no labels
    expected = likelihoods.new_zeros(len(forest.gold)).index_add(0, forest.question, shares * likelihoods)
    return torch.where(forest.about_label, expected, likelihoods[forest.gold])


def divergence(one: torch.Tensor, other: torch.Tensor, forest: Forest) -> torch.Tensor:
    """(questions,) mean of KL(p || q) and KL(q || p) in nats, for two distributions over a question's answers.

    KL(p || q) + KL(q || p) is the sum of (p - q)(log p - log q) over the answers. Gradients flow into both. Source:
    Liang et al., "R-Drop: Regularized Dropout for Neural Networks", 2021, equation 2.

    Args:
        one: (answers,) log-likelihoods of one pass.
        other: (answers,) log-likelihoods of another pass.
        forest: The forest that both read.
    """
    p, q = (likelihoods - total_log_likelihood(likelihoods, forest)[forest.question] for likelihoods in (one, other))
    terms = (p.exp() - q.exp()) * (p - q) / 2
    return terms.new_zeros(len(forest.gold)).index_add(0, forest.question, terms)


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
