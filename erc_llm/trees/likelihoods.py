"""Log-likelihoods of a forest's answers, computed from its logits.

Input: logits at the rows that predict answer tokens. Output: one differentiable number per answer.
Does not depend on: models.
"""

from __future__ import annotations

from typing import Any

import torch

from erc_llm.trees.forest import Forest

_CPU_ROWS = 16  # rows of logits cast to fp32 at once; those of a whole forest exceed the cache: four times slower
_GPU_NUMBERS = 2**26  # a GPU casts many rows at once, since each call costs time; this many numbers are 256 MiB in fp32


def answer_log_likelihoods(logits: torch.Tensor, forest: Forest) -> torch.Tensor:
    """(answers,) float32 sum of log-probabilities over each answer's tokens, end tokens included.

    `logits` is (logit rows, vocabulary) as from `forest_logits`.
    """
    edges: torch.Tensor = _LogProbabilities.apply(logits, forest.edge_row, forest.edge_token)  # type: ignore[no-untyped-call]
    total = torch.zeros(forest.answers, dtype=edges.dtype, device=edges.device)
    return total.index_add(0, forest.pair_answer, edges[forest.pair_edge])


def rows_together(logits: torch.Tensor) -> int:
    """Number of rows of (rows, vocabulary) logits that are cast to fp32 at once."""
    if logits.device.type == "cpu":
        return _CPU_ROWS
    return max(_CPU_ROWS, _GPU_NUMBERS // logits.shape[1])


class _LogProbabilities(torch.autograd.Function):
    """(edges,) float32 log-probability of a token, given a row of logits (rows, vocabulary) in any precision.

    The gradient is explicit because it needs three passes over a few rows at a time; autograd needs eight passes over
    fp32 copies of all logits.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, row: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        normaliser = torch.cat([part.float().logsumexp(dim=-1) for part in logits.split(rows_together(logits))])
        ctx.save_for_backward(logits, normaliser, row, token)
        return logits[row, token].float() - normaliser[row]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """d log p(token) / d logits = [is the token] - p, times the edge's gradient, summed over a row's edges."""
        logits, normaliser, row, token = ctx.saved_tensors
        (gradient,) = gradients
        of_row = torch.zeros_like(normaliser).index_add(0, row, gradient)
        result = torch.empty_like(logits)
        together = rows_together(logits)
        parts = (tensor.split(together) for tensor in (logits, normaliser, of_row, result))
        for part, lse, scale, out in zip(*parts, strict=True):
            out.copy_(torch.sub(part.float(), lse[:, None]).exp_().mul_(-scale[:, None]))
        result.index_put_((row, token), gradient.to(result.dtype), accumulate=True)
        return result, None, None
