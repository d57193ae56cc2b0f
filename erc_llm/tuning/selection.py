"""Evaluation on the selection split during training: the steps after which it is scored, and the metrics.

Input: a model, a prompter and labelled dialogues. Output: metrics by name.
Does not depend on: run directories, the training loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from erc_llm.corpus import Corpus, Dialogue
from erc_llm.decoding.scenes import score_scenes
from erc_llm.decoding.scoring import LabelScores
from erc_llm.errors import CorpusError
from erc_llm.metrics import confusion, scores_from_confusion
from erc_llm.predictions import Correction
from erc_llm.prompting.prompter import Prompter
from erc_llm.tuning.processes import shared_work


def check_selection(corpus: Corpus) -> None:
    """Refuse a selection split that cannot be scored.

    Raises:
        CorpusError: The split has no labelled target.
    """
    if not any(d.utterances[k].label is not None for d in corpus.split("selection") for k in d.targets):
        raise CorpusError("the selection split has no labelled utterance; label some, or set training.evaluations=0")


def evaluation_steps(total: int, evaluations: int) -> frozenset[int]:
    """Steps after which the selection split is scored: evenly spaced, always including the last one."""
    return frozenset(round(total * (i + 1) / evaluations) for i in range(evaluations)) - {0}


def score_metrics(
    model: Any,
    prompter: Prompter,
    dialogues: Sequence[Dialogue],
    tokens: int,
    passes: Literal[1, 2] = 1,
    correction: Correction | None = None,
) -> dict[str, float]:
    """Weighted and macro F1, accuracy and mean label NLL (nats) of a model on labelled dialogues.

    Processes that train together score a share each, and all get the metrics.

    Args:
        model: The model.
        prompter: Builds the prompts.
        dialogues: The dialogues; only labelled targets count.
        tokens: Most tokens of a forward pass.
        passes: Number of passes, as for `score_scenes`.
        correction: Correction of the scores, the same that `predict` applies, so that the adapter that predicts best is
            kept.

    Raises:
        CorpusError: No target is labelled.
    """
    correction = correction or Correction()

    def scores_of(share: Sequence[Dialogue]) -> list[list[LabelScores]]:
        return score_scenes(model, prompter, share, "gold_all", passes=passes, tokens_per_forest=tokens)

    scored = shared_work(dialogues, scores_of)
    gold, predicted, nll = [], [], []
    for dialogue, scores in zip(dialogues, scored, strict=True):
        for score in scores:
            label = dialogue.utterances[score.target].label
            assert label is not None
            probabilities = correction.probabilities(score.log_likelihoods)
            gold.append(prompter.labels.index(label))
            predicted.append(int(correction.decide(probabilities)))
            nll.append(-float(np.log(max(probabilities[gold[-1]], 1e-12))))
    if not gold:
        raise CorpusError("the selection split has no labelled utterance; set training.evaluations=0 or a larger split")
    metrics = scores_from_confusion(confusion(np.array(gold), np.array(predicted), len(prompter.labels)))
    return {
        "weighted_f1": float(metrics.weighted_f1),
        "macro_f1": float(metrics.macro_f1),
        "accuracy": float(metrics.accuracy),
        "nll": float(np.mean(nll)),
    }
