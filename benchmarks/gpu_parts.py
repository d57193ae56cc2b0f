"""The parts of the report on the first GPU; each is called in a process of its own, and answers with numbers.

Input: a `Place`: a scratch folder, a corpus, whether the run is dry. Output: a dict that JSON can represent.
Does not depend on: the order of parts, the budget of time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from benchmarks import llama2_7b
from benchmarks.commands import command_line, has_checkpoint, watch
from benchmarks.measure import Result
from benchmarks.outcome import CannotDo
from erc_llm.errors import UserError

if TYPE_CHECKING:
    from erc_llm.config import RunConfig

CONFIG = llama2_7b.CONFIG
SCENES = 12
_LARGEST = 0.1  # difference of a probability; in 16 bits kernels alone differ by up to 0.03
_SMALL_FRACTION = 0.05  # of a card's memory: too little for the base model and a forest


@dataclass(frozen=True, slots=True)
class Place:
    """Where the parts work.

    Attributes:
        folder: A scratch folder.
        corpus: The corpus.
        dry: A tiny model on the CPU instead of a 7B one on a GPU.
    """

    folder: str
    corpus: str
    dry: bool

    def as_dict(self) -> Result:
        """As JSON, for another process."""
        return asdict(self)

    @property
    def base(self) -> Path:
        """Folder of the base model."""
        return Path(self.folder) / "base"

    def overrides(self, **changes: Any) -> list[str]:
        """Changes of the configuration, with `__` for the dot of a field."""
        fixed = {"model.base": self.base, "corpus.path": self.corpus, "output": self.folder}
        fixed["model.device"] = "cpu" if self.dry else "cuda"
        named = {name.replace("__", "."): value for name, value in changes.items()}
        return [f"{name}={value}" for name, value in (fixed | named).items()]

    def config(self, **changes: Any) -> RunConfig:
        """The configuration with changes."""
        from erc_llm.config import load_config

        return load_config(CONFIG, self.overrides(**changes))

    def settings(self, **changes: Any) -> Result:
        """The same as the benchmarks of training and scoring take it."""
        return {"corpus": self.corpus, "config": CONFIG, "overrides": self.overrides(**changes), "run": None}


def device(place: Mapping[str, Any]) -> Result:
    """The card, and the versions of torch and CUDA."""
    import torch

    where = Place(**place)
    if where.dry:
        return {"name": "dry run on the CPU", "torch": torch.__version__}
    if not torch.cuda.is_available():
        raise CannotDo("torch sees no GPU: there is none, its driver is too old, or torch was built for the CPU")
    card = torch.cuda.get_device_properties(0)
    capability = ".".join(map(str, torch.cuda.get_device_capability(0)))
    return {
        "name": card.name,
        "gib": card.total_memory / 2**30,
        "capability": capability,
        "bf16": torch.cuda.is_bf16_supported(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }


def write(place: Mapping[str, Any]) -> Result:
    """Write the base model, with a tokenizer trained on the corpus."""
    where = Place(**place)
    return llama2_7b.write("four-layers" if where.dry else "llama2-7b", where.corpus, where.folder)


def equality(place: Mapping[str, Any], quantisation: str) -> Result:
    """Largest differences of probabilities: forests in one kernel, tree by tree, a plain pass of each prompt."""
    import numpy as np

    from erc_llm.build import build_model, build_prompter
    from erc_llm.decoding.scoring import score_trees
    from erc_llm.export.plain_scores import plain_scores
    from erc_llm.export.probes import drift, probe_of
    from erc_llm.recipes.data import open_corpus
    from erc_llm.trees import attention

    where = Place(**place)
    if quantisation == "none" and not where.dry:
        _needs(17 * 2**30)
    config = where.config(model__quantisation=quantisation)
    loaded = build_model(config)
    corpus = open_corpus(config.corpus, config.label_set())
    prompter = build_prompter(config, config.label_set(), loaded.tokenizer, past=corpus)
    trees = [tree for dialogue in corpus.split("dev")[:4] for tree in prompter.trees(dialogue, "all")]
    with patch.object(attention, "flex_forest_attention", wraps=attention.flex_forest_attention) as kernel:  # type: ignore[attr-defined]
        packed = score_trees(loaded.model, trees)
    with patch.object(attention, "takes_flex", lambda *_: False):
        by_tree = score_trees(loaded.model, trees)
    probes = [
        probe_of(tree, question, score.log_likelihoods.tolist())
        for tree, scores in zip(trees, packed, strict=True)
        for question, score in zip(tree.questions, scores, strict=True)
    ]
    plain = drift(probes, plain_scores(loaded.model, probes))
    alone = drift(probes, np.array([score.log_likelihoods for scores in by_tree for score in scores]))
    return {
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "prompts": len(probes),
        "one_kernel": kernel.called,
        "forest_against_plain": plain.largest,
        "other_labels": plain.flips,
        "forest_against_tree_by_tree": alone.largest,
        "equal": max(plain.largest, alone.largest) <= _LARGEST,
    }


def _needs(size: int) -> None:
    import torch

    total = torch.cuda.get_device_properties(0).total_memory
    if total < size:
        raise CannotDo(f"the card has {total / 2**30:.0f} GiB, this needs {size / 2**30:.0f}")


def training(place: Mapping[str, Any], tokens: int) -> Result:
    """QLoRA on token trees: speed, and memory of tensors against the plan."""
    from benchmarks.training import run_tree
    from erc_llm.recipes.plan import plan_run

    where = Place(**place)
    changes = {"training__tokens_per_step": tokens, "training__accumulation": 1}
    peak = plan_run(where.config(**changes, training__max_scenes=SCENES, training__epochs=1)).plan.peaks.training
    if not where.dry:
        _needs(peak.total)
    found = run_tree(where.settings(**changes), SCENES)
    return _speed(found) | {"planned_gib": peak.tensors / 2**30}


def training_trl(place: Mapping[str, Any], tokens: int) -> Result:
    """The same targets as one prompt per utterance with TRL."""
    from benchmarks.training import run_trl

    where = Place(**place)
    return _speed(
        run_trl(where.settings(training__tokens_per_step=tokens, training__accumulation=1), SCENES, padding_free=False)
    )


def scoring(place: Mapping[str, Any]) -> Result:
    """Exact label distributions of scenes."""
    from benchmarks.scoring import run_tree

    return _speed(run_tree(Place(**place).settings(), SCENES))


def generating(place: Mapping[str, Any]) -> Result:
    """The same scenes with transformers' `generate`, constrained to the labels."""
    from benchmarks.scoring import CONSTRAINED, run_peer

    return _speed(run_peer(Place(**place).settings(), SCENES, CONSTRAINED, 16))


