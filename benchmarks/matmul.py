"""Matrix multiplication speed at the model's shapes, and the fraction of it that training and scoring reach.

The fraction counts 4 floating point operations per non-embedding parameter and token in training (forward, and the
gradient with respect to the inputs; frozen weights need no gradient) and 2 in scoring. The language-model head,
attention and the adapter's products are not counted, so the fraction is a lower bound.

Input: settings. Output: a section of the report.
Does not depend on: corpora.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Job, Result, run_job
from benchmarks.workload import Settings, open_workload

if TYPE_CHECKING:
    import torch

OPERATIONS = {"training": 4, "scoring": 2}
HEAD_ROWS = 256  # about the logit rows of a forest
_LEAST_SECONDS = 0.3
_LEAST_REPEATS = 3


def measure(settings: Settings) -> Result:
    """Measure in a fresh process."""
    return run_job(Job("matmul", "benchmarks.matmul:run", {"settings": asdict(settings)}))


def run(settings: Mapping[str, Any]) -> Result:
    """GFLOP/s by precision, rows and shape; `reached` weights the shapes by their number in the model, without head."""
    import torch

    work = open_workload(settings, "train", 1, "sdpa")
    shapes, head, parameters = shapes_of(work.loaded.model)
    device = work.loaded.device
    rows = {"training": work.config.training.tokens_per_step, "scoring": work.config.scoring.tokens_per_forest}
    speeds: dict[str, Result] = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        reached: dict[str, float] = {}
        single: dict[str, float] = {}
        for use, count in rows.items():
            seconds = {shape: seconds_of(count, *shape, dtype, device) for shape in shapes}
            single |= {f"{count} x {a} x {b}": 2 * count * a * b / s / 1e9 for (a, b), s in seconds.items()}
            operations = sum(2 * count * a * b * n for (a, b), n in shapes.items())
            reached[use] = operations / sum(seconds[shape] * n for shape, n in shapes.items()) / 1e9
        seconds_head = seconds_of(HEAD_ROWS, *head, dtype, device)
        single[f"{HEAD_ROWS} x {head[0]} x {head[1]} (head)"] = 2 * HEAD_ROWS * head[0] * head[1] / seconds_head / 1e9
        speeds[name] = {"reached": reached, "shapes": single}
    return {
        "model": work.loaded.description,
        "dtype": str(work.loaded.dtype).removeprefix("torch."),
        "dtype_reason": work.loaded.precision_reason,
        "non_embedding_parameters": parameters,
        "rows": rows,
        "gflops": speeds,
        "machine": _machine(),
    }


def shapes_of(model: Any) -> tuple[Counter[tuple[int, int]], tuple[int, int], int]:
    """Number of linear layers by (inputs, outputs), the head's shape, and the number of non-embedding parameters."""
    import torch

    head = model.get_output_embeddings()
    shapes = Counter(
        (m.in_features, m.out_features)
        for name, m in model.named_modules()
        if isinstance(m, torch.nn.Linear) and m is not head
    )
    kept_out = {id(head.weight), id(model.get_input_embeddings().weight)}
    # A 4-bit layer packs its weights, so its parameters are counted by its shape.
    packed = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Linear)}
    others = sum(p.numel() for p in model.parameters() if id(p) not in kept_out | packed)
    return shapes, (head.in_features, head.out_features), others + sum(a * b * n for (a, b), n in shapes.items())


def seconds_of(rows: int, inputs: int, outputs: int, dtype: torch.dtype, device: torch.device) -> float:
    """Median seconds of one product, after a warm-up."""
    import torch

    x = torch.randn(rows, inputs, device=device).to(dtype)
    w = torch.randn(outputs, inputs, device=device).to(dtype)
    spent: list[float] = []
    with torch.inference_mode():
        began = time.perf_counter()
        torch.nn.functional.linear(x, w)
        # Emulated precisions take seconds per product; the first one shows that.
        repeats = _LEAST_REPEATS if time.perf_counter() - began < 1 else 1
        while len(spent) < repeats or sum(spent) < _LEAST_SECONDS:
            began = time.perf_counter()
            torch.nn.functional.linear(x, w)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            spent.append(time.perf_counter() - began)
    return median(spent)


def shares(matmul: Result, sections: Mapping[str, Result]) -> Result:
    """The fraction of the multiplication speed that the token tree reaches, in the precision used and in bf16."""
    found = {}
    for use, operations in OPERATIONS.items():
        if use in sections:
            speed = sections[use]["sides"]["token tree"]["tokens_per_second"]
            used = operations * matmul["non_embedding_parameters"] * speed / 1e9
            found[use] = {
                "gflops": used,
                "tokens_per_second": speed,
                "share": used / matmul["gflops"][matmul["dtype"]]["reached"][use],
                "share_of_bfloat16": used / matmul["gflops"]["bfloat16"]["reached"][use],
            }
    return found


def _machine() -> Result:
    import platform

    import torch
    import transformers
    import trl

    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass  # not Linux
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    versions = {m.__name__: m.__version__ for m in (torch, transformers, trl)}
    return {"processor": name, "threads": torch.get_num_threads(), "gpu": gpu, "versions": versions}
