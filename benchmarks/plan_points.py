"""The plan against published measurements of other trainers, and against the predictions of fitcheck-llm.

Other trainers compute logits at every position of a padded batch, and most keep what is not 4-bit in fp32. The plan's
functions compute that layout too, with the stack of such a trainer. No GPU is used.

Input: the points below; with `--archive`, the folder `data/measurements` of fitcheck-llm's source distribution. Output:
a Markdown table of measured and computed memory.
Does not depend on: torch, a GPU.

    python -m benchmarks.plan_points
    python -m benchmarks.plan_points --archive fitcheck_llm-0.3.1/data/measurements
"""

from __future__ import annotations

import argparse
import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from erc_llm.planning.architecture import adapter_shape, parse_architecture
from erc_llm.planning.bases import shipped_shapes
from erc_llm.planning.cards import GIB, MIB
from erc_llm.planning.memory import Load, Peak, Stack, training_peak, weight_components

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_OTHER_SHAPES: dict[str, dict[str, Any]] = {
    "deepseek-ai/deepseek-coder-1.3b-instruct": {
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 5504,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "vocab_size": 32256,
    },
}


@dataclass(frozen=True, slots=True)
class Point:
    """A published measurement of LoRA or QLoRA training with plain libraries.

    Attributes:
        source: Who published it.
        model: Hub id of the base model.
        batch: Sequences in a batch.
        length: Positions of each.
        measured: Bytes.
        rank: Rank of the adapter.
        targets: Its `target_modules`.
        tensors: Whether tensors alone were measured; else all memory of the process or card.
        quantised: Whether the base is NF4.
        double: Whether its scales are quantised too.
        predicted: What fitcheck-llm predicts for the same quantity, in bytes; None if nothing was published.
    """

    source: str
    model: str
    batch: int
    length: int
    measured: float
    rank: int = 16
    targets: str | tuple[str, ...] = _ATTENTION
    tensors: bool = True
    quantised: bool = True
    double: bool = False
    predicted: float | None = None

    @property
    def computed(self) -> int:
        """Bytes of the same quantity by the plan."""
        peak = plain_peak(self)
        return peak.tensors if self.tensors else peak.total


def plain_stack(*, quantised: bool, compute: int, double: bool = False) -> Stack:
    """transformers and PEFT without changes.

    `prepare_model_for_kbit_training` casts everything that is not 4-bit to fp32, and with it the residual stream. The
    loss keeps fp32 logits, their log-softmax, and the gradients of both; in 16 bits also half of a 16-bit copy.
    """
    kept = 4 if quantised else compute
    return Stack(quantised, double, compute, kept, kept, 16 if kept == 4 else 14)


def padded(batch: int, length: int) -> Load:
    """A (batch, length) batch with logits at every position."""
    return Load(batch * length, batch * length)


def plain_peak(point: Point) -> Peak:
    """The peak of a plain trainer at this point."""
    shape = _OTHER_SHAPES.get(point.model) or shipped_shapes()[point.model]
    architecture = parse_architecture(shape, point.model)
    stack = plain_stack(quantised=point.quantised, compute=2, double=point.double)
    adapter = adapter_shape(architecture, point.rank, point.targets)
    return training_peak(architecture, adapter, stack, padded(point.batch, point.length), checkpointing=True)


# fitcheck-llm 0.3.1, data/measurements/final-t4-20260921.json (MIT licence): its held-out rows with torch's fused
# attention on a Tesla T4. Columns: model; MiB of tensors; MiB of the process; fitcheck's predictions of both.
_HELD_OUT = (
    ("deepseek-ai/deepseek-coder-1.3b-instruct", 1972, 2313, 1948, 2278),
    ("meta-llama/Llama-3.2-1B-Instruct", 3723, 4167, 3708, 4064),
    ("Qwen/Qwen2.5-1.5B-Instruct", 4235, 5353, 4202, 4536),  # the same shape as its Qwen2.5-Coder-1.5B-Instruct
    ("meta-llama/Llama-3.2-3B-Instruct", 5495, 6409, 5496, 5912),
    ("mistralai/Mistral-7B-Instruct-v0.3", 6056, 6541, 6001, 6547),
    ("Qwen/Qwen2.5-7B-Instruct", 10586, 12021, 10581, 11149),
)
# docs.unsloth.ai, "Unsloth Benchmarks": the longest sequence of Llama 3.1 8B Instruct that plain transformers with
# FlashAttention 2 train on a card, QLoRA on all linear layers, rank 32, batch 1. At it the card is full.
_LONGEST = ((12, 932), (16, 2551), (24, 5789), (40, 12264), (48, 15502), (80, 28454))
# The LLaMA-Factory wiki, "Performance Comparison" (also in Unsloth's README): LLaMA2-7B on an A100, batch 4, at most
# 1,024 tokens, rank 8, on the queries and values.
_FACTORY = ((True, 9), (False, 18))
# Unsloth's README of 2024: QLoRA of LLaMA-2-7B with plain transformers on a Tesla T4, batch 2, rank 16 on all linear
# layers. Lengths are not published, so a measurement is turned into the length that the plan computes for it.
_UNKNOWN_LENGTH = (("Alpaca", 7199 * MIB), ("Alpaca, torch's attention", 7059 * MIB), ("Open Assistant", 14.0 * GIB))


