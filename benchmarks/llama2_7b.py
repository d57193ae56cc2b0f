"""LLaMA-2-7B's whole road on the CPU, with random weights of its shape: load in NF4, train, resume, score, export.

Each part is the command that a user runs, in a process of its own that is watched from outside. Random weights cost
what real ones do, so time and memory are those of the real model; the answers mean nothing.

Input: a corpus, a scratch folder (14 GB for the 7B shape). Output: seconds and peak memory of each part, and the bytes
of the loaded model by component.
Does not depend on: a GPU, the network.

    python -m benchmarks llama2-7b --corpus FOLDER --folder SCRATCH --out docs/results/llama2-7b.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from benchmarks.commands import command_line, has_checkpoint, memory_gb, watch
from benchmarks.measure import Job, Result, run_job
from benchmarks.outcome import exit_code
from benchmarks.random_llama import SHAPES, write_base
from erc_llm.files import write_text

if TYPE_CHECKING:
    from torch import nn

CONFIG = "llama2-7b-qlora"
BASE = ("--base", "meta-llama/Llama-2-7b-hf", "--licence", "llama2")


def measure(shape: str, corpus: str, place: Path, scenes: int, tokens: int, console: Console) -> Result:
    """Run all parts in an empty folder; returns the report."""
    console.print("writing random weights", highlight=False)
    written = run_job(
        Job("write", "benchmarks.llama2_7b:write", {"shape": shape, "corpus": corpus, "folder": str(place)})
    )
    base, scene = place / "base", place / "scene.jsonl"
    on_base = overrides(base)
    train = ["train", CONFIG, *on_base, f"corpus.path={corpus}", f"output={place}", "name=run", "training.epochs=1"]
    train += [f"training.max_scenes={scenes}", f"training.tokens_per_step={tokens}", "training.accumulation=1"]
    train += ["training.checkpoint_minutes=0", "training.evaluations=0", "training.log_every=1"]
    run = place / "run"
    told = [word for override in on_base for word in ("--set", override)]
    parts: dict[str, Result] = {}
    for name, command, until in (
        ("train until a checkpoint, then kill", train, lambda: has_checkpoint(run)),
        ("resume, to the end", (*train, "--resume"), None),
        ("predict a scene", ("predict", run, scene, "--split", "all", *told, "--out", place / "out.parquet"), None),
        ("export as peft", ("export", run, "--to", place / "export", *told, *BASE, "--probes", "2"), None),
    ):
        console.print(name, highlight=False)
        found = watch(command_line(*command), until)
        parts[name] = {key: found[key] for key in ("seconds", "peak_gb", "resident_gb")}
        console.print(f"  {parts[name]['seconds']:.0f} s", highlight=False)
    loaded = run_job(Job("load", "benchmarks.llama2_7b:load", {"base": str(base)}))
    steps = [json.loads(line) for line in (run / "training.jsonl").read_text("utf-8").splitlines()]
    return {
        "shape": shape,
        "written": written,
        "loaded": loaded,
        "parts": parts,
        "tokens_per_step": tokens,
        "steps": [{k: step[k] for k in ("step", "loss", "tokens_per_second")} for step in steps if "loss" in step],
    }


def overrides(base: str | Path) -> list[str]:
    """Changes to the packaged configuration: this base, on the CPU, in the 16 bits that a plan counts."""
    return [f"model.base={base}", "model.device=cpu", "model.precision=bf16"]


def write(shape: str, corpus: str, folder: str) -> Result:
    """Write the base model, its tokenizer trained on the corpus, and one scene to predict."""
    from erc_llm.config import load_config
    from erc_llm.recipes.data import open_corpus

    config = load_config(CONFIG, [f"corpus.path={corpus}"])
    found = open_corpus(config.corpus, config.label_set())
    texts = [f"{u.speakers[0]}: {u.text}" for d in found.split("train") for u in d.utterances]
    written = write_base(SHAPES[shape], Path(folder) / "base", texts)
    scene = min(found.split("dev"), key=lambda d: abs(len(d.utterances) - 6))
    lines = [{"id": u.id, "speaker": list(u.speakers), "text": u.text} for u in scene.utterances]
    write_text(Path(folder) / "scene.jsonl", json.dumps({"id": scene.id, "utterances": lines}) + "\n")
    return written


def load(base: str) -> Result:
    """Load the base in NF4 and attach an adapter; bytes by component."""
    from erc_llm.build import build_model
    from erc_llm.config import load_config
    from erc_llm.models.adapters import attach_lora

    config = load_config(CONFIG, overrides(base))
    began = time.perf_counter()
    loaded = build_model(config)
    seconds = time.perf_counter() - began
    peak, _ = memory_gb("self")
    lora = config.lora
    model = attach_lora(
        loaded.model,
        rank=lora.rank,
        alpha=lora.alpha,
        dropout=lora.dropout,
        target_modules=lora.target_modules,
        seed=config.seed,
    )
    return {"seconds": seconds, "held_gb": peak, "bytes": bytes_of(model)}


def bytes_of(model: nn.Module) -> dict[str, int]:
    """Bytes of a loaded model by component: packed weights, their scales, the rest of the base, the adapter."""
    found = {"packed weights": 0, "scales": 0, "other weights": 0, "adapter": 0}
    for name, parameter in model.named_parameters():
        size = parameter.numel() * parameter.element_size()
        state: Any = getattr(parameter, "quant_state", None)
        if "lora_" in name:
            found["adapter"] += size
        elif state is None:
            found["other weights"] += size
        else:
            found["packed weights"] += size
            tensors = [state.absmax, state.code, state.offset]
            if state.nested:
                tensors += [state.state2.absmax, state.state2.code]
            found["scales"] += sum(t.numel() * t.element_size() for t in tensors if t is not None)
    return found


def print_report(report: Result, console: Console) -> None:
    """Print the tables of a report."""
    table = Table(title=f"{report['shape']}, random weights, NF4 on the CPU", title_justify="left")
    table.add_column("part")
    for column in ("seconds", "peak GB", "with mapped files"):
        table.add_column(column, justify="right")
    for name, part in report["parts"].items():
        table.add_row(name, f"{part['seconds']:.0f}", f"{part['peak_gb']:.1f}", f"{part['resident_gb']:.1f}")
    console.print(table)
    sizes = ", ".join(f"{name} {size / 1e9:.3f} GB" for name, size in report["loaded"]["bytes"].items())
    console.print(f"loaded in {report['loaded']['seconds']:.0f} s: {sizes}", highlight=False)
    for step in report["steps"]:
        console.print(
            f"step {step['step']}: loss {step['loss']:.3f}, {step['tokens_per_second']:.1f} tokens/s", highlight=False
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns exit code 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks llama2-7b", description=__doc__)
    parser.add_argument("--corpus", default="sample", help="corpus; default: the embedded sample")
    parser.add_argument("--shape", default="llama2-7b", choices=SHAPES)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="folder for temporary files")
    parser.add_argument("--scenes", type=int, default=4, help="scenes of train")
    parser.add_argument("--tokens", type=int, default=512, help="training.tokens_per_step")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    return exit_code(lambda: _run(options, console))


def _run(options: argparse.Namespace, console: Console) -> None:
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        report = measure(options.shape, options.corpus, Path(place), options.scenes, options.tokens, console)
    print_report(report, console)
    if options.out is not None:
        write_text(options.out, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
