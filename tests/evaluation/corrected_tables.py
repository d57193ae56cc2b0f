"""A table whose scores went through every step of a correction."""

from __future__ import annotations

from erc_llm.predictions import Correction, Decision, Predictions, PriorShift, Scaling, correct
from tests.predictions.scored_tables import CORPUS, TRAINED, draw, scored

RULE = Decision("weights", "inductive", (1.0, 1.5, 0.8, 1.2), (0.0,) * 4)
WHOLE = Correction(PriorShift("corpus", TRAINED, CORPUS), Scaling(2.0, (0.1, 0, 0, 0)), RULE)


def corrected_table() -> Predictions:
    evidence, gold = draw(800)
    return correct(scored(evidence * 2, gold, split="dev"), WHOLE)
