"""Time and peak memory of merging an adapter into a large base model, with random weights of a real model's shape.

Input: a shape. Output: seconds, the peak of the resident set (which counts mapped pages of the base's files), and the
bound that it should stay under: 1.5 times the base's largest file, plus 2 GB.
Does not depend on: what the weights mean.

    python -m benchmarks.merging --shape llama2-7b --folder SCRATCH    # writes 27 GB there, and removes them
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.measure import Job, Result, resident_mb, run_job
from benchmarks.outcome import exit_code

SHAPES = {  # name: hidden size, inner size, layers, heads, vocabulary, GB of a file of the base
    "llama2-7b": (4096, 11008, 32, 32, 32000, 9.98),
    "tiny": (64, 128, 4, 4, 512, 0.0002),
}
RANK = 16
_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def compare(shape: str, folder: Path) -> Result:
    """Write base and adapter, merge in a fresh process, and measure."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        arguments = {"shape": shape, "folder": place}
        written = run_job(Job("base", "benchmarks.merging:write_base", arguments))
        return written | run_job(Job("merge", "benchmarks.merging:merge", {"folder": place}))


def write_base(shape: str, folder: str) -> Result:
    """A base model of bf16 files and an adapter on all of its linear layers, both random."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    hidden, inner, layers, heads, vocabulary, file_gb = SHAPES[shape]
    base, adapter = Path(folder) / "base", Path(folder) / "adapter"
    base.mkdir()
    adapter.mkdir()
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        vocab_size=vocabulary,
        tie_word_embeddings=False,
    )
    config.save_pretrained(base)
    sizes: list[int] = []
    held: dict[str, Any] = {}
    lora: dict[str, Any] = {}

    def save() -> None:
        file = base / f"model-{len(sizes) + 1:05d}.safetensors"
        save_file(held, file, metadata={"format": "pt"})
        sizes.append(file.stat().st_size)
        held.clear()

    size = 0
    for name, rows, columns in _weights(hidden, inner, layers, vocabulary):
        held[name] = torch.randn(*((rows, columns) if columns else (rows,))).mul_(0.02).bfloat16()
        size += held[name].numel() * 2
        if name.split(".")[-2] in _LINEAR:
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            lora[f"{stem}.lora_A.weight"] = torch.randn(RANK, columns) * 0.02
            lora[f"{stem}.lora_B.weight"] = torch.randn(rows, RANK) * 0.02
        if size > file_gb * 1e9:
            save()
            size = 0
    if held:
        save()
    save_file(lora, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    stated = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "base_model_name_or_path": "random"}
    (adapter / "adapter_config.json").write_text(json.dumps(stated), "utf-8")
    return {"shape": shape, "base_gb": sum(sizes) / 1e9, "largest_file_gb": max(sizes) / 1e9, "files": len(sizes)}


def _weights(hidden: int, inner: int, layers: int, vocabulary: int) -> Iterator[tuple[str, int, int]]:
    """Name, rows and columns of each weight of a Llama; 0 columns: a vector."""
    yield "model.embed_tokens.weight", vocabulary, hidden
    for layer in range(layers):
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"model.layers.{layer}.self_attn.{part}.weight", hidden, hidden
        for part, rows, columns in (("gate", inner, hidden), ("up", inner, hidden), ("down", hidden, inner)):
            yield f"model.layers.{layer}.mlp.{part}_proj.weight", rows, columns
        for part in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{layer}.{part}.weight", hidden, 0
    yield "model.norm.weight", hidden, 0
    yield "lm_head.weight", vocabulary, hidden


def merge(folder: str) -> Result:
    """Merge in bf16; the peak is that of this process."""
    import torch

    from erc_llm.export.lora import read_lora
    from erc_llm.export.merging import write_merged

    target = Path(folder) / "merged"
    target.mkdir()
    lora = read_lora(Path(folder) / "adapter")
    before = resident_mb(resource.getrusage(resource.RUSAGE_SELF))
    began = time.perf_counter()
    write_merged(Path(folder) / "base", lora, target, dtype=torch.bfloat16)
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "before_gb": before / 1e3,
        "peak_gb": resident_mb(resource.getrusage(resource.RUSAGE_SELF)) / 1e3,
        "merged_gb": sum(file.stat().st_size for file in target.glob("*.safetensors")) / 1e9,
    }


def as_text(found: Result) -> str:
    """The result in one sentence."""
    bound = 1.5 * found["largest_file_gb"] + 2
    base = f"{found['base_gb']:.1f} GB in {found['files']} files (largest {found['largest_file_gb']:.1f} GB)"
    memory = f"peak {found['peak_gb']:.1f} GB, before it {found['before_gb']:.1f} GB, bound {bound:.1f} GB"
    return f"{found['shape']}: {base} merged in {found['seconds']:.0f} s; {memory}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns exit code 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.merging", description=__doc__)
    parser.add_argument("--shape", default="llama2-7b", choices=SHAPES)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="folder for temporary files")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    return exit_code(lambda: console.print(as_text(compare(options.shape, options.folder)), highlight=False))


if __name__ == "__main__":
    sys.exit(main())
