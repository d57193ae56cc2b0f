"""What numbers too small for fp32's normal range cost a training step, on one and the same trained adapter.

Some CPUs compute with denormal numbers many times slower. In: settings. Out: seconds of a step's forward and backward
with and without flushing them to zero. The switch belongs to a thread and is inherited by threads made later, so each
side is a process that sets it before anything computes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import Job, JobError, Result, ratio, run_alternating, run_job
from benchmarks.training import adapted, training_plan
from benchmarks.workload import Settings, open_workload

STEPS = 30
_REPEATS = 3
KEPT, FLUSHED = "denormals kept", "denormals flushed"


def compare(settings: Settings, scenes: int | None, rounds: int, on_run: Callable[[int, Job, Result], None]) -> Result:
    """Train the adapter for some steps, then time both sides on it."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = {"settings": asdict(settings), "scenes": scenes, "adapter": str(Path(folder) / "adapter")}
        run_job(Job("adapter", "benchmarks.denormals:train_adapter", arguments))
        jobs = [
            Job(name, "benchmarks.denormals:run_step", {**arguments, "flush": name == FLUSHED})
            for name in (KEPT, FLUSHED)
        ]
        results = run_alternating(jobs, rounds, on_run)
    kept, flushed = ([run["seconds"] for run in results[name]] for name in (KEPT, FLUSHED))
    gain = ratio(kept, flushed)
    return {
        "steps_before": STEPS,
        "seconds": {KEPT: median(kept), FLUSHED: median(flushed)},
        "ratio": gain.median,
        "ratio_rounds": gain.values,
        "denormal_gradients": results[KEPT][0]["denormal_gradients"],
    }


def train_adapter(settings: Mapping[str, Any], scenes: int | None, adapter: str) -> Result:
    """Train some steps on the scenes, over and over, and save the adapter."""
    from erc_llm.adapters import save_adapter
    from erc_llm.prompting.forest import ATTENTION, rows_of
    from erc_llm.tuning.schedule import Schedule, plan
    from erc_llm.tuning.trainer import fit

    work = open_workload(settings, "train", scenes, ATTENTION)
    model = adapted(work)
    sizes = [sum(map(rows_of, work.prompter.trees(d, "gold"))) for d in work.dialogues]
    numbers = training_plan(work)
    budget = work.config.training.tokens_per_step
    schedule = plan(sizes, epochs=STEPS, tokens_per_step=budget, parts=numbers.accumulation, seed=numbers.seed)
    schedule = Schedule(schedule.steps[:STEPS])
    with tempfile.TemporaryDirectory() as folder:
        fit(
            model,
            work.loaded.tokenizer,
            schedule,
            lambda scene, epoch: work.prompter.trees(work.dialogues[scene], "gold"),
            numbers,
            Path(folder),
            [],
        )
    save_adapter(model, adapter)
    return {"steps": len(schedule.steps)}


def run_step(settings: Mapping[str, Any], scenes: int | None, adapter: str, flush: bool) -> Result:
    """Median seconds of forward and backward of one forest, and the share of denormal entries in the gradients."""
    import torch

    if not torch.set_flush_denormal(flush):
        raise JobError("this processor cannot flush denormal numbers to zero; leave --denormals out")
    from erc_llm.adapters import load_adapter
    from erc_llm.decoding.scoring import batch_by_rows
    from erc_llm.prompting.forest import ATTENTION, answer_log_likelihoods, forest_logits, pack, rows_of

    work = open_workload(settings, "train", scenes, ATTENTION)
    model = load_adapter(work.loaded.model, adapter, trainable=True).train()
    trees = [tree for d in work.dialogues for tree in work.prompter.trees(d, "gold")]
    group = next(batch_by_rows([rows_of(t) for t in trees], work.config.training.tokens_per_step))
    forest = pack([trees[i] for i in group]).to(work.loaded.device)
    spent: list[float] = []
    for _ in range(1 + _REPEATS):
        model.zero_grad(set_to_none=True)
        began = time.perf_counter()
        (-answer_log_likelihoods(forest_logits(model, forest), forest).mean()).backward()
        spent.append(time.perf_counter() - began)
    tiny = torch.finfo(torch.float32).tiny
    gradients = [p.grad.float() for p in model.parameters() if p.grad is not None]
    denormal = sum(int(((g != 0) & (g.abs() < tiny)).sum()) for g in gradients)
    return {"seconds": median(spent[1:]), "denormal_gradients": denormal / sum(g.numel() for g in gradients)}
