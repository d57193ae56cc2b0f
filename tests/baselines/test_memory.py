"""Memories: what a half-life weighs, what padding must not change, which way gradients flow."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from erc_llm.baselines.baseline_config import BaselineConfig
from erc_llm.baselines.batches import Padded, epoch_batches, pad
from erc_llm.baselines.build import LoadedBaseline, build
from erc_llm.baselines.compm import MemoryClassifier
from erc_llm.baselines.inference import probabilities, snapshot_of
from erc_llm.baselines.inputs import Example
from erc_llm.baselines.memory import SpeakerMemory, take_snapshot, weights_of
from erc_llm.corpus.history import fading
from tests.baselines.small import baseline_config, small_corpus, writer_of
from tests.tiny_models import TinyModel

FULL = {"speaker": {"behaviour": True}}


def _loaded(model: TinyModel, tmp_path: Path, **sections: object) -> tuple[LoadedBaseline, list[Example]]:
    config = baseline_config(model, tmp_path, **sections)
    corpus = small_corpus()
    return build(config, len(corpus.labels)), writer_of(config, model, corpus).examples(corpus.dialogues())


@pytest.mark.parametrize("half_life", [0.5, 4.0, 32.0])
def test_a_weight_is_a_half_to_the_power_of_distance_over_half_life(half_life: float) -> None:
    weights = weights_of(torch.tensor([5, 2, 0]), 5, half_life)
    for row, length in zip(weights.tolist(), (5, 2, 0), strict=True):
        expected = [fading(length - i, half_life) for i in range(length)]
        assert row[:length] == pytest.approx([w / sum(expected) for w in expected], rel=1e-5)
        assert row[length:] == [0.0] * (5 - length)


def test_halving_the_half_life_squares_the_ratio_of_neighbours() -> None:
    """0.5 ** (d / (h / 2)) is 0.5 ** (d / h) squared; the ratio of neighbours is 0.5 ** (1 / h)."""
    lengths = torch.tensor([6])
    slow, fast = (weights_of(lengths, 6, half_life)[0] for half_life in (8.0, 4.0))
    assert (slow[:-1] / slow[1:]).tolist() == pytest.approx([0.5 ** (1 / 8)] * 5, rel=1e-5)
    assert (fast[:-1] / fast[1:]).tolist() == pytest.approx([0.5 ** (2 / 8)] * 5, rel=1e-5)
    assert fast[-1] > slow[-1]


def test_a_very_short_half_life_is_the_recurrence_alone() -> None:
    lengths = torch.tensor([4, 1, 0])
    assert torch.allclose(weights_of(lengths, 4, 1e-3), weights_of(lengths, 4, None))
    assert weights_of(lengths, 4, None).tolist() == [[0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert weights_of(torch.tensor([4000]), 4000, 1e-6).isfinite().all()


@pytest.mark.parametrize(("size", "half_life"), [(8, None), (5, None), (5, 2.0)])
def test_an_empty_memory_adds_nothing_and_padding_changes_nothing(size: int, half_life: float | None) -> None:
    torch.manual_seed(0)
    memory = SpeakerMemory(8, size, 2, 0.0, half_life).eval()
    vectors = torch.randn(3, 4, 8)
    lengths = torch.tensor([4, 2, 0])
    together = memory(vectors, lengths)
    assert together.shape == (3, 8)
    assert together[2].abs().sum() == 0
    for i, length in enumerate(lengths.tolist()):
        alone = memory(vectors[i : i + 1, :length], lengths[i : i + 1])
        assert torch.allclose(alone[0], together[i], atol=1e-6)


@pytest.mark.parametrize("sections", [{"kind": "encoder"}, {"kind": "compm"}, FULL], ids=["encoder", "compm", "emonet"])
@pytest.mark.parametrize("encoding", ["cached", "end_to_end"])
def test_a_batch_of_mixed_lengths_answers_as_one_by_one(
    tiny_bert: TinyModel, tmp_path: Path, sections: dict[str, object], encoding: str
) -> None:
    loaded, examples = _loaded(tiny_bert, tmp_path, memory={"encoding": encoding}, **sections)
    assert len({len(e.context) for e in examples}) > 5
    together = probabilities(loaded, examples)
    for i in range(0, len(examples), 7):
        assert probabilities(loaded, [examples[i]])[0] == pytest.approx(together[i], abs=1e-5)
    assert together.std(axis=0).max() > 1e-3, "answers differ, so that equality means something"


def test_every_remembered_utterance_is_embedded_once(tiny_bert: TinyModel, tmp_path: Path) -> None:
    loaded, examples = _loaded(tiny_bert, tmp_path, **FULL)
    assert isinstance(loaded.model, MemoryClassifier)
    seen: list[tuple[int, ...]] = []

    def embed(texts: Padded) -> torch.Tensor:
        seen.extend(tuple(row[: int(n)].tolist()) for row, n in zip(texts.ids, texts.mask.sum(1), strict=True))
        return torch.zeros(len(texts.ids), loaded.hidden)

    take_snapshot(embed, examples, loaded.padding, loaded.hidden, loaded.device)
    remembered = [ids for example in examples for ids in example.memory]
    assert len(remembered) > len(set(remembered)) > 10
    assert sorted(seen) == sorted(set(remembered))


@pytest.mark.parametrize("encoding", ["cached", "end_to_end"])
def test_gradients_reach_the_second_encoder_end_to_end_only(
    tiny_bert: TinyModel, tmp_path: Path, encoding: str
) -> None:
    loaded, examples = _loaded(tiny_bert, tmp_path, memory={"encoding": encoding}, **FULL)
    model = loaded.model
    assert isinstance(model, MemoryClassifier)
    model.train()
    assert model.remembering.training == (encoding == "end_to_end")
    rows = [e for e in examples if e.memory][:4]
    if encoding == "cached":
        snapshot = snapshot_of(loaded, rows)
    else:
        snapshot = take_snapshot(model.remembering, rows, loaded.padding, loaded.hidden, loaded.device)
    assert snapshot is not None
    contexts = pad([e.context for e in rows], loaded.padding, loaded.device)
    model(contexts, *snapshot.histories(rows)).square().sum().backward()
    gradients = [p.grad for p in model.remembering.parameters() if p.requires_grad and p.grad is not None]
    assert bool(gradients) == (encoding == "end_to_end")
    assert all(p.grad is not None for name, p in model.named_parameters() if p.requires_grad)


def test_recomputed_activations_give_the_same_gradients(tiny_bert: TinyModel, tmp_path: Path) -> None:
    found = []
    for recompute in (False, True):
        section = {"training": {"gradient_checkpointing": recompute}, "memory": {"encoding": "end_to_end"}}
        loaded, examples = _loaded(tiny_bert, tmp_path, **section)
        model = loaded.model.train()
        assert isinstance(model, MemoryClassifier)
        rows = [e for e in examples if e.memory][:4]
        torch.manual_seed(5)
        snapshot = take_snapshot(model.remembering, rows, loaded.padding, loaded.hidden, loaded.device)
        contexts = pad([e.context for e in rows], loaded.padding, loaded.device)
        model(contexts, *snapshot.histories(rows)).square().sum().backward()
        assert model.context.backbone.is_gradient_checkpointing == recompute
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found, strict=True))


def test_batches_hold_every_example_once_and_rows_of_like_length() -> None:
    lengths = [(7 * i) % 50 + 1 for i in range(203)]
    batches = epoch_batches(lengths, 10, seed=1, epoch=0)
    assert sorted(i for batch in batches for i in batch) == list(range(203))
    assert sorted(map(len, batches)) == [3] + [10] * 20
    padding = sum(max(lengths[i] for i in b) * len(b) for b in batches) / sum(lengths)
    assert padding < 1.1
    assert epoch_batches(lengths, 10, seed=1, epoch=0) == batches
    assert batches not in (epoch_batches(lengths, 10, 1, 1), epoch_batches(lengths, 10, 2, 0))


def test_the_encoder_of_a_config_is_checked(tiny_bert: TinyModel, tmp_path: Path) -> None:
    from erc_llm.errors import ConfigError

    config: BaselineConfig = baseline_config(tiny_bert, tmp_path, encoder={"max_tokens": 129})
    with pytest.raises(ConfigError, match=r"encoder.max_tokens: 129 tokens, but .* reads at most 128"):
        build(config, 7)
