"""Training EmoNet: in padded batches with a memory embedded once, against CoMPM's way of one target at a time.

Same encoder, contexts, precision, optimizer and targets. CoMPM's public code takes batches of one, embeds the
remembered utterances anew for every target and trains both encoders; it is built here as a peer to measure, once with
EmoNet's memory across dialogues and once with CoMPM's own within the dialogue. In: a corpus. Out: a section of the
report; `python -m benchmarks baselines --corpus FOLDER` prints it alone. Each measurement is a fresh process.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.measure import Job, Result, peak_mb, ratio, run_alternating, speeds

if TYPE_CHECKING:
    from erc_llm.baselines.inputs import Example
    from erc_llm.baselines.loop import Fitting

CACHED, END_TO_END = "EmoNet, batched, memory embedded once", "EmoNet, batched, end to end"
PEER, COMPM = "EmoNet's inputs, CoMPM's way", "CoMPM's inputs, CoMPM's way"
SIDES = {
    CACHED: ("batched", ("memory.encoding=cached",)),
    END_TO_END: ("batched", ("memory.encoding=end_to_end",)),
    PEER: ("one by one", ("memory.encoding=end_to_end",)),
    COMPM: ("one by one", ("memory.encoding=end_to_end", "kind=compm")),
}
PEER_TARGETS = 60  # drawn of all: one costs the same whatever else is measured
_WARM_UP = 2  # steps


def compare(corpus: str, scenes: int, rounds: int, on_run: Callable[[int, Job, Result], None] | None = None) -> Result:
    """All sides on the targets of `scenes` drawn training scenes."""
    jobs = [
        Job(name, "benchmarks.baselines:run", {"corpus": corpus, "scenes": scenes, "way": way, "overrides": overrides})
        for name, (way, overrides) in SIDES.items()
    ]
    results = run_alternating(jobs, rounds, on_run)
    ours = speeds(results[CACHED], "utterances")
    sides: Result = {}
    for name, runs in results.items():
        faster = ratio(ours, speeds(runs, "utterances"))
        sides[name] = {
            "utterances": runs[0]["utterances"],
            "utterances_per_second": median(speeds(runs, "utterances")),
            "slower": faster.median,
            "slower_rounds": faster.values,
            "peak_mb": max(run["peak_mb"] for run in runs),
        }
    first = results[CACHED][0]
    return {"setup": {name: first[name] for name in ("model", "dtype", "tokens", "window", "scenes")}, "sides": sides}


def run(corpus: str, scenes: int, way: str, overrides: Sequence[str]) -> Result:
    """One measurement: a pass of optimizer steps, embedding of the memory included; loading and tokenising are not."""
    import tempfile

    from erc_llm.baselines.baseline_config import load_baseline
    from erc_llm.baselines.batches import epoch_batches
    from erc_llm.baselines.build import build
    from erc_llm.baselines.emonet import context_limits
    from erc_llm.baselines.inputs import InputWriter
    from erc_llm.baselines.loop import Fitting
    from erc_llm.baselines.training import loop_settings
    from erc_llm.corpus import labelled_scenes
    from erc_llm.recipes.data import open_corpus
    from erc_llm.runs.progress import SILENT

    config = load_baseline("emonet", [f"corpus.path={corpus}", *overrides])
    read = open_corpus(config.corpus, config.label_set())
    loaded = build(config, len(read.labels))
    chosen = labelled_scenes(read, scenes, config.seed)
    examples = [
        e for e in InputWriter(read, loaded.tokenizer, context_limits(config)).examples(chosen) if e.label is not None
    ]
    if way == "one by one":
        examples = _draw(examples, PEER_TARGETS, config.seed)
    settings = loop_settings(config, (1.0,) * len(read.labels))
    with tempfile.TemporaryDirectory() as folder:
        fitting = Fitting(loaded, examples, examples[:1], settings, Path(folder), SILENT)
        size = settings.batch_size if way == "batched" else 1
        batches = epoch_batches([len(e.context) for e in examples], size, config.seed, 0)
        step = fitting.step if way == "batched" else one_by_one(fitting)
        before = peak_mb(loaded.device)
        if way == "batched":
            fitting.embed_once()
        for batch in batches[:_WARM_UP]:
            step([examples[i] for i in batch])
        began = time.perf_counter()
        if way == "batched":
            fitting.embed_once()
        for batch in batches:
            step([examples[i] for i in batch])
        seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "utterances": len(examples),
        "scenes": len(chosen),
        "before_mb": before,
        "peak_mb": peak_mb(loaded.device),
        "model": loaded.description,
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "tokens": config.encoder.max_tokens,
        "window": config.memory.window,
    }


def one_by_one(fitting: Fitting) -> Callable[[Sequence[Example]], tuple[float, float]]:
    """CoMPM's step: one target, every remembered utterance through the second encoder again, both encoders trained."""
    import torch
    from torch.nn.functional import cross_entropy

    from erc_llm.baselines.batches import pad
    from erc_llm.baselines.compm import MemoryClassifier

    loaded, optimizer = fitting.loaded, fitting.optimizer
    model = loaded.model
    assert isinstance(model, MemoryClassifier), "CoMPM's way is that of a model with a memory"
    assert not model.frozen, "CoMPM trains its second encoder"

    def step(examples: Sequence[Example]) -> tuple[float, float]:
        (example,) = examples
        model.train()
        with loaded.autocast():
            contexts = pad([example.context], loaded.padding, loaded.device)
            if example.memory:
                vectors = model.remembering(pad(example.memory, loaded.padding, loaded.device))[None]
            else:
                vectors = torch.zeros(1, 0, loaded.hidden, device=loaded.device)
            lengths = torch.tensor([len(example.memory)], device=loaded.device)
            scores = model(contexts, vectors, lengths)
        loss = cross_entropy(scores.float(), torch.tensor([example.label], device=loaded.device))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        fitting.scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item(), norm.item()

    return step


def _draw(examples: list[Example], most: int, seed: int) -> list[Example]:
    if most >= len(examples):
        return examples
    chosen = sorted(random.Random(f"benchmarks/{seed}").sample(range(len(examples)), most))
    return [examples[i] for i in chosen]
