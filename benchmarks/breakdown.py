"""Time by operator of a training step and a scoring forward, measured with torch's profiler.

Input: settings. Output: the operators with the largest self time.
Does not depend on: the other sections, which are measured without the profiler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from benchmarks.measure import Job, Result, run_job
from benchmarks.training import adapted
from benchmarks.workload import Settings, Workload, open_workload

SHOWN = 12


def measure(settings: Settings, scenes: int | None) -> Result:
    """Profile both, each in a fresh process."""
    arguments = {"settings": asdict(settings), "scenes": scenes}
    return {
        use: run_job(Job(f"profile of {use}", f"benchmarks.breakdown:run_{use}", arguments))["operators"]
        for use in ("training", "scoring")
    }


def run_training(settings: Mapping[str, Any], scenes: int | None) -> Result:
    """Profile forward and backward of one step's forest."""
    from erc_llm.trees.attention import ATTENTION, forest_logits
    from erc_llm.trees.likelihoods import answer_log_likelihoods

    work = open_workload(settings, "train", scenes, ATTENTION)
    model = adapted(work).train()
    forest = _forest(work, "gold", work.config.training.tokens_per_step)

    def step() -> None:
        (-answer_log_likelihoods(forest_logits(model, forest), forest).mean()).backward()
        model.zero_grad(set_to_none=True)

    return _profile(step)


def run_scoring(settings: Mapping[str, Any], scenes: int | None) -> Result:
    """Profile the forward of one forest with all labels."""
    import torch

    from erc_llm.trees.attention import ATTENTION, forest_logits
    from erc_llm.trees.likelihoods import answer_log_likelihoods

    work = open_workload(settings, "dev", scenes, ATTENTION)
    forest = _forest(work, "all", work.config.scoring.tokens_per_forest)

    def score() -> None:
        with torch.inference_mode():
            answer_log_likelihoods(forest_logits(work.loaded.model, forest), forest)

    return _profile(score)


def _forest(work: Workload, answers: Any, budget: int) -> Any:
    from erc_llm.decoding.scoring import batch_by_rows
    from erc_llm.trees.forest import pack, rows_of

    trees = [tree for d in work.dialogues for tree in work.prompter.trees(d, answers)]
    return pack([trees[i] for i in next(batch_by_rows([rows_of(t) for t in trees], budget))]).to(work.loaded.device)


def _profile(run: Callable[[], None]) -> Result:
    import torch
    from torch.profiler import ProfilerActivity, profile

    run()
    cuda = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as profiler:
        run()
    spent = {
        e.key: (e.self_device_time_total if cuda else e.self_cpu_time_total, e.count) for e in profiler.key_averages()
    }
    total = sum(time for time, _ in spent.values())
    first = sorted(spent, key=lambda key: -spent[key][0])[:SHOWN]
    return {"operators": [{"operator": k, "share": spent[k][0] / total, "calls": spent[k][1]} for k in first]}
