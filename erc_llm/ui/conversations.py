"""Labels of conversations: whole ones in a batch, and one line more on the key-value cache of the lines before.

A conversation is found again by its lines, so a browser holds no session: whoever sends the same lines and one more
gets that line's label from the cache. Caches are bounded in number and in memory; what was dropped is read again.

Input: a predictor and lines. Output: a label for each line that is not empty.
Does not depend on: HTTP, threads; the caller uses one thread.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from erc_llm.corpus.dialogues import Dialogue, Utterance
from erc_llm.live import LiveSession
from erc_llm.predictor import LabelledUtterance, Predictor

Lines = tuple[tuple[tuple[str, ...], str], ...]  # the speakers and the text of each line
Labels = tuple[LabelledUtterance | None, ...]

_NEW = Dialogue("live", ())


def dialogue_of(lines: Lines, scene: Dialogue | None = None) -> Dialogue:
    """A dialogue of these lines, at the place in time of a corpus's scene if there is one; an empty line is context."""
    spoken = enumerate(lines, start=1)
    utterances = tuple(Utterance(f"u{k:03d}", who, text, target=bool(text.strip())) for k, (who, text) in spoken)
    place = scene or _NEW
    return Dialogue(place.id, utterances, place.season, place.episode, place.scene)


@dataclass(slots=True)
class _Labelled:
    labels: Labels
    live: LiveSession | None = None


class Conversations:
    """Labels conversations, and keeps the caches of the latest ones.

    Args:
        most: Conversations that are kept.
        cache_bytes: Memory for all caches; above it, those of the conversations that are silent longest are dropped.
    """

    def __init__(self, most: int = 64, cache_bytes: int = 2**30) -> None:
        self._most, self._cache_bytes = most, cache_bytes
        self._kept: OrderedDict[tuple[int, str, Lines], _Labelled] = OrderedDict()  # the latest one last

    @property
    def cached_bytes(self) -> int:
        """Memory of all caches, in bytes."""
        return sum(kept.live.cached_bytes for kept in self._kept.values() if kept.live is not None)

    def labels(self, system: int, predictor: Predictor, lines: Lines, scene: Dialogue | None = None) -> Labels:
        """The label of each line, as batch prediction gives it; None for an empty line.

        Args:
            system: Number of the system, by which conversations are kept apart.
            predictor: Its predictor.
            lines: The conversation.
            scene: The scene of a corpus that it began as; its place in time decides what profiles know.

        Raises:
            UserError: The model cannot label it.
        """
        place = "" if scene is None else scene.id
        found = self._kept.pop((system, place, lines), None)
        if found is None:
            before = self._kept.pop((system, place, lines[:-1]), None) if _is_live(predictor, lines, scene) else None
            found = _first(predictor, lines, scene) if before is None else _next(before, predictor, lines, scene)
        self._kept[system, place, lines] = found
        self._drop()
        return found.labels

    def _drop(self) -> None:
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        total = self.cached_bytes
        for kept in self._kept.values():
            if total <= self._cache_bytes:
                return
            if kept.live is not None:
                total -= kept.live.cached_bytes
                kept.live.forget()


def _first(predictor: Predictor, lines: Lines, scene: Dialogue | None) -> _Labelled:
    dialogue = dialogue_of(lines, scene)
    labels = iter(predictor.predict(dialogue))
    return _Labelled(tuple(next(labels) if u.target else None for u in dialogue.utterances))


def _next(before: _Labelled, predictor: Predictor, lines: Lines, scene: Dialogue | None) -> _Labelled:
    live = before.live
    if live is None:
        live = predictor.live() if scene is None else predictor.live(scene.id, scene.episode_id)
        live.hear(lines[:-1])
    return _Labelled((*before.labels, live.say(*lines[-1])), live)


def _is_live(predictor: Predictor, lines: Lines, scene: Dialogue | None) -> bool:
    """Whether a live session gives the label of the last line: it reads no later line, and no time of a scene."""
    config = predictor.config
    ahead = config.prompt.context == "full" or config.prompt.lookahead > 0 or config.scoring.forecast
    timed = scene is not None and (config.profile.writer != "none" or config.retrieval.use != "none")
    return not ahead and not timed and all(text.strip() for _, text in lines)
