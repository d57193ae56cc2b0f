"""Shows speaker profiles: all profiles of a corpus as rows, or one as the model reads it, with a time line.

Input: a corpus, a `Prompter` (the text that the model reads), a `Profiler` (its sources). Output: rows for a file, or
rich text.
Does not depend on: how profiles are written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from math import ceil
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress, track
from rich.text import Text

from erc_llm.cli.terminal import colour
from erc_llm.corpus.dialogues import Corpus, Dialogue
from erc_llm.corpus.history import History, PastScene, speakers_of
from erc_llm.errors import CorpusError, UserError
from erc_llm.files import write_text

if TYPE_CHECKING:
    from erc_llm.config import RunConfig
    from erc_llm.profiles.profiler import Profiler
    from erc_llm.prompting.prompter import Prompter

_BLOCKS = "▁▂▃▄▅▆▇█"
_HIDDEN = "·"
_MOST_COLUMNS = 60  # scenes in a time line; profiles with a half-life above 10 use more


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """One speaker's profile before one scene.

    Attributes:
        dialogue: Id of the scene.
        split: Split of the scene.
        speaker: Name of the speaker.
        writer: Name of the profile writer, and of the control if one is set.
        text: Text that the model reads, name and brackets included; empty if nothing is known or nothing fits.
        tokens: Number of tokens of the text.
        lines: Number of the person's earlier lines that were used: those counted (`statistics`), those quoted
            (`lines`), or those in the scenes from which the notes were written (`llm`).
        labels: Number of labels that were used; only `statistics` uses any.
        scenes: Ids of the scenes of these lines, latest first, including those of sentences that did not fit.
        label_scenes: Ids of those whose labels were used.
    """

    dialogue: str
    split: str
    speaker: str
    writer: str
    text: str
    tokens: int
    lines: int
    labels: int
    scenes: tuple[str, ...]
    label_scenes: tuple[str, ...]


class ProfileView:
    """The profiles of a corpus, as prompts contain them.

    Args:
        corpus: The corpus as returned by `training_view`, so that labels are visible as in training.
        prompter: Renders the profiles.
        profiler: The prompter's profiler, on the same corpus; returns the sources of the profiles.
        writer: Name of the writer in the rows.
    """

    def __init__(self, corpus: Corpus, prompter: Prompter, profiler: Profiler, writer: str) -> None:
        self._corpus = corpus
        self._prompter = prompter
        self._profiler = profiler
        self._writer = writer
        self._history = History(corpus)

    def scenes(self, split: str | None = None) -> list[tuple[str, Dialogue]]:
        """The scenes of a split, or of all splits, in time order, each with its split.

        Raises:
            CorpusError: There is no such split.
        """
        if split is not None:
            self._corpus.split(split)
        return [scene for scene in self._corpus.in_time if split in (None, scene[0])]

    def rows(self, split: str, dialogue: Dialogue) -> Iterator[ProfileRow]:
        """A row for each speaker of a scene, in the order of first lines."""
        shown = self._prompter.scene(dialogue).profiles
        decode = self._prompter.frame.encoder.tokenizer.decode
        for speaker, profile in self._profiler.profiles(dialogue).items():
            ids = shown.get(speaker, ())
            yield ProfileRow(
                dialogue.id,
                split,
                speaker,
                self._writer,
                str(decode(list(ids))).strip(),
                len(ids),
                profile.lines,
                profile.labels,
                profile.scenes,
                profile.label_scenes,
            )

    def write(self, path: Path, split: str | None, console: Console) -> None:
        """Write all rows of a split, or of all splits, as JSONL, and print a one-line summary.

        Raises:
            UserError: The file cannot be written; no partial file remains.
        """
        scenes = track(
            self.scenes(split), "writing profiles", console=console, disable=not console.is_terminal, transient=True
        )
        rows = [row for name, dialogue in scenes for row in self.rows(name, dialogue)]
        write_text(path, "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows))
        tokens = [row.tokens for row in rows] or [0]
        counts = f"tokens: median {median(tokens):g}, maximum {max(tokens)}"
        summary = f"{len(rows)} profiles ({self._writer}; {counts}) written to {path}"
        console.print(summary, markup=False, highlight=False, soft_wrap=True)

    def show(self, speaker: str, split: str, dialogue: Dialogue, console: Console) -> None:
        """Print one speaker's profile before a scene of a split, its sources, and the earlier emotions."""
        row = next(row for row in self.rows(split, dialogue) if row.speaker == speaker)
        text = Text()
        text.append(f"{speaker} before {dialogue.id} ({split})\n", style="bold")
        text.append(f"{row.text or '(nothing)'}\n", style="yellow")
        for name, value in self._facts(row):
            text.append(f"{name:>9}  {value}\n")
        console.print(text, soft_wrap=True)
        self._print_time_line(speaker, dialogue, console)

    def _facts(self, row: ProfileRow) -> list[tuple[str, str]]:
        options = self._prompter.options
        span = f" ({row.scenes[-1]} to {row.scenes[0]})" if row.scenes else ""
        return [
            ("tokens", f"{row.tokens}, of at most {options.profile_budget}"),
            ("place", "before the first line" if options.placement == "trunk" else "in each question"),
            ("writer", row.writer),
            ("scenes", f"{len(row.scenes)}{span}, with labels {len(row.label_scenes)}"),
            ("evidence", f"lines {row.lines}, labels {row.labels}"),
        ]

    def _print_time_line(self, speaker: str, dialogue: Dialogue, console: Console) -> None:
        labels = self._corpus.labels.names
        width = max(map(len, labels))
        columns = max(1, min(_MOST_COLUMNS, console.width - width - 2))
        person = self._history.person(speaker, dialogue)
        past = self._history.before(dialogue, person, columns)
        if not past:
            console.print("no earlier scene")
            return
        rows, hidden = time_line(past, labels)
        for label, cells in rows.items():
            text = Text(f"{label:>{width}}  {cells}", style=colour(label, labels))
            console.print(text, no_wrap=True, overflow="crop")
        if hidden:
            console.print(Text(f"{'':>{width}}  {hidden}", style="dim"), no_wrap=True, overflow="crop")
        count = self._history.count(dialogue, person)
        shown = str(count) if count == len(past) else f"the latest {len(past)} of {count}"
        legend = f"earlier scenes: {shown}, oldest left; height: fraction of the scene's labels"
        console.print(legend, style="dim", highlight=False)
        if hidden:
            console.print(f"{_HIDDEN} labels not visible: not in train, or in the same episode", style="dim")


