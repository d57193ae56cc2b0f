"""The predictions table: the one seam between models and evidence.

Goes in: the dialogues of a split and a model's answers, or a file. Comes out: a checked, frozen `Predictions`, or a
Parquet or JSONL file. Every system writes this table and every evaluation reads only this table, so nothing here knows
prompts, models or figures. A table that breaks its own rules (a doubled target, a label outside the set, probabilities
that do not sum to one) cannot be built, whether it comes from a model or from a file.
"""

from erc_llm.predictions.corpus_columns import history_lengths
from erc_llm.predictions.correction import Correction, PriorShift, Scaling, correct
from erc_llm.predictions.storage import read_predictions, strip_text, write_predictions
from erc_llm.predictions.table import FORMAT_VERSION, REQUIRED, Prediction, Predictions, PredictionsInfo

__all__ = [
    "FORMAT_VERSION",
    "REQUIRED",
    "Correction",
    "Prediction",
    "Predictions",
    "PredictionsInfo",
    "PriorShift",
    "Scaling",
    "correct",
    "history_lengths",
    "read_predictions",
    "strip_text",
    "write_predictions",
]
