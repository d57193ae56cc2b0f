"""Scoring speed: one forward per forest, against generating an answer or requesting all likelihoods per utterance.

Input: settings. Output: a section of the report: speeds, ratios, memory, and the predictions that differ, with reasons.
Does not depend on: the accuracy of the predictions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks import llama_server
from benchmarks.measure import Job, Meter, Ratio, Result, ratio, run_alternating, run_job, speeds, summary
from benchmarks.peers import (
    Prompt,
    answer_token_log_likelihoods,
    answered_label,
    generate_answers,
    prompts_of,
)
from benchmarks.workload import Settings, Workload, open_workload

TREE, GENERATE, CONSTRAINED, REQUESTS = "token tree", "generate", "generate, constrained", "likelihood requests"
SERVER = "llama.cpp server, constrained"  # where it is installed
SPLIT = "dev"
# A request returns vocabulary logits at every position, so memory limits its batch size.
BATCH_SIZES = {GENERATE: (4, 8, 16, 32), CONSTRAINED: (4, 8, 16, 32), REQUESTS: (2, 4, 8)}
TRIED_PROMPTS = {GENERATE: 32, CONSTRAINED: 32, REQUESTS: 4}  # a prompt is one sequence; for requests, one per label


def compare(settings: Settings, scenes: int | None, rounds: int, on_run: Callable[[int, Job, Result], None]) -> Result:
    """Measure all sides; speeds in utterances per second."""
    arguments = {"settings": asdict(settings), "scenes": scenes}
    jobs = [Job(TREE, "benchmarks.scoring:run_tree", arguments)]
    sizes = {}
    for peer in (GENERATE, CONSTRAINED, REQUESTS):
        tried = run_job(Job(peer, "benchmarks.scoring:try_batch_sizes", {**arguments, "peer": peer}))
        sizes[peer] = tried["best"]
        jobs.append(Job(peer, "benchmarks.scoring:run_peer", {**arguments, "peer": peer, "batch_size": tried["best"]}))
    if llama_server.installed():
        sizes[SERVER] = run_job(Job(SERVER, "benchmarks.llama_server:try_slots", arguments))["best"]
        jobs.append(Job(SERVER, "benchmarks.llama_server:run", {**arguments, "slots": sizes[SERVER]}))
    results = run_alternating(jobs, rounds, on_run)
    speed = {name: speeds(runs, "utterances") for name, runs in results.items()}
    best_generate = [max(pair) for pair in zip(speed[GENERATE], speed[CONSTRAINED], strict=True)]
    ratios = {name: ratio(speed[TREE], speed[name]) for name in sizes}
    ratios["best of both generate"] = ratio(speed[TREE], best_generate)
    answers = {name: runs[0].pop("answers") for name, runs in results.items()}
    for runs in results.values():
        for run in runs:
            run.pop("answers", None)
    ours = results[TREE][0]
    return {
        "setup": {k: ours[k] for k in ("scenes", "utterances", "dtype", "tokens_per_forest")} | {"batch_sizes": sizes},
        "sides": {name: summary(runs, "utterances") for name, runs in results.items()},
        "ratios": {name: _as_json(r) for name, r in ratios.items()},
        "agreement": agreement(answers),
        "runs": results,
    }


def _as_json(value: Ratio) -> Result:
    return {"median": value.median, "rounds": value.values}


def run_tree(settings: Mapping[str, Any], scenes: int | None) -> Result:
    """Compute exact label distributions with token trees."""
    from erc_llm.decoding.scoring import batch_by_rows, score_trees
    from erc_llm.models.devices import keep_freed_memory
    from erc_llm.trees.attention import ATTENTION
    from erc_llm.trees.forest import rows_of

    keep_freed_memory()  # as `erc-llm predict` does
    work = open_workload(settings, SPLIT, scenes, ATTENTION)
    model, budget = work.loaded.model, work.config.scoring.tokens_per_forest
    trees = [tree for d in work.dialogues for tree in work.prompter.trees(d, "all")]
    longest = next(batch_by_rows([rows_of(tree) for tree in trees], budget))
    score_trees(model, [trees[i] for i in longest], tokens_per_forest=budget)  # peers begin with a full batch too
    meter = Meter(model)
    with meter:
        scores = score_trees(model, trees, tokens_per_forest=budget)
    answers = [
        {"label": int(s.log_likelihoods.argmax()), "log_likelihoods": s.log_likelihoods.tolist()}
        for scene in scores
        for s in scene
    ]
    return meter.result(
        utterances=len(answers),
        answers={"names": work.prompter.labels.names, "ids": work.prompter.answer_ids, "answers": answers},
        scenes=len(work.dialogues),
        dtype=str(work.loaded.dtype).removeprefix("torch."),
        tokens_per_forest=budget,
    )


def run_peer(settings: Mapping[str, Any], scenes: int | None, peer: str, batch_size: int) -> Result:
    """Run one of the peers with one prompt per utterance."""
    work = open_workload(settings, SPLIT, scenes, "sdpa")
    prompts = _prompts(work)
    _answer(work, sorted(prompts, key=lambda p: -len(p.ids))[:batch_size], peer, batch_size)
    meter = Meter(work.loaded.model)
    with meter:
        answers = _answer(work, prompts, peer, batch_size)
    return meter.result(utterances=len(prompts), answers={"answers": answers}, batch_size=batch_size)


def try_batch_sizes(settings: Mapping[str, Any], scenes: int | None, peer: str) -> Result:
    """Utterances per second of a peer by batch size, on a few prompts of all lengths, and the fastest size."""
    work = open_workload(settings, SPLIT, scenes, "sdpa")
    prompts = sorted(_prompts(work), key=lambda p: len(p.ids))
    most = TRIED_PROMPTS[peer]
    tried = prompts[:: max(1, len(prompts) // most)][:most]
    _answer(work, tried[:1], peer, 1)
    speed = {}
    for size in BATCH_SIZES[peer]:
        began = time.perf_counter()
        _answer(work, tried, peer, size)
        speed[size] = len(tried) / (time.perf_counter() - began)
    return {"best": max(speed, key=lambda size: speed[size]), "utterances_per_second": speed}


def _prompts(work: Workload) -> list[Prompt]:
    return prompts_of([tree for d in work.dialogues for tree in work.prompter.trees(d, "all")])


def _answer(work: Workload, prompts: Sequence[Prompt], peer: str, batch_size: int) -> list[Result]:
    model, tokenizer = work.loaded.model, work.loaded.tokenizer
    if peer == REQUESTS:
        found = answer_token_log_likelihoods(model, prompts, batch_size)
        return [_best(prompt, tokens) for prompt, tokens in zip(prompts, found, strict=True)]
    texts = generate_answers(model, tokenizer, prompts, batch_size, peer == CONSTRAINED)
    eos = tokenizer.eos_token_id
    return [{"label": answered_label(p, new, eos)} for p, new in zip(prompts, texts, strict=True)]


def _best(prompt: Prompt, tokens: Sequence[Sequence[float]]) -> Result:
    by_label = dict(zip(prompt.labels, tokens, strict=True))
    return {"label": max(by_label, key=lambda k: sum(by_label[k])), "tokens": [by_label[k] for k in sorted(by_label)]}


def agreement(answers: Mapping[str, Result]) -> Result:
    """Utterances for which the token tree and a peer disagree, with the numbers that explain it.

    A likelihood request computes the same number as the token tree, so a difference there is a near tie (see `gap`).
    Constrained generation, here or on a server, takes the most probable token at each step: where two labels diverge
    it compares one token (`token`), whereas the token tree compares whole answers (`sequence`). Both numbers are given
    for both labels.
    """
    ours, ids = answers[TREE]["answers"], answers[TREE]["ids"]
    names, tokens = answers[TREE]["names"], [a["tokens"] for a in answers[REQUESTS]["answers"]]
    report: Result = {}
    for peer in (CONSTRAINED, REQUESTS, SERVER):
        if peer not in answers:
            continue
        flips = []
        for i, (mine, their) in enumerate(zip(ours, answers[peer]["answers"], strict=True)):
            if mine["label"] != their["label"]:
                flips.append({"utterance": i, **_flip(mine, their["label"], names, ids, tokens[i])})
        report[peer] = {"same": 1 - len(flips) / len(ours), "flips": flips}
    free = [a["label"] for a in answers[GENERATE]["answers"]]
    report[GENERATE] = {
        "same": sum(a["label"] == b for a, b in zip(ours, free, strict=True)) / len(ours),
        "no_label": sum(label is None for label in free) / len(free),
    }
    drift = [
        abs(sum(t) - ll)
        for mine, request in zip(ours, tokens, strict=True)
        for t, ll in zip(request, mine["log_likelihoods"], strict=True)
    ]
    report["largest_difference"] = max(drift)
    return report


def _flip(
    mine: Result,
    theirs: int | None,
    names: Sequence[str],
    ids: Sequence[Sequence[int]],
    tokens: Sequence[Sequence[float]],
) -> Result:
    first = mine["label"]
    flip: Result = {"ours": names[first], "theirs": None if theirs is None else names[theirs]}
    if theirs is None:
        return flip
    parting = next(k for k, (a, b) in enumerate(zip(ids[first], ids[theirs], strict=False)) if a != b)
    likelihoods = mine["log_likelihoods"]
    return flip | {
        "gap": likelihoods[first] - likelihoods[theirs],
        "sequence": [likelihoods[first], likelihoods[theirs]],
        "requests": [sum(tokens[first]), sum(tokens[theirs])],
        "token": [tokens[first][parting], tokens[theirs][parting]],
    }
