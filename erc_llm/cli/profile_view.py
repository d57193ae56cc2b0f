"""Speaker profiles for human eyes: all of a corpus as rows, or one as the model reads it, with its time line.

In: a corpus, a `Prompter` and a `Profiler`. Out: rows for a file, or rich text. What the model reads is asked of the
one, what that was made from of the other; neither is done again here.
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
_MOST_COLUMNS = 60  # scenes in a time line; with a half-life above 10, a profile looks back on more


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """One speaker's profile before one scene.

    Attributes:
        dialogue: Id of the scene.
        split: The split it is in.
        speaker: Who it is about.
        writer: What wrote it, and the control where it is one.
        text: What the model reads, name and brackets included; empty where there is nothing to say or nothing fits.
        tokens: How many tokens that is.
        lines: How many of the person's earlier lines it was made from: those counted (`statistics`), those quoted
            (`lines`), or those in the scenes that the notes went through (`llm`).
        labels: How many labels; only `statistics` uses any.
        scenes: Ids of the scenes of these lines, latest first, sentences that did not fit the budget included.
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
    """The profiles of a corpus, as prompts show them.

    Args:
        corpus: Where the scenes are; its labels are seen as training sees them, so `training_view` comes first.
        prompter: Shows the profiles.
        profiler: What the prompter has them from, on the same corpus; tells their sources.
        writer: What the rows name as the writer.
    """

    def __init__(self, corpus: Corpus, prompter: Prompter, profiler: Profiler, writer: str) -> None:
        self._corpus = corpus
        self._prompter = prompter
        self._profiler = profiler
        self._writer = writer
        self._history = History(corpus)

    def scenes(self, split: str | None = None) -> list[tuple[str, Dialogue]]:
        """The scenes of a split, or of all, in time order, each with its split.

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
        """Write all rows of a split, or of all splits, as JSONL, and say in a line what was written.

        Raises:
            UserError: The file cannot be written; nothing is left behind.
        """
        scenes = track(
            self.scenes(split), "writing profiles", console=console, disable=not console.is_terminal, transient=True
        )
        rows = [row for name, dialogue in scenes for row in self.rows(name, dialogue)]
        write_text(path, "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows))
        tokens = [row.tokens for row in rows] or [0]
        figures = f"tokens: median {median(tokens):g}, most {max(tokens)}"
        said = f"{len(rows)} profiles ({self._writer}; {figures}) written to {path}"
        console.print(said, markup=False, highlight=False, soft_wrap=True)

    def show(self, speaker: str, split: str, dialogue: Dialogue, console: Console) -> None:
        """Print one speaker's profile before a scene of a split, what it was made from, and the emotions until then."""
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
        told = str(count) if count == len(past) else f"the latest {len(past)} of {count}"
        legend = f"earlier scenes: {told}, oldest left; height: share of the labels"
        console.print(legend, style="dim", highlight=False)
        if hidden:
            console.print(f"{_HIDDEN} no labels to be seen: not in train, or the same episode", style="dim")


def open_view(
    config: RunConfig, corpus: Corpus, console: Console, *, ask_server: bool = False, allow_remote: bool = False
) -> ProfileView:
    """What prompts of a configuration say of a corpus; where they say nothing, what `statistics` would.

    Loads the tokenizer, and a model only where notes of one are missing.

    Args:
        config: The configuration.
        corpus: The scenes, their selection split cut out of train.
        console: Where notes and progress are shown.
        ask_server: Whether missing notes may be asked of the configuration's server.
        allow_remote: Whether that may be another machine.
    """
    from erc_llm.build import build_profiler, build_prompter
    from erc_llm.models.loading import load_tokenizer

    if config.profile.writer == "none":
        config = config.model_copy(update={"profile": config.profile.model_copy(update={"writer": "statistics"})})
        console.print("note: profile.writer is none; shown is what `statistics` would write", style="yellow")
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
        some = f"{len(untimed)} of {scenes} scenes tell no episode, '{untimed[0]}' first"
        what = "no episodes" if len(untimed) == scenes else some
        said = f"note: {what}: the order of the file is taken as time"
        console.print(said, style="yellow", markup=False, highlight=False, soft_wrap=True)
    return view


def find_scene(corpus: Corpus, at: str, speaker: str) -> tuple[str, Dialogue]:
    """The scene of an id in which somebody speaks, and its split.

    Raises:
        CorpusError: There is no such scene, or the speaker has no line in it.
    """
    scenes = {dialogue.id: (split, dialogue) for split, found in corpus.splits.items() for dialogue in found}
    if at not in scenes:
        likeness = {name: SequenceMatcher(None, at, name).ratio() for name in scenes}
        near = ", ".join(sorted(likeness, key=lambda name: (-likeness[name], name))[:3])
        raise CorpusError(
            f"no dialogue '{at}' in corpus '{corpus.name}'; nearest: {near}; `--out profiles.jsonl` lists all"
        )
    speakers = speakers_of(scenes[at][1])
    if speaker not in speakers:
        who = ", ".join(speakers) or "nobody by name"
        raise CorpusError(f"'{speaker}' has no line of their own in dialogue '{at}'; those who have: {who}")
    return scenes[at]


def time_line(past: Sequence[PastScene], labels: Sequence[str]) -> tuple[dict[str, str], str]:
    """A row of blocks for each label, and a row of dots; a column for each scene, oldest left.

    A block's height is the label's share of the labels that may be seen in the scene; any at all is the lowest block.
    A dot stands where none may be seen; without such a scene that row is empty.

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


def check_asked(out: Path | None, split: str | None, speaker: str | None, at: str | None) -> None:
    """See that one of the two things there are to see was asked for, and in full.

    Raises:
        UserError: Neither, both, or half of one.
    """
    if (speaker is None) != (at is None):
        given, lacking = ("--speaker", "--at DIALOGUE") if at is None else ("--at", "--speaker NAME")
        raise UserError(f"{given} needs {lacking} too: one person's profile before one scene")
    if (out is None) == (speaker is None):
        found = "nothing to show was named" if out is None else "--out and --speaker are two things"
        raise UserError(f"{found}; give --out FILE.jsonl for all profiles, or --speaker NAME --at DIALOGUE for one")
    if split is not None and out is None:
        raise UserError("--split goes with --out; a dialogue's id names it without its split")
    if out is not None and out.suffix != ".jsonl":
        raise UserError(f"--out {out}: expected a name that ends in .jsonl")
