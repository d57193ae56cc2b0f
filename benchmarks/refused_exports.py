"""Why some exports are refused: what merging into 4 bits, and rsLoRA read by llama.cpp's rule, do to a run's answers.

Each is made of the run's own adapter, in memory, and scores the probes of an export.

Input: a run. Output: a Markdown table.
Does not depend on: how forms are written.

    python -m benchmarks.refused_exports RUN
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from benchmarks.outcome import exit_code
from erc_llm.export.lora import read_lora
from erc_llm.export.merging import check_fits, nf4_round_trip
from erc_llm.export.plain_scores import plain_scores
from erc_llm.export.probes import Drift, Probe, drift
from erc_llm.models.loading import base_folder
from erc_llm.recipes.export import score_probes
from erc_llm.runs.opened import open_run

if TYPE_CHECKING:
    import torch

    Change = Callable[[str, torch.Tensor], torch.Tensor]


def measure(run: Path) -> dict[str, Drift]:
    """How far each way of merging is from the run, on the probes.

    Raises:
        UserError: The run is missing, or its adapter is no plain LoRA.
    """
    import torch
    from transformers import AutoModelForCausalLM

    opened = open_run(run)
    assert opened.run is not None
    base, lora = base_folder(opened.config.model.base), read_lora(opened.run.adapter)
    linear = check_fits(base, lora)
    probes = score_probes(opened.run, base, (), Console(quiet=True)).probes
    # The same update with rsLoRA's scale alpha / sqrt(rank).
    stabilised = replace(lora, alpha=lora.scale * math.sqrt(lora.rank), rank_stabilised=True)
    misread = replace(stabilised, rank_stabilised=False)
    ways: dict[str, Change] = {
        "merged in fp32": lora.add_to,
        "merged, then NF4": lambda module, weight: nf4_round_trip(lora.add_to(module, weight), torch.float32),
        "rsLoRA, written with its own scale": stabilised.add_to,
        "rsLoRA, read as alpha / rank": misread.add_to,
    }
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True).eval()
    original = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    return {name: _drift(model, original, change, linear, probes) for name, change in ways.items()}


def _drift(
    model: Any, original: dict[str, torch.Tensor], change: Change, linear: set[str], probes: Sequence[Probe]
) -> Drift:
    for name, weight in model.named_parameters():
        module = name.removesuffix(".weight")
        weight.data = change(module, original[name]) if module in linear else original[name]
    return drift(probes, plain_scores(model, probes))


def as_markdown(found: dict[str, Drift]) -> str:
    """The table."""
    rows = [
        f"| {name} | {each.largest:.4f} | {each.mean:.4f} | {each.flips} of {each.probes} |"
        for name, each in found.items()
    ]
    heading = "| | largest difference of a probability | mean | other labels |"
    return "\n".join([heading, "| --- | ---: | ---: | ---: |", *rows])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns exit code 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.refused_exports", description=__doc__)
    parser.add_argument("run", type=Path, help="run whose adapter is merged")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    return exit_code(lambda: console.print(as_markdown(measure(options.run)), markup=False, soft_wrap=True))


if __name__ == "__main__":
    sys.exit(main())
