"""The predictions table: every system writes it, and evaluation reads nothing else.

A table that breaks a rule (a duplicate target, a label outside the set, probabilities that do not sum to one) raises an
error when it is built, from a model or from a file.

Input: the dialogues of a split and a system's predictions, or a file. Output: a checked, frozen `Predictions`, or a
Parquet or JSONL file.
Does not depend on: prompts, models, metrics.
"""

from erc_llm.predictions.corpus_columns import history_lengths
from erc_llm.predictions.correction import Correction, Decision, Mixing, PriorShift, Scaling, corpus_shift, correct
from erc_llm.predictions.info import FORMAT_VERSION, PredictionsInfo
from erc_llm.predictions.storage import read_predictions, strip_text, write_predictions
from erc_llm.predictions.table import REQUIRED, Prediction, Predictions

__all__ = [
    "FORMAT_VERSION",
    "REQUIRED",
    "Correction",
    "Decision",
    "Mixing",
    "Prediction",
    "Predictions",
    "PredictionsInfo",
    "PriorShift",
    "Scaling",
    "corpus_shift",
    "correct",
    "history_lengths",
    "read_predictions",
    "strip_text",
    "write_predictions",
]
