"""What constraints and draws cost: a decoding step that only labels may take against a free one, and the draw of an
epoch's targets against the epoch.

In: settings. Out: a section of the report. Steps are timed behind the prompt's forward, which both sides share; both
make as many, more than any label has tokens: constrained rows go on with their end token, free ones with anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Job, Result, ratio, run_alternating
from benchmarks.workload import Settings, open_workload

if TYPE_CHECKING:
    from benchmarks.workload import Workload

BATCH, STEPS, PAIRS = 32, 16, 5
SCHEME = "inverse_frequency"


def compare(settings: Settings, scenes: int | None, rounds: int, on_run: Callable[[int, Job, Result], None]) -> Result:
    """Both comparisons, each in a fresh process per round; `scenes` are those that the epoch's speed is measured on."""
    arguments = {"settings": asdict(settings)}
    jobs = [
        Job("decoding steps", "benchmarks.generation:run_steps", arguments),
        Job("draws", "benchmarks.generation:run_draws", {**arguments, "scenes": scenes}),
    ]
    results = run_alternating(jobs, rounds, on_run)
    steps, draws = results["decoding steps"], results["draws"]
    free, constrained = ([seconds for run in steps for seconds in run[side]] for side in ("free", "constrained"))
    times = ratio(constrained, free)
    shares = ratio([run["draw"] for run in draws], [run["epoch"] for run in draws])
    return {
        "step": {k: steps[0][k] for k in ("batch", "steps", "width", "dtype")}
        | {"free": median(free), "constrained": median(constrained)}
        | {"ratio": times.median, "ratio_rounds": times.values},
        "draw": {k: draws[0][k] for k in ("scheme", "targets", "tokens", "measured_tokens")}
        | {"seconds": median(run["draw"] for run in draws), "epoch": median(run["epoch"] for run in draws)}
        | {"share": shares.median, "share_rounds": shares.values},
    }


def run_steps(settings: Mapping[str, Any]) -> Result:
    """Seconds per decoding step of one batch, free and constrained, in pairs; after one of each that does not count."""
    from erc_llm.trees.attention import ATTENTION

    work = open_workload(settings, "dev", None, ATTENTION)
    prompts = [
        tree.token_ids[tree.root_path(question.last)].tolist()
        for dialogue in work.dialogues
        for tree in work.prompter.trees(dialogue, "none")
        for question in tree.questions
    ]
    prompts = sorted(prompts, key=len)[:BATCH]  # the less a step has to attend to, the more a processor weighs
    sides: dict[str, list[float]] = {"free": [], "constrained": []}
    began = time.perf_counter()
    for pair in range(PAIRS + 1):
        for side in sides if pair % 2 else reversed(sides):
            seconds, _ = decode(work, prompts, constrained=side == "constrained")
            if pair:
                sides[side].append(seconds)
    return {
        **sides,
        "seconds": time.perf_counter() - began,
        "batch": len(prompts),
        "steps": STEPS,
        "width": max(map(len, prompts)),
        "dtype": str(work.loaded.dtype).removeprefix("torch."),
    }


def decode(work: Workload, prompts: list[list[int]], constrained: bool) -> tuple[float, list[list[int]]]:
    """Seconds per step behind the prompts' own forward, and what was generated."""
    from transformers import LogitsProcessorList

    from erc_llm.decoding.constrained import LabelProcessor, LabelTrie
    from erc_llm.decoding.generation import end_id, generate_batches, pad_id

    model, tokenizer = work.loaded.model, work.loaded.tokenizer
    trie = LabelTrie(work.prompter.answer_ids).to(work.loaded.device)

    def hooks(width: int) -> dict[str, Any]:
        processors = [LabelProcessor(trie, width, end_id(tokenizer))] if constrained else []
        return {"logits_processor": LogitsProcessorList(processors)}

    forwards: list[float] = []
    hook = model.register_forward_hook(lambda *_: forwards.append(time.perf_counter()))
    try:
        [(order, new)] = generate_batches(
            model,
            prompts,
            len(prompts) * (max(map(len, prompts)) + STEPS),
            hooks,
            max_new_tokens=STEPS,
            pad_token_id=pad_id(tokenizer),
            eos_token_id=-1,  # no token: both sides make all their steps
            do_sample=False,
            num_beams=1,
        )
        ended = time.perf_counter()
    finally:
        hook.remove()
    rows = dict(zip(order, new.tolist(), strict=True))
    return (ended - forwards[0]) / (STEPS - 1), [rows[i] for i in range(len(prompts))]


def run_draws(settings: Mapping[str, Any], scenes: int | None) -> Result:
    """Seconds of drawing an epoch's targets, and of that epoch at the speed measured on some of its scenes."""
    from benchmarks.training import run_tree
    from benchmarks.workload import read_config
    from erc_llm.build import build_prompter
    from erc_llm.config import SamplingConfig
    from erc_llm.corpus import labelled_scenes
    from erc_llm.models.loading import load_tokenizer
    from erc_llm.recipes.data import open_corpus
    from erc_llm.recipes.train import target_sampler
    from erc_llm.tuning.scene_trees import scene_sizes, training_trees

    trained = run_tree(settings, scenes)
    config = read_config(Settings(**{**settings, "overrides": tuple(settings["overrides"])}))
    labels = config.label_set()
    dialogues = labelled_scenes(open_corpus(config.corpus, labels), None, config.seed)
    sampler = target_sampler(SamplingConfig(scheme=SCHEME, allow_absent=True), dialogues, labels, config.seed)
    times = []
    for epoch in range(PAIRS):
        began = time.perf_counter()
        asked = sampler.asked(epoch)
        times.append(time.perf_counter() - began)
    prompter = build_prompter(config, labels, load_tokenizer(config.model.base))
    [sizes] = scene_sizes(training_trees(config, dialogues, prompter, None), [asked])
    return {
        "seconds": trained["seconds"],
        "draw": median(times),
        "epoch": trained["seconds"] * sum(sizes) / trained["tokens"],
        "tokens": sum(sizes),
        "measured_tokens": trained["tokens"],
        "targets": len(sampler.targets),
        "scheme": SCHEME,
    }