def _speed(found: Result) -> Result:
    return {
        "utterances_per_second": found["utterances"] / found["seconds"],
        "tokens_per_second": found["tokens"] / found["seconds"],
        "tokens": found["tokens"],
        "peak_gib": found["peak_mb"] * 1e6 / 2**30,
    }


def road(place: Mapping[str, Any]) -> Result:
    """Train, be killed after a checkpoint, resume, predict: the metrics of selection are those of prediction."""
    from erc_llm.evaluation.report import evaluate
    from erc_llm.predictions import read_predictions

    where = Place(**place)
    run, table = Path(where.folder) / "run", Path(where.folder) / "selection.parquet"
    changes = {"name": "run", "training__max_scenes": SCENES, "training__epochs": 1, "training__evaluations": 1}
    changes |= {"training__checkpoint_minutes": 0, "training__tokens_per_step": 256, "training__accumulation": 1}
    train = ["train", CONFIG, *where.overrides(**changes)]
    watch(command_line(*train), lambda: has_checkpoint(run))
    resumed = watch(command_line(*train, "--resume"))["output"]
    watch(command_line("predict", run, where.corpus, "--split", "selection", "--out", table, "--calibration", "none"))
    last = json.loads((run / "selection.jsonl").read_text("utf-8").splitlines()[-1])
    there = evaluate(read_predictions(table), draws=1).headline.weighted_f1.value
    return {
        "resumed": "continues after step" in resumed,
        "selection_weighted_f1": last["weighted_f1"],
        "predicted_weighted_f1": there,
        "equal": abs(last["weighted_f1"] - there) < 1e-9,
    }


def out_of_memory(place: Mapping[str, Any]) -> Result:
    """The message where a card is too small, on a part of this one."""
    import torch
    from rich.console import Console

    from erc_llm.recipes.train import train

    where = Place(**place)
    if where.dry:
        raise CannotDo("a CPU has no memory of a GPU")
    os.environ.pop("PYTORCH_ALLOC_CONF", None)
    torch.cuda.set_per_process_memory_fraction(_SMALL_FRACTION)
    try:
        train(where.config(name="small", training__max_scenes=SCENES), console=Console(quiet=True), force=True)
    except UserError as error:
        return {"message": str(error)[:400], "exit_code": error.exit_code}
    return {"message": "none: it fits"}
