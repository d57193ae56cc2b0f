"""Columns of the predictions table that come from the corpus: a target's place, its speaker's past, its gold labels.

Input: dialogues. Output: the columns of one target; the lengths of speakers' histories.
Does not depend on: models, predictions, files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from itertools import groupby
from typing import Any

from erc_llm.corpus.dialogues import Dialogue
from erc_llm.corpus.history import spoken_lines
from erc_llm.corpus.speakers import GENERIC_NAMES, identity
from erc_llm.errors import PredictionsError


def history_lengths(
    dialogues: Iterable[Dialogue], generic: Collection[str] = GENERIC_NAMES
) -> dict[Dialogue, dict[str, int]]:
    """For each dialogue and each of its speakers: how many lines that person had in strictly earlier dialogues.

    Dialogues are put in time order; where one has no time, all keep the order they are given in. Dialogues of the same
    time do not count for each other. The lines are those that speaker profiles are written from, see
    `erc_llm.corpus.history.spoken_lines`; `#ALL#` itself has none. A generic name stands for whom
    `erc_llm.corpus.speakers.identity` returns.
    """
    given = list(dialogues)
    timed = all(d.time is not None for d in given)
    moments: list[tuple[Any, Dialogue]] = [(d.time if timed else i, d) for i, d in enumerate(given)]
    moments.sort(key=lambda moment: moment[0])
    spoken: Counter[str] = Counter()
    lengths: dict[Dialogue, dict[str, int]] = {}
    for _, group in groupby(moments, key=lambda moment: moment[0]):
        scenes = [dialogue for _, dialogue in group]
        for d in scenes:
            lengths[d] = {s: spoken[identity(s, d, generic)] for u in d.utterances for s in u.speakers}
        for d in scenes:
            for speaker, positions in spoken_lines(d).items():
                spoken[identity(speaker, d, generic)] += len(positions)
    return lengths


def corpus_columns(
    dialogue: Dialogue, position: int, order: int, spoken: Mapping[Dialogue, Mapping[str, int]] | None
) -> dict[str, Any]:
    """The corpus-derived columns of one target; `spoken` is what `history_lengths` gives, None without a history.

    Raises:
        PredictionsError: The dialogue is not part of the history.
    """
    utterance = dialogue.utterances[position]
    speaker = utterance.speakers[0] if utterance.speakers else ""
    if spoken is not None and dialogue not in spoken:
        raise PredictionsError(f"dialogue '{dialogue.id}' is not among those given as history; give the whole corpus")
    length = None if spoken is None else spoken[dialogue].get(speaker, 0)
    before = reversed(dialogue.utterances[:position])
    return {
        "dialogue_id": dialogue.id,
        "utterance_id": utterance.id,
        "position": position,
        "episode": dialogue.episode_id,
        "scene_order": order,
        "speakers": utterance.speakers,
        "text": utterance.text,
        "gold": utterance.label,
        "previous_gold_same_speaker": next((u.label for u in before if speaker in u.speakers), None),
        "history_length": length,
        "first_seen": None if length is None else length == 0,
    }
