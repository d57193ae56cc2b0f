"""Sharded prediction: labels corpora that are too large for one process, with Ray Data; resumable.

    FOLDER/
      shards.jsonl        what the job is, then one line for each finished shard
      part-00000.parquet  predictions table of a shard; erc_llm.recipes.shard_worker writes it
      errors/             dialogues that failed, with the reason, for shards that have such
      predictions.json    written last: `read_predictions(FOLDER)` reads the parts as one table

A shard is finished once it is in shards.jsonl. One that was not finished is done again from its beginning, and its
file replaced, so every row occurs once whatever was killed.

Input: a run, an address of files, the number of workers. Output: the folder above.
Does not depend on: how a shard is labelled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from erc_llm.config import RunConfig
from erc_llm.corpus import Corpus, Dialogue
from erc_llm.corpus.shards import Shard, ShardPlan, plan_shards, read_shard
from erc_llm.errors import ConfigError, RunError, UserError
from erc_llm.files import remove_partials
from erc_llm.predictions.parts import write_index
from erc_llm.recipes.console import ConsoleProgress
from erc_llm.recipes.predict import PredictOptions, check_probabilities
from erc_llm.recipes.ray_workers import label_shards
from erc_llm.recipes.shard_worker import ERRORS, Done, Job, errors_file, part_file
from erc_llm.runs.journal import Journal
from erc_llm.runs.opened import Opened, open_run

JOURNAL = "shards.jsonl"
MOST_PAST = 20_000  # dialogues of an input from which profiles are written; every worker holds them in memory
_INSTALL = "pip install 'erc-llm[scale]'"
_SAY_EVERY = 60.0  # seconds between two lines of progress where no bar is drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharding:
    """How the work is divided.

    Attributes:
        workers: Number of workers, each with a model of its own; None: one for each GPU, without GPUs one.
        dialogues: Dialogues of a shard.
    """

    workers: int | None = None
    dialogues: int = 256


@dataclass(frozen=True, slots=True)
class Sharded:
    """What a job came to.

    Attributes:
        rows: Rows in all parts.
        dialogues: Dialogues of the input.
        failed: Dialogues without rows; `errors` says why.
        errors: Folder of the reasons.
    """

    rows: int
    dialogues: int
    failed: int
    errors: Path


def predict_sharded(options: PredictOptions, sharding: Sharding, console: Console) -> Sharded:
    """Label every dialogue of `options.corpus`, an address of files, into the folder `options.out`.

    Raises:
        UserError: Ray is not installed; an option is not supported; the folder holds another job or cannot be written;
            the model cannot be loaded.
        CorpusError: The input cannot be read, or a dialogue id occurs twice.
    """
    _check(options)
    _require_ray()
    opened = open_run(options.source, options.overrides)
    check_probabilities(options, opened.config)
    assert options.corpus is not None, "`_check` refuses None"
    with ConsoleProgress(console).busy(f"reading {options.corpus}"):
        plan = plan_shards(options.corpus, sharding.dialogues)
    past = _past(opened, plan)
    with _claimed(options.out) as folder:
        journal = _open_journal(folder, options, opened, plan, sharding)
        done = {int(key): Done(**value) for key, value in journal.values.items()}
        left = [s for s in plan.shards if s.number not in done or not _is_written(folder, done[s.number])]
        done = {number: found for number, found in done.items() if number not in {s.number for s in left}}
        _clean(folder)
        console.print(_beginning(plan, left), highlight=False)
        progress = _Progress(console, plan.dialogues, sum(found.dialogues for found in done.values()))
        with progress.shown() as show:
            for found in label_shards(_job(options, opened, plan, past, folder), left, sharding.workers):
                journal.add(str(found.number), asdict(found))
                done[found.number] = found
                show(found)
        parts = [part_file(folder, number).name for number in sorted(done) if done[number].rows]
        rows, failed = (sum(getattr(found, name) for found in done.values()) for name in ("rows", "failed"))
        write_index(folder, parts, rows, plan.dialogues, failed)
    return Sharded(rows, plan.dialogues, failed, folder / ERRORS)


def _check(options: PredictOptions) -> None:
    """Refuse what a sharded prediction cannot do."""
    if options.corpus is None:
        raise UserError("--engine ray: name the input, a path, glob or address of JSONL or Parquet files")
    refused = {
        "--transductive (its rule depends on all lines)": options.transductive,
        "--heal-from": options.heal_from is not None,
        "--endpoint (a server already batches: use --concurrency)": options.server is not None,
    }
    for option, given in refused.items():
        if given:
            raise UserError(f"--engine ray: does not support {option}; leave one of them out")
    if options.out.suffix in (".parquet", ".jsonl"):
        raise UserError(
            f"--out {options.out}: --engine ray writes a folder of Parquet files; give a name without suffix"
        )


def _require_ray() -> None:
    if find_spec("ray") is None or find_spec("filelock") is None:
        raise UserError(f"--engine ray: needs Ray, which is not installed: {_INSTALL}")


def _past(opened: Opened, plan: ShardPlan) -> Corpus | None:
    """The conversations that prompts are written from; None if they need none.

    Raises:
        ConfigError: They are too many for the memory of each worker, or would be two different corpora.
    """
    config = opened.config
    if config.retrieval.use != "none":
        if _reads_input(config):
            raise ConfigError(
                "--engine ray: a run that both retrieves lines and states profiles; use predict without it"
            )
        from erc_llm.recipes.data import open_whole

        return open_whole(config, None)
    if not _reads_input(config):
        return None
    if plan.dialogues > MOST_PAST:
        raise ConfigError(
            "--engine ray: the prompts of this run state what is known of each speaker from earlier dialogues, so "
            f"every worker must hold the whole input in memory: at most {MOST_PAST:,} dialogues, and it has "
            f"{plan.dialogues:,}. Predict parts that have their speakers to themselves, or use a run without profiles"
        )
    labels, found = config.label_set(), list[Dialogue]()
    for shard in plan.shards:
        found += [one for one in read_shard(shard, labels, config.corpus.aliases) if isinstance(one, Dialogue)]
    generic = config.corpus.generic
    past = Corpus(plan.name, "own", labels, {"all": tuple(found)}, order=tuple(dialogue.id for dialogue in found))
    return past if generic is None else replace(past, generic=frozenset(generic))


def _reads_input(config: RunConfig) -> bool:
    """Whether prompts are written from the earlier dialogues of the input."""
    return config.profile.writer != "none" or config.prompt.names == "invented"


@contextmanager
def _claimed(folder: Path) -> Iterator[Path]:
    """The folder, which no other process writes to.

    Raises:
        RunError: It cannot be made, or another process writes to it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock", timeout=0)
    try:
        (folder / ERRORS).mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise RunError(f"{folder}: another process predicts into this folder; wait for it, or end it") from None
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror or error}; choose another --out") from error
    try:
        yield folder.resolve()
    finally:
        lock.release()


