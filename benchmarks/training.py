"""Training speed: one token tree per scene, against TRL's SFTTrainer with one prompt per utterance.

Both sides have the same scenes, prompt, full past context, targets, LoRA adapter, precision and token budget of a step,
and run a trainer's whole loop. The token-tree side builds its trees inside the loop; TRL reads prepared token ids.

Input: settings. Output: a section of the report.
Does not depend on: the accuracy of what is trained.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Job, Meter, Result, ratio, run_alternating, speeds, summary
from benchmarks.peers import fit_trl, training_rows
from benchmarks.workload import Settings, Workload, open_workload

if TYPE_CHECKING:
    import torch
    from transformers import TrainerCallback

    from erc_llm.tuning.trainer import FitSettings

TREE, TRL, PADDING_FREE = "token tree", "TRL, length-grouped", "TRL, padding-free"


def compare(
    settings: Settings, scenes: int | None, rounds: int, padding_free: bool, on_run: Callable[[int, Job, Result], None]
) -> Result:
    """Measure all sides; speeds in labelled utterances per second."""
    arguments = {"settings": asdict(settings), "scenes": scenes}
    jobs = [
        Job(TREE, "benchmarks.training:run_tree", arguments),
        Job(TRL, "benchmarks.training:run_trl", {**arguments, "padding_free": False}),
    ]
    if padding_free:
        jobs.append(Job(PADDING_FREE, "benchmarks.training:run_trl", {**arguments, "padding_free": True}))
    results = run_alternating(jobs, rounds, on_run)
    ours = results[TREE]
    section: Result = {
        "setup": {k: ours[0][k] for k in ("scenes", "utterances", "dtype", "tokens_per_step")}
        | {"trl_rows_per_step": results[TRL][0]["batch_size"]},
        "sides": {name: summary(runs, "utterances") for name, runs in results.items()},
        "peers": {},
        "runs": results,
    }
    for name in [job.name for job in jobs[1:]]:
        theirs = results[name]
        time = ratio(speeds(ours, "utterances"), speeds(theirs, "utterances"))
        tokens = theirs[0]["tokens"] / ours[0]["tokens"]
        section["peers"][name] = {
            "time_ratio": time.median,
            "time_ratio_rounds": time.values,
            "token_ratio": tokens,
            "token_ratio_without_padding": theirs[0]["prompt_tokens"] / ours[0]["tokens"],
            "quotient": time.median / tokens,
        }
    return section


def run_tree(settings: Mapping[str, Any], scenes: int | None) -> Result:
    """Train one epoch on the scenes as token trees."""
    from erc_llm.trees.attention import ATTENTION, forest_logits
    from erc_llm.trees.forest import pack, rows_of
    from erc_llm.trees.likelihoods import answer_log_likelihoods
    from erc_llm.tuning.order import order_steps
    from erc_llm.tuning.scene_trees import training_trees
    from erc_llm.tuning.trainer import fit

    work = open_workload(settings, "train", scenes, ATTENTION)
    model = adapted(work)
    trees_of = training_trees(work.config, work.dialogues, work.prompter, confusion=None)
    sizes = [sum(map(rows_of, trees_of(scene, 0))) for scene in range(len(work.dialogues))]
    training = work.config.training
    schedule = order_steps(
        sizes, epochs=1, tokens_per_step=training.tokens_per_step, parts=training.accumulation, seed=work.config.seed
    )
    forest = pack([t for scene in schedule.batches()[0].scenes for t in trees_of(scene, 0)]).to(model.device)
    _warm_up(model, lambda: -answer_log_likelihoods(forest_logits(model, forest), forest).mean())
    meter = Meter(model)
    with tempfile.TemporaryDirectory() as folder:
        fit(
            model,
            work.loaded.tokenizer,
            schedule,
            trees_of,
            training_plan(work),
            Path(folder),
            [clock(meter)],
        )
    targets = sum(d.utterances[k].label is not None for d in work.dialogues for k in d.targets)
    return meter.result(utterances=targets, steps=len(schedule.steps), **_facts(work))


def run_trl(settings: Mapping[str, Any], scenes: int | None, padding_free: bool) -> Result:
    """Train one epoch on the same targets with TRL's trainer, one prompt per target."""
    import torch

    work = open_workload(settings, "train", scenes, "sdpa")
    model = adapted(work)
    rows = training_rows([t for d in work.dialogues for t in work.prompter.trees(d, "gold")])
    lengths = [len(row["input_ids"]) for row in rows]
    per_forward = work.config.training.tokens_per_step / work.config.training.accumulation
    batch_size = max(1, round(per_forward * len(rows) / sum(lengths)))
    longest = rows[lengths.index(max(lengths))]
    row = {name: torch.tensor([ids] * batch_size, device=model.device) for name, ids in longest.items()}
    _warm_up(model, lambda: model(**row, use_cache=False).loss)
    meter = Meter(model)
    with tempfile.TemporaryDirectory() as folder:
        fit_trl(
            model,
            work.loaded.tokenizer,
            rows,
            training_plan(work),
            batch_size,
            padding_free,
            Path(folder),
            [clock(meter)],
        )
    return meter.result(utterances=len(rows), prompt_tokens=sum(lengths), batch_size=batch_size, **_facts(work))


def adapted(work: Workload) -> Any:
    """The model with a new adapter, as at the start of a training run."""
    from erc_llm.models.adapters import attach_lora

    lora = work.config.lora
    return attach_lora(
        work.loaded.model,
        rank=lora.rank,
        alpha=lora.alpha,
        dropout=lora.dropout,
        target_modules=lora.target_modules,
        seed=work.config.seed,
    )


def training_plan(work: Workload) -> FitSettings:
    """The training settings of the configuration, for both trainers."""
    import torch

    from erc_llm.tuning.trainer import FitSettings

    training = work.config.training
    return FitSettings(
        learning_rate=training.learning_rate,
        lr_schedule=training.schedule,
        warmup=training.warmup,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        accumulation=training.accumulation,
        gradient_checkpointing=training.gradient_checkpointing,
        bf16=work.loaded.dtype == torch.bfloat16,
        fp16=work.loaded.dtype == torch.float16,
        use_cpu=work.loaded.device.type == "cpu",
        seed=work.config.seed,
        log_every=training.log_every,
        report_to=(),
        run_name="benchmark",
        objective=training.objective,
    )


def clock(meter: Meter) -> TrainerCallback:
    """A callback that starts the meter when the training loop begins and stops it when the loop ends."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        """Defined inside the function, so that the process that starts the jobs need not import torch."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            """Start."""
            meter.start()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            """Stop."""
            meter.stop()

    return Clock()


def _warm_up(model: Any, loss: Callable[[], torch.Tensor]) -> None:
    """One forward and backward, so that one-time costs are not measured."""
    model.train()
    loss().backward()
    model.zero_grad(set_to_none=True)


def _facts(work: Workload) -> Result:
    return {
        "scenes": len(work.dialogues),
        "dtype": str(work.loaded.dtype).removeprefix("torch."),
        "tokens_per_step": work.config.training.tokens_per_step,
    }
