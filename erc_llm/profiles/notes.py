"""The profile writer `llm`: recurrent summaries. A language model rewrites the notes on a person after each scene.

    notes after scene t = write(notes after scene t-1, scene t)

This is the textual counterpart of a recurrent speaker memory: the notes have a fixed length, so old content fades as
it makes room for new. The batches depend on the corpus alone and are cached on disk, so that an interrupted run
continues where it stopped, and every order of execution gives the same notes.

Input: a `History`, and a callable that answers a batch of prompts. Output: notes (sentences) per person and scene.
Does not depend on: models, servers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from erc_llm.corpus.dialogues import Dialogue
from erc_llm.corpus.history import History
from erc_llm.profiles.profiler import Profile, ProfileContext
from erc_llm.prompting.encoding import one_line
from erc_llm.prompting.names import first_name, line_names
from erc_llm.prompting.templates import PromptTemplate
from erc_llm.runs.journal import Journal

Notes = Mapping[tuple[str, str], str]  # (person, id of the scene after which they were written) to notes
Generate = Callable[[Sequence[tuple[str, str]]], list[str]]  # (system, user) texts to answers

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[\"'A-Z])")
_EXCERPT_WORDS = 120


@dataclass(frozen=True, slots=True)
class NotesSource:
    """Everything that notes depend on; the first line of a cache file.

    Attributes:
        corpus_sha256: Hash of the corpus.
        model: Name and hash of the model that writes the notes.
        template_sha256: Hash of the prompt template that asks for them.
        words: Maximum words of the notes.
    """

    corpus_sha256: str
    model: str
    template_sha256: str
    words: int

    @property
    def sha256(self) -> str:
        """Hash of all fields."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()

    def as_dict(self) -> dict[str, object]:
        """The fields as values that JSON can represent."""
        return {name: getattr(self, name) for name in self.__slots__}


def batch_key(prompts: Sequence[tuple[str, str]]) -> str:
    """The cache key of a batch of prompts."""
    return hashlib.sha256(json.dumps(list(prompts), ensure_ascii=False).encode()).hexdigest()


def open_notes(path: Path, source: NotesSource) -> Journal:
    """Open a cache file of notes: a first line that names their source, then answers by `batch_key`.

    Raises:
        ConfigError: The file belongs to another source.
        UserError: The file cannot be read or created.
    """
    return Journal(path, source.as_dict())


def kept_answers(cache: Journal, batch: str) -> list[str] | None:
    """The cached answers to a batch; None if there are none."""
    answers = cache.values.get(batch)
    return answers if isinstance(answers, list) and all(isinstance(text, str) for text in answers) else None


