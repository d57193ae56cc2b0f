"""Small scenes, and what a table of them is made of."""

from __future__ import annotations

from typing import Any

from erc_llm.corpus.dialogues import Dialogue, Utterance
from erc_llm.predictions import (
    Prediction,
    PredictionsInfo,
)

LABELS = ("Joyful", "Neutral", "Sad")
INFO = PredictionsInfo(
    system="tuned",
    labels=LABELS,
    corpus_sha256="ab" * 32,
    corpus_name="series",
    corpus_version="own",
    split="dev",
    healed=True,
    run_id="run-1",
    seed=13,
    context="past",
    template_sha256="cd" * 32,
    base_model="tiny",
    prior="train shares",
    train_shares=(0.25, 0.5, 0.25),
    created_with={"erc-llm": "0.1"},
)


def line(id: str, speaker: str, label: str | None = "Neutral", text: str = "hi", target: bool = True) -> Utterance:
    return Utterance(id, tuple(speaker.split("+")), text, label, target)


FIRST = Dialogue("a", (line("1", "Ann", "Joyful"), line("2", "Bob", "Sad"), line("3", "Ann")), 1, 1, 1)
SECOND = Dialogue("b", (line("1", "Ann", None), line("2", "Ann"), line("3", "Bob+Cy"), line("4", "Dee")), 1, 1, 2)
OTHER_SPLIT = Dialogue("c", (line("1", "Bob"), line("2", "Cy+Bob"), line("3", "Bob", text=" ")), 1, 1, 0)


def answers(*dialogues: Dialogue, **given: Any) -> list[Prediction]:
    return [Prediction("Neutral", **given) for d in dialogues for _ in d.targets]


def columns(rows: int = 2, **others: Any) -> dict[str, Any]:
    required = {"dialogue_id": ["a"] * rows, "utterance_id": [str(i) for i in range(rows)], "predicted": ["Sad"] * rows}
    return required | others
