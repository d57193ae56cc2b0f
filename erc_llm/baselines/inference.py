"""Inference and evaluation of a baseline: label probabilities of examples, and metrics on labelled ones.

Every remembered utterance is embedded once per pass, however the model was trained.

Input: a loaded model and examples. Output: probabilities in the order of the examples, or metrics by name.
Does not depend on: corpora, training, run directories.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from erc_llm.baselines.batches import pad, reading_batches
from erc_llm.baselines.build import LoadedBaseline
from erc_llm.baselines.compm import MemoryClassifier
from erc_llm.baselines.inputs import Example
from erc_llm.baselines.memory import Snapshot, take_snapshot
from erc_llm.metrics import Floats, confusion, negative_log_likelihood, scores_from_confusion

_AT_ONCE = 64  # examples in one forward pass


def snapshot_of(loaded: LoadedBaseline, examples: Sequence[Example]) -> Snapshot | None:
    """Vectors of all remembered utterances of the examples, without gradients; None for a model without a memory."""
    model = loaded.model
    if not isinstance(model, MemoryClassifier):
        return None
    training = model.remembering.training
    model.remembering.eval()
    with torch.no_grad(), loaded.autocast():
        found = take_snapshot(model.remembering, examples, loaded.padding, loaded.hidden, loaded.device)
    model.remembering.train(training)
    return found


def probabilities(
    loaded: LoadedBaseline,
    examples: Sequence[Example],
    snapshot: Snapshot | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Floats:
    """Return (examples, labels) probabilities in the order of the examples; rows sum to 1.

    Args:
        loaded: The model; its train or eval mode is restored afterwards.
        examples: The examples.
        snapshot: Vectors of their remembered utterances, if they are computed already.
        on_progress: Called with the number of examples done.
    """
    model = loaded.model
    snapshot = snapshot or snapshot_of(loaded, examples)
    found = np.zeros((len(examples), model.head.out_features))
    training, done = model.training, 0
    model.eval()
    for batch in reading_batches(examples, _AT_ONCE):
        rows = [examples[i] for i in batch]
        with torch.no_grad(), loaded.autocast():
            contexts = pad([example.context for example in rows], loaded.padding, loaded.device)
            scores = model(contexts, *(snapshot.histories(rows) if snapshot else ()))
        found[batch] = torch.softmax(scores.double(), dim=-1).cpu().numpy()
        done += len(batch)
        if on_progress:
            on_progress(done)
    model.train(training)
    return found


def score_metrics(probabilities: Floats, examples: Sequence[Example]) -> dict[str, float]:
    """Weighted and macro F1, accuracy and mean NLL (nats) of (examples, labels) probabilities, on labelled examples."""
    rows = [i for i, example in enumerate(examples) if example.label is not None]
    gold = np.array([examples[i].label for i in rows], dtype=np.int64)
    predicted = probabilities[rows].argmax(axis=1)
    scores = scores_from_confusion(confusion(gold, predicted, probabilities.shape[1]))
    return {
        "weighted_f1": float(scores.weighted_f1),
        "macro_f1": float(scores.macro_f1),
        "accuracy": float(scores.accuracy),
        "nll": negative_log_likelihood(probabilities[rows], gold),
    }