def _open_journal(
    folder: Path, options: PredictOptions, opened: Opened, plan: ShardPlan, sharding: Sharding
) -> Journal:
    """The journal of this job.

    Raises:
        RunError: The folder holds another job.
    """
    run, config = opened.run, opened.config
    head = {
        "run": None if run is None else run.manifest.run_id,
        "config": config.sha256,
        "scoring": config.scoring.model_dump(mode="json"),
        "input": plan.sha256,
        "dialogues of a shard": sharding.dialogues,
        "options": repr((options.prior, options.calibration, options.decide, options.abstain_below, options.with_text)),
    }
    if not (folder / JOURNAL).exists() and any(folder.glob("*.parquet")):
        raise RunError(f"{folder}: holds tables of something else; choose another --out")
    try:
        return Journal(folder / JOURNAL, head)
    except ConfigError as error:
        raise RunError(
            f"{folder}: holds the predictions of another job ({error}); choose another --out, or delete the folder"
        ) from error


def _is_written(folder: Path, done: Done) -> bool:
    """Whether the files of a finished shard are still there; a user may delete them to have the shard done again."""
    rows, errors = part_file(folder, done.number), errors_file(folder, done.number)
    return rows.is_file() == (done.rows > 0) and errors.is_file() == (done.failed > 0)


def _clean(folder: Path) -> None:
    """Remove what killed workers left."""
    remove_partials(folder)
    remove_partials(folder / ERRORS)
    for file in folder.glob(".attempts-*"):
        file.unlink(missing_ok=True)


def _beginning(plan: ShardPlan, left: list[Shard]) -> str:
    finished = len(plan.shards) - len(left)
    text = f"{plan.dialogues:,} dialogues in {len(plan.shards):,} shards"
    return f"{text}, of which {finished:,} are finished" if finished else text


def _job(options: PredictOptions, opened: Opened, plan: ShardPlan, past: Corpus | None, folder: Path) -> Job:
    source = options.source if opened.run is None else str(Path(options.source).resolve())
    return Job(
        source=source,
        overrides=options.overrides,
        prior=options.prior,
        calibration=options.calibration,
        decide=options.stored_decide,
        abstain_below=options.abstain_below,
        with_text=options.with_text,
        folder=folder,
        corpus_name=plan.name,
        corpus_sha256=plan.sha256,
        past=past,
    )


class _Progress:
    """Dialogues done, rate and time left: a bar on a terminal, else a line a minute.

    The rate is measured from the end of the first shard, because the workers load their models before.
    """

    def __init__(self, console: Console, total: int, done: int) -> None:
        self._display = ConsoleProgress(console)
        self._total, self._done = total, done
        self._rows = self._dialogues = 0
        self._began: float | None = None
        self._said = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[Callable[[Done], None]]:
        """Gives a function that shows one more finished shard."""
        with self._display.bar("labelling", self._total, self._done) as bar:

            def show(done: Done) -> None:
                rate = self._count(done)
                bar.update(self._done, f"{rate:,.0f} lines/s")
                if not self._display.animated and time.monotonic() - self._said >= _SAY_EVERY:
                    self._said = time.monotonic()
                    self._display.line(
                        f"{self._done:,} of {self._total:,} dialogues, {rate:,.0f} lines/s{self._left()}"
                    )

            yield show

    def _count(self, done: Done) -> float:
        """Add a shard; returns lines per second."""
        self._done += done.dialogues
        if self._began is None:
            self._began = time.monotonic()
            return 0.0
        self._rows += done.rows
        self._dialogues += done.dialogues
        return self._rows / max(time.monotonic() - self._began, 1e-9)

    def _left(self) -> str:
        if self._began is None or not self._dialogues:
            return ""
        seconds = (time.monotonic() - self._began) / self._dialogues * (self._total - self._done)
        return f", {seconds / 60:.0f} min left"
