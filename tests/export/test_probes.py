"""Probes: written, read back, scored plainly, and compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from erc_llm.errors import RunError
from erc_llm.export.plain_scores import plain_scores
from erc_llm.export.probes import PROBES, Probe, drift, read_probes, write_probes
from tests.tiny_models import TinyModel

ANSWERS = ((7, 8), (9,), (7, 10, 11))


def by_hand(model: torch.nn.Module, prompt: tuple[int, ...], answer: tuple[int, ...]) -> float:
    with torch.inference_mode():
        scores = torch.log_softmax(model(torch.tensor([[*prompt, *answer]])).logits[0].double(), dim=-1)
    return sum(float(scores[len(prompt) - 1 + k, token]) for k, token in enumerate(answer))


def test_plain_scores_are_those_of_each_row_by_itself(tiny_llama: TinyModel, tmp_path: Path) -> None:
    prompts = [(3, 4, 5, 6), (20, 21)]
    expected = [[by_hand(tiny_llama.model, prompt, answer) for answer in ANSWERS] for prompt in prompts]
    probes = [Probe(prompt, ANSWERS, tuple(row)) for prompt, row in zip(prompts, expected, strict=True)]
    write_probes(tmp_path, probes)
    assert read_probes(tmp_path) == tuple(probes)
    found = plain_scores(tiny_llama.model, probes)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert drift(probes, found).largest < 1e-5
    assert drift(probes, found).flips == 0


def test_single_token_answers_need_one_pass(tiny_llama: TinyModel) -> None:
    answers = ((7,), (9,))
    probe = Probe((3, 4), answers, (0.0, 0.0))
    expected = [by_hand(tiny_llama.model, (3, 4), answer) for answer in answers]
    np.testing.assert_allclose(plain_scores(tiny_llama.model, [probe])[0], expected, rtol=0, atol=1e-5)


def test_drift_is_of_probabilities_over_the_labels() -> None:
    probes = [
        Probe((1,), ((2,), (3,)), tuple(np.log([0.3, 0.1]))),
        Probe((1,), ((2,), (3,)), tuple(np.log([0.2, 0.2]))),
    ]
    found = drift(probes, np.log([[0.03, 0.01], [0.1, 0.3]]))
    assert found.largest == pytest.approx(0.25)
    assert found.mean == pytest.approx(0.125)
    assert found.flips == 1


def test_damaged_probes_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="export the run again"):
        read_probes(tmp_path)
    (tmp_path / PROBES).write_text('[{"prompt": 3}]')
    with pytest.raises(RunError, match="export the run again"):
        read_probes(tmp_path)
