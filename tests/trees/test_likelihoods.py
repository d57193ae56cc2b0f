"""Log-likelihoods of answers: torch's own values, and torch's own gradients."""

import pytest
import torch

from erc_llm.trees import likelihoods
from erc_llm.trees.forest import pack
from erc_llm.trees.likelihoods import answer_log_likelihoods
from erc_llm.trees.tree import TreeBuilder
from tests.trees.random_trees import VOCABULARY, random_tree


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


@pytest.mark.parametrize("together", [1, 3, 10**6])
def test_likelihoods_do_not_depend_on_how_many_rows_are_cast_at_once(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    forest = pack([random_tree(3), random_tree(4)])
    results = []
    for rows in (16, together):
        monkeypatch.setattr(likelihoods, "rows_together", lambda _, rows=rows: rows)
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(len(forest.logit_rows), VOCABULARY + 2, generator=generator).requires_grad_()
        values = likelihoods.answer_log_likelihoods(logits, forest)
        values.sum().backward()
        results.append((values, logits.grad))
    (expected, slope), (found, gradient) = results
    assert torch.equal(found, expected)
    assert torch.equal(gradient, slope)


@pytest.mark.parametrize(("vocabulary", "rows"), [(32_000, 2097), (128_256, 523), (10**7, 16)])
def test_a_gpu_casts_as_many_rows_as_fit_a_quarter_of_a_gigabyte(vocabulary: int, rows: int) -> None:
    class OnGpu:
        device, shape = torch.device("cuda:0"), (5000, vocabulary)

    assert likelihoods.rows_together(OnGpu()) == rows  # type: ignore[arg-type]
    assert likelihoods.rows_together(torch.zeros(5000, 3)) == 16, "on a CPU they must fit the cache"
