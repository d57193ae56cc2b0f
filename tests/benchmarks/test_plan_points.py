"""The plan against published measurements: within 15 %, tensors alone within 2 %."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.plan_points import Point, archived, base_weights, lengths, main, padded, plain_stack, points
from erc_llm.planning.architecture import adapter_shape, parse_architecture
from erc_llm.planning.bases import shipped_shapes
from erc_llm.planning.memory import Load, our_stack, training_peak


@pytest.mark.parametrize(
    "point", points(), ids=lambda point: f"{point.source}-{point.model}-{point.length}-{point.tensors}"
)
def test_a_published_point_is_met(point: Point) -> None:
    assert point.computed == pytest.approx(point.measured, rel=0.02 if point.tensors else 0.15)


def test_plain_trainers_keep_logits_of_every_position() -> None:
    name = "meta-llama/Llama-3.1-8B"
    architecture = parse_architecture(shipped_shapes()[name], name)
    adapter = adapter_shape(architecture, 16, "all-linear")
    ours, theirs = our_stack(quantised=True, compute=2), plain_stack(quantised=True, compute=2)
    assert padded(2, 512) == Load(1024, 1024)
    trees = training_peak(architecture, adapter, ours, Load(2048, 200), checkpointing=True)
    plain = training_peak(architecture, adapter, theirs, padded(1, 2048), checkpointing=True)
    assert plain.when == "the loss"
    assert plain.total > trees.total + 4 * 10**9


def test_points_without_a_length_are_computed_at_a_plausible_one() -> None:
    assert [500 < length < 4096 for _, _, length in lengths()] == [True, True, True]
    assert max(size for _, size in base_weights()) < 5048e6


def test_it_prints_tables_and_reads_an_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = {
        "hidden_size": 2048,
        "num_layers": 22,
        "num_attention_heads": 32,
        "num_kv_heads": 4,
        "intermediate_size": 5632,
        "vocab_size": 32000,
        "head_dim": 64,
        "tie_word_embeddings": False,
    }
    run = {"batch_size": 2, "seq_len": 1024, "lora_rank": 32, "lora_targets": ["q_proj", "k_proj", "v_proj", "o_proj"]}
    row = {
        "model_id": "a/tiny-llama",
        "run": run | {"kernel": "flash", "quantization": "nf4"},
        "measured": {"peak_allocated_mib": 2532},
        "predicted": {"total_mib": 3128, "overhead_mib": 618},
        "model_config": shape,
    }
    eager = row | {"run": run | {"kernel": "eager", "quantization": "nf4"}}
    (tmp_path / "rows.json").write_text(json.dumps({"runs": [row, eager]}), "utf-8")
    assert [point.computed for point in archived(tmp_path)] == [pytest.approx(2532 * 2**20, rel=0.02)]
    monkeypatch.setattr("sys.argv", ["plan_points", "--archive", str(tmp_path)])
    main()
    printed = capsys.readouterr().out
    assert "| fitcheck-llm, T4 | Mistral-7B-Instruct-v0.3 | 1 x 1,024 | tensors | 5.91 |" in printed
    assert "the whole archive: 1 points, tensors" in printed
