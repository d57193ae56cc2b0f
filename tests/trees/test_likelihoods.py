"""Log-likelihoods of answers: torch's own values, and torch's own gradients."""

import pytest
import torch

from erc_llm.trees.forest import pack
from erc_llm.trees.likelihoods import answer_log_likelihoods
from erc_llm.trees.tree import TreeBuilder


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_values_and_gradients_are_those_of_log_softmax(precision: torch.dtype) -> None:
    """Twenty questions, more rows than are made fp32 together; an answer that begins another shares its tokens."""
    builder = TreeBuilder()
    trunk = builder.add_trunk("line", [1, 2, 3])
    for i in range(20):
        builder.add_question(i, trunk, [("question", [4, i])], [(0, [7, 9]), (1, [8, 9]), (2, [7, 8, 9])])
    forest = pack([builder.build()])
    rows, answers = len(forest.logit_rows), forest.answers
    assert (rows, answers) == (20 * 4, 60)
    assert len(forest.pair_edge) > len(forest.edge_row)  # some tokens are of two answers
    generator = torch.Generator().manual_seed(1)
    logits = (3 * torch.randn(rows, 30, generator=generator)).to(precision).requires_grad_()
    upstream = torch.randn(answers, generator=generator)

    found = answer_log_likelihoods(logits, forest)
    (gradient,) = torch.autograd.grad(found, logits, upstream)

    exact = logits.detach().double().requires_grad_()
    edges = exact.log_softmax(-1)[forest.edge_row, forest.edge_token]
    expected = torch.zeros(answers, dtype=torch.float64).index_add(0, forest.pair_answer, edges[forest.pair_edge])
    (expected_gradient,) = torch.autograd.grad(expected, exact, upstream.double())
    assert found.dtype == torch.float32
    assert gradient.dtype == precision
    assert torch.allclose(found.double(), expected, atol=1e-4)
    tolerance = 1e-5 if precision == torch.float32 else 2e-2  # bf16 keeps three digits of a gradient
    assert torch.allclose(gradient.double(), expected_gradient, atol=tolerance)
    assert float(expected_gradient.abs().max()) > 0.5
