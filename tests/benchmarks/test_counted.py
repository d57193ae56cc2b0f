"""Operations are counted by torch at a shape; a tree costs as many tokens' worth as it has."""

from __future__ import annotations

import pytest

from benchmarks import counted
from benchmarks.random_llama import SHAPES, Shape


@pytest.mark.slow
def test_a_tree_costs_less_than_its_prompts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = Shape(1024, 2752, 5, 8, 512, 0.0)
    monkeypatch.setitem(SHAPES, "llama2-7b", shape)
    tree, rows = counted.count("sample", "llama2-7b-qlora", ["model.base=smollm2-135m-instruct"], 2, 4096)
    assert 2 < rows.tokens / tree.tokens < 20
    linear = shape.layers * (4 * 1024**2 + 3 * 1024 * 2752)
    for side in (tree, rows):  # forward, recomputation and gradients, each 2 operations a weight; then LoRA, attention
        assert 6 * linear < side.operations / side.tokens < 10 * linear
        assert side.passes == pytest.approx(3 * side.tokens / 4096)
    counted.print_sides((tree, rows), counted.Console(width=120))
    assert "one prompt per utterance" in capsys.readouterr().out