def open_view(
    config: RunConfig, corpus: Corpus, console: Console, *, ask_server: bool = False, allow_remote: bool = False
) -> ProfileView:
    """The profiles that a configuration's prompts contain; without a profile writer, those of `statistics`.

    Loads the tokenizer; a language model is loaded only to write missing notes.

    Args:
        config: The configuration.
        corpus: The corpus, with the selection split cut out of train.
        console: Console for messages and progress.
        ask_server: Whether missing notes may be requested from the configuration's server.
        allow_remote: Whether that server may be another machine.
    """
    from erc_llm.build import build_profiler, build_prompter
    from erc_llm.models.loading import load_tokenizer

    if config.profile.writer == "none":
        config = config.model_copy(update={"profile": config.profile.model_copy(update={"writer": "statistics"})})
        console.print("note: profile.writer is none; profiles of the writer `statistics` are shown", style="yellow")
    profile, tokenizer = config.profile, load_tokenizer(config.model.base)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("writing notes on speakers", total=None, visible=False)

        def on_notes(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, visible=True)

        profiler = build_profiler(
            profile,
            corpus,
            seed=config.seed,
            ask_server=ask_server,
            allow_remote=allow_remote,
            on_progress=on_notes,
        )
        prompter = build_prompter(config, corpus.labels, tokenizer, past=corpus, profiler=profiler)
    writer = profile.writer if profile.control == "none" else f"{profile.writer} ({profile.control})"
    view = ProfileView(corpus, prompter, profiler, writer)
    untimed = [dialogue.id for dialogue in corpus.dialogues() if dialogue.time is None]
    if untimed:
        scenes = sum(map(len, corpus.splits.values()))
        some = f"{len(untimed)} of {scenes} scenes have no episode, '{untimed[0]}' first"
        what = "no episodes" if len(untimed) == scenes else some
        note = f"note: {what}: the order in the file is used as the order in time"
        console.print(note, style="yellow", markup=False, highlight=False, soft_wrap=True)
    return view


def find_scene(corpus: Corpus, at: str, speaker: str) -> tuple[str, Dialogue]:
    """The split and the scene of an id; `speaker` must have a line in it.

    Raises:
        CorpusError: There is no such scene, or the speaker has no line in it.
    """
    scenes = {dialogue.id: (split, dialogue) for split, found in corpus.splits.items() for dialogue in found}
    if at not in scenes:
        likeness = {name: SequenceMatcher(None, at, name).ratio() for name in scenes}
        near = ", ".join(sorted(likeness, key=lambda name: (-likeness[name], name))[:3])
        raise CorpusError(
            f"no dialogue '{at}' in corpus '{corpus.name}'; most similar: {near}; `--out profiles.jsonl` lists all"
        )
    speakers = speakers_of(scenes[at][1])
    if speaker not in speakers:
        who = ", ".join(speakers) or "nobody by name"
        raise CorpusError(f"'{speaker}' has no line in dialogue '{at}'; its speakers are {who}")
    return scenes[at]


def time_line(past: Sequence[PastScene], labels: Sequence[str]) -> tuple[dict[str, str], str]:
    """A row of blocks for each label, and a row of dots; one column per scene, oldest left.

    The height of a block is the label's fraction of the visible labels of the scene; a small fraction is shown as the
    lowest block. A dot marks a scene without visible labels; if there is none, that row is empty.

    Args:
        past: A person's scenes, latest first.
        labels: The label names.
    """
    scenes = [[label for label in scene.labels if label is not None] for scene in reversed(past)]
    rows = {label: "".join(_block(seen.count(label), len(seen)) for seen in scenes) for label in labels}
    hidden = "" if all(scenes) else "".join(" " if seen else _HIDDEN for seen in scenes)
    return rows, hidden


def _block(count: int, of: int) -> str:
    return _BLOCKS[ceil(count * len(_BLOCKS) / of) - 1] if count else " "


def check_options(out: Path | None, split: str | None, speaker: str | None, at: str | None) -> None:
    """Check that either `--out` or both `--speaker` and `--at` are given.

    Raises:
        UserError: Neither, both, or only one of `--speaker` and `--at` is given.
    """
    if (speaker is None) != (at is None):
        given, lacking = ("--speaker", "--at DIALOGUE") if at is None else ("--at", "--speaker NAME")
        raise UserError(f"{given} needs {lacking} too: they select one speaker's profile before one dialogue")
    if (out is None) == (speaker is None):
        found = "no profile was selected" if out is None else "--out and --speaker exclude each other"
        raise UserError(f"{found}; give --out FILE.jsonl for all profiles, or --speaker NAME --at DIALOGUE for one")
    if split is not None and out is None:
        raise UserError("--split requires --out; with --speaker, the dialogue's id is enough")
    if out is not None and out.suffix != ".jsonl":
        raise UserError(f"--out {out}: expected a name that ends in .jsonl")