def points() -> Iterator[Point]:
    """The published points that state batch and length."""
    for model, tensors, process, predicted_tensors, predicted_process in _HELD_OUT:
        source, sizes = "fitcheck-llm, T4", (1, 1024)
        yield Point(source, model, *sizes, tensors * MIB, predicted=predicted_tensors * MIB)
        yield Point(source, model, *sizes, process * MIB, tensors=False, predicted=predicted_process * MIB)
    for gib, length in _LONGEST:
        model = "meta-llama/Llama-3.1-8B-Instruct"
        source = f"Unsloth, {gib} GB card"
        yield Point(source, model, 1, length, gib * GIB, 32, "all-linear", tensors=False, double=True)
    for quantised, gib in _FACTORY:
        targets = ("q_proj", "v_proj")
        source = "LLaMA-Factory, A100"
        model = "meta-llama/Llama-2-7b-hf"
        yield Point(source, model, 4, 1024, gib * GIB, 8, targets, tensors=False, quantised=quantised, double=True)


def archived(folder: Path) -> Iterator[Point]:
    """Every row of fitcheck's archive with fused attention, whose tensors are compared.

    Rows with eager attention keep the matrices of all scores, which this package never computes.
    """
    for file in sorted(folder.glob("*.json")):
        content = json.loads(file.read_text("utf-8"))
        for row in content.get("runs", ()):
            run, measured, shape = row["run"], row["measured"], row.get("model_config")
            if run["kernel"] != "flash" or shape is None:
                continue
            _OTHER_SHAPES[row["model_id"]] = _as_config(row["model_id"], shape)
            predicted = row["predicted"]["total_mib"] - row["predicted"]["overhead_mib"]
            yield Point(
                source=file.stem,
                model=row["model_id"],
                batch=run["batch_size"],
                length=run["seq_len"],
                measured=measured["peak_allocated_mib"] * MIB,
                rank=run["lora_rank"],
                targets=tuple(run["lora_targets"]),
                quantised=run["quantization"] == "nf4",
                predicted=predicted * MIB,
            )


def _as_config(model: str, shape: dict[str, Any]) -> dict[str, Any]:
    names = {"num_kv_heads": "num_key_value_heads", "num_layers": "num_hidden_layers"}
    kind = "qwen2" if "Qwen2" in model else "llama"
    return {"model_type": kind} | {names.get(name, name): value for name, value in shape.items()}


def base_weights() -> Iterator[tuple[str, float]]:
    """Bytes of LLaMA-7B in NF4, in the ways that may be meant by the 5,048 MB of the QLoRA paper (appendix G)."""
    llama = parse_architecture(shipped_shapes()["meta-llama/Llama-2-7b-hf"], "llama")
    for double in (True, False):
        scales = "8-bit scales" if double else "fp32 scales"
        for kept, name in ((2, "16 bits"), (4, "fp32")):
            stack = plain_stack(quantised=True, compute=2, double=double)
            parts = weight_components(llama, stack)
            rest = parts["embeddings and head"] + parts["norms and biases"]
            total = parts["weights (NF4)"] + parts["scales of NF4"] + rest * kept // stack.kept
            yield f"{scales}, embeddings and head in {name}", total


def lengths() -> Iterator[tuple[str, float, int]]:
    """(data set, measured bytes, positions of a sequence at which the plan computes them) without a stated length."""
    model, targets = "meta-llama/Llama-2-7b-hf", "all-linear"
    for name, measured in _UNKNOWN_LENGTH:

        def computed(length: int, measured: float = measured) -> int:
            return Point("Unsloth", model, 2, length, measured, 16, targets, tensors=False, double=True).computed

        yield name, measured, bisect_right(range(8192), measured, key=computed) - 1


def table(found: Sequence[Point]) -> str:
    """Markdown rows: measured, computed here, predicted by fitcheck."""
    lines = [
        "| published by | base model | batch x length | what | measured GiB | computed | deviation | fitcheck |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for point in found:
        base = point.model.rpartition("/")[2] + ("" if point.quantised else ", 16 bits")
        what = "tensors" if point.tensors else "all"
        fitcheck = "" if point.predicted is None else f"{point.predicted / point.measured - 1:+.1%}"
        cells = (
            point.source,
            base,
            f"{point.batch} x {point.length:,}",
            what,
            f"{point.measured / GIB:.2f}",
            f"{point.computed / GIB:.2f}",
            f"{_deviation(point):+.1%}",
            fitcheck,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def summary(found: Sequence[Point], tensors: bool) -> str:
    """Mean and worst deviation of the points that fitcheck predicts as well."""
    both = [point for point in found if point.predicted is not None and point.tensors == tensors]
    ours = [abs(_deviation(point)) for point in both]
    theirs = [abs((point.predicted or 0) / point.measured - 1) for point in both]
    return (
        f"{len(both)} points, {'tensors' if tensors else 'all memory'}: computed here {fmean(ours):.1%} off in the "
        f"mean, {max(ours):.1%} at worst; fitcheck-llm {fmean(theirs):.1%} and {max(theirs):.1%}"
    )


def _deviation(point: Point) -> float:
    return point.computed / point.measured - 1


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--archive", type=Path, help="fitcheck-llm's folder data/measurements: score all of its rows")
    options = parser.parse_args()
    found = list(points())
    print(table(found))
    print()
    print(summary(found, tensors=True))
    print(summary(found, tensors=False))
    print()
    for name, measured, length in lengths():
        print(f"LLaMA-2-7B on a T4, {name}: {measured / GIB:.1f} GiB, computed for 2 sequences of {length:,} tokens")
    print()
    for name, size in base_weights():
        print(f"LLaMA-7B in NF4, {name}: {size / 1e6:,.0f} MB ({size / 5048e6 - 1:+.1%} of the paper's 5,048 MB)")
    if options.archive:
        print()
        print(f"the whole archive: {summary(list(archived(options.archive)), tensors=True)}")


if __name__ == "__main__":
    main()
