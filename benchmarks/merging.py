"""Time and peak memory of merging an adapter into a large base model, with random weights of a real model's shape.

Input: a shape. Output: seconds, the peak of the resident set (which counts mapped pages of the base's files), and the
bound that it should stay under: 1.5 times the base's largest file, plus 2 GB.
Does not depend on: what the weights mean.

    python -m benchmarks.merging --shape llama2-7b --folder SCRATCH    # writes 27 GB there, and removes them
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.measure import Job, Result, resident_mb, run_job
from benchmarks.outcome import exit_code
from benchmarks.random_llama import SHAPES, write_adapter, write_base


def compare(shape: str, folder: Path) -> Result:
    """Write base and adapter, merge in a fresh process, and measure."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        arguments = {"shape": shape, "folder": place}
        written = run_job(Job("base", "benchmarks.merging:write_files", arguments))
        return written | run_job(Job("merge", "benchmarks.merging:merge", {"folder": place}))


def write_files(shape: str, folder: str) -> Result:
    """A base model and an adapter on all of its linear layers, both random."""
    found = write_base(SHAPES[shape], Path(folder) / "base")
    write_adapter(SHAPES[shape], Path(folder) / "adapter")
    return {"shape": shape} | found


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