def write_notes(
    history: History,
    answer: Generate,
    cache: Journal,
    template: PromptTemplate,
    *,
    words: int = 30,
    batch: int = 16,
    keep_batches: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> Notes:
    """Write notes on every person after each scene, the last scene included (for conversations outside the corpus).

    Args:
        history: The past of all persons.
        answer: Answers a batch of prompts; the same batch must get the same answers.
        cache: Cache of the answers; see `open_notes`.
        template: Prompt template that asks for the notes.
        words: Maximum words of the notes; longer answers are cut at a sentence.
        batch: Number of prompts per call of `answer`.
        keep_batches: False if `answer` itself caches each answer as soon as it arrives.
        on_progress: Called with the number of notes written and the total.
    """
    chains = {person: history.scenes(person) for person in history.persons()}
    total, done = sum(map(len, chains.values())), 0
    notes: dict[tuple[str, str], str] = {}
    for jobs in _batches(chains, batch):
        prompts = [_prompt(template, notes, chains[person], i, history, person, words) for person, i in jobs]
        key = batch_key(prompts)
        answers = kept_answers(cache, key)
        if answers is None or len(answers) != len(prompts):
            answers = answer(prompts)
            assert len(answers) == len(prompts)
            if keep_batches:
                cache.add(key, answers)
        for (person, i), text in zip(jobs, answers, strict=True):
            notes[person, chains[person][i][0].id] = cut_notes(text, words)
        done += len(jobs)
        if on_progress:
            on_progress(done, total)
    return notes


def _batches(chains: Mapping[str, Sequence[object]], size: int) -> Iterator[list[tuple[str, int]]]:
    """Jobs (person, number of the scene): every person's first scene, then every person's second, and so on.

    All last scenes come together at the end, since no later notes depend on them. The batches of earlier scenes are
    therefore the same whether or not the notes after the last scenes are needed.
    """
    waves: list[list[tuple[str, int]]] = [[] for _ in range(max(map(len, chains.values()), default=0))]
    for person, scenes in chains.items():
        for i in range(len(scenes) - 1):
            waves[i].append((person, i))
    for wave in (*waves, [(person, len(scenes) - 1) for person, scenes in chains.items()]):
        for start in range(0, len(wave), size):
            yield wave[start : start + size]


def _prompt(
    template: PromptTemplate,
    notes: Notes,
    scenes: Sequence[tuple[Dialogue, tuple[int, ...]]],
    i: int,
    history: History,
    person: str,
    words: int,
) -> tuple[str, str]:
    dialogue, positions = scenes[i]
    before = notes.get((person, scenes[i - 1][0].id), "") if i else ""
    values = {
        "name": one_line(first_name(history.speaker(person))),
        "notes": before,
        "excerpt": excerpt(dialogue, positions),
        "words": words,
    }
    return template.render("system", values), template.render("user", values)


def excerpt(dialogue: Dialogue, positions: Sequence[int], words: int = _EXCERPT_WORDS) -> str:
    """The person's lines in a scene, each with the line before it; if that is too long, only the last of them."""
    shown = sorted({k for p in positions for k in (p - 1, p) if k >= 0 and dialogue.utterances[k].text.strip()})
    names = line_names(dialogue.utterances, "first")
    lines: list[str] = []
    for k in reversed(shown):
        line = one_line(f"{names[k]}: {dialogue.utterances[k].text}")
        words -= len(line.split())
        if words < 0 and lines:
            break
        lines.append(" ".join(line.split()[: words + len(line.split())]))
    return "\n".join(reversed(lines))


def cut_notes(text: str, words: int) -> str:
    """Turn an answer into notes: one line, as many whole sentences as fit `words`; a too long first one is cut."""
    sentences = split_sentences(one_line(text))
    kept: list[str] = []
    for sentence in sentences:
        words -= len(sentence.split())
        if words < 0:
            break
        kept.append(sentence)
    if not kept and sentences:
        return " ".join(sentences[0].split()[: words + len(sentences[0].split())]) + "..."
    return " ".join(kept)


def split_sentences(text: str) -> tuple[str, ...]:
    """The sentences of a text."""
    return tuple(sentence for sentence in _SENTENCE_END.split(text.strip()) if sentence)


class NotesWriter:
    """Uses the notes written after a person's latest scene as the profile.

    Args:
        notes: Notes on every person.
        history: The history from which they were written.
    """

    def __init__(self, notes: Notes, history: History) -> None:
        self._notes = notes
        self._scenes: dict[str, list[str]] = {}
        self._lines: dict[str, list[int]] = {}  # number of lines until the end of each scene
        self._places: dict[tuple[str, str], int] = {}
        for person in history.persons():
            scenes = history.scenes(person)
            self._scenes[person] = [dialogue.id for dialogue, _ in scenes]
            self._lines[person] = list(accumulate(len(positions) for _, positions in scenes))
            self._places.update(((person, dialogue.id), i) for i, (dialogue, _) in enumerate(scenes))

    def write(self, context: ProfileContext) -> Profile:
        """The sentences of the notes; their sources are all scenes from which the notes were written in turn."""
        person = context.person
        for scene in context.scenes:
            found = self._notes.get((person, scene.dialogue.id))
            if found is not None:
                place = self._places[person, scene.dialogue.id]
                sources = tuple(self._scenes[person][place::-1])
                return Profile(context.speaker, split_sentences(found), sources, lines=self._lines[person][place])
        return Profile(context.speaker, ())
