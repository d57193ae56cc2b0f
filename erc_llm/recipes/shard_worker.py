"""A worker of a sharded prediction: one loaded model, which labels shard after shard.

Each shard becomes a file of the predictions table and, if dialogues of it fail, a file that says why:

    part-00012.parquet          the rows
    errors/part-00012.jsonl     {"dialogue_id", "file", "line", "error"} of each dialogue without rows

Input: a `Job` and shards. Output: these files, and a `Done` for each shard.
Does not depend on: Ray, the other workers, the command line.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from erc_llm.calibration.choose import AskedDecide, Calibrated, Prior
from erc_llm.corpus import Corpus, Dialogue
from erc_llm.corpus.shards import Shard, Unreadable, read_shard
from erc_llm.errors import CorpusError, ErcError, ModelError, UserError
from erc_llm.files import write_text
from erc_llm.predictions import Prediction, Predictions, PredictionsInfo, correct, write_predictions
from erc_llm.recipes.console import prepare_scoring

ERRORS = "errors"
MOST_ATTEMPTS = 3  # a shard that a worker died on so often is given up


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every worker of a sharded prediction needs.

    Attributes:
        source: The run, or a configuration.
        overrides: See `erc_llm.predictor.load`.
        prior: See `erc_llm.predictor.load`.
        calibration: See `erc_llm.predictor.load`.
        decide: See `erc_llm.predictor.load`.
        abstain_below: See `erc_llm.recipes.predict.PredictOptions`.
        with_text: Keep the text of the utterances.
        folder: Folder of the files; the same place for all workers.
        corpus_name: Name of the input.
        corpus_sha256: Hash of its files.
        past: Conversations that prompts are written from; None if prompts need none.
    """

    source: str
    overrides: tuple[str, ...]
    prior: Prior
    calibration: Calibrated
    decide: AskedDecide
    abstain_below: float | None
    with_text: bool
    folder: Path
    corpus_name: str
    corpus_sha256: str
    past: Corpus | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """A finished shard.

    Attributes:
        number: Number of the shard.
        rows: Rows that were written.
        dialogues: Dialogues of the shard.
        failed: Dialogues of it that have no rows.
        stop: Why the whole job must stop; None if it goes on.
    """

    number: int
    rows: int = 0
    dialogues: int = 0
    failed: int = 0
    stop: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A dialogue without rows; `line` is None if the dialogue itself could be read."""

    dialogue_id: str | None
    file: str
    line: int | None
    error: str


def part_file(folder: Path, number: int) -> Path:
    """The predictions of a shard."""
    return folder / f"part-{number:05d}.parquet"


def errors_file(folder: Path, number: int) -> Path:
    """What failed in a shard."""
    return folder / ERRORS / f"part-{number:05d}.jsonl"


class ShardWorker:
    """Labels shards with one model, which is loaded first.

    A mistake that concerns one dialogue ends in the file of errors. One that concerns all (no model, a full disk) ends
    in `Done.stop`, because an exception in a worker would be tried again.
    """

    def __init__(self, job: Job) -> None:
        from erc_llm.predictor import load

        prepare_scoring()
        self._job = job
        self._stop: str | None = None
        try:
            self._predictor = load(
                job.source,
                job.past,
                prior=job.prior,
                calibration=job.calibration,
                decide=job.decide,
                overrides=job.overrides,
            )
            self._info = self._table_info()
        except ErcError as error:
            self._stop = str(error)
        except MemoryError:
            self._stop = "too little memory to load the model in each worker; use fewer --workers"

    def __call__(self, shard: Shard) -> Done:
        """Label one shard and write its files; a shard that workers died on three times is given up."""
        if self._stop is not None:
            return Done(shard.number, stop=self._stop)
        try:
            attempt = self._count_attempt(shard)
            if attempt > MOST_ATTEMPTS:
                return self._give_up(shard, f"a worker died on this shard {MOST_ATTEMPTS} times; too little memory?")
            return self._label(shard)
        except CorpusError as error:  # the file, not a dialogue of it
            return self._give_up(shard, str(error))
        except UserError as error:
            return Done(shard.number, stop=str(error))
        except OSError as error:
            return Done(shard.number, stop=f"{self._job.folder}: {error.strerror or error}")

    def _label(self, shard: Shard) -> Done:
        config = self._predictor.config
        read = read_shard(shard, self._predictor.labels, config.corpus.aliases)
        failures = [
            Failure(one.dialogue, shard.file, one.line, one.reason) for one in read if isinstance(one, Unreadable)
        ]
        readable = [(shard.first + i, one) for i, one in enumerate(read) if isinstance(one, Dialogue)]
        predicted = self._predict([dialogue for _, dialogue in readable])
        kept: list[tuple[int, Dialogue, list[Prediction]]] = []
        for (order, dialogue), found in zip(readable, predicted, strict=True):
            if isinstance(found, str):
                failures.append(Failure(dialogue.id, shard.file, None, found))
            else:
                kept.append((order, dialogue, found))
        rows = self._write(shard, kept, failures)
        return Done(shard.number, rows, shard.dialogues, len(failures))

    def _predict(self, dialogues: Sequence[Dialogue]) -> list[list[Prediction] | str]:
        """The predictions of each dialogue, or why it failed; one by one only if all together fail."""
        try:
            rows = iter(self._predictor.predictions(dialogues))
            return [[next(rows) for _ in dialogue.targets] for dialogue in dialogues]
        except ModelError:
            raise
        except Exception as error:
            if len(dialogues) == 1:
                return [f"{type(error).__name__}: {error}"]
            return [found for dialogue in dialogues for found in self._predict([dialogue])]

    def _write(
        self, shard: Shard, kept: Sequence[tuple[int, Dialogue, list[Prediction]]], failures: Sequence[Failure]
    ) -> int:
        """Write the files of a shard, that of its rows last; returns the number of rows."""
        job = self._job
        lines = "".join(json.dumps(asdict(one)) + "\n" for one in failures)  # ids may be no valid Unicode
        if failures:
            write_text(errors_file(job.folder, shard.number), lines)
        rows = 0
        if kept:
            dialogues = [dialogue for _, dialogue, _ in kept]
            table = Predictions.from_corpus(self._info, dialogues, [row for _, _, found in kept for row in found])
            orders = [order for order, dialogue, _ in kept for _ in dialogue.targets]
            table = replace(table, scene_order=np.array(orders, dtype=np.int64))
            if self._predictor.config.scoring.decode == "score":
                table = correct(table, self._predictor.correction)
            table = replace(table, info=replace(table.info, abstain_below=job.abstain_below))
            write_predictions(table if job.with_text else table.without_text(), part_file(job.folder, shard.number))
            rows = len(table)
        self._attempts(shard).unlink(missing_ok=True)
        return rows

    def _give_up(self, shard: Shard, reason: str) -> Done:
        """Record that no dialogue of a shard was labelled."""
        self._write(shard, [], [Failure(None, shard.file, shard.line, f"{shard.dialogues} dialogues: {reason}")])
        return Done(shard.number, 0, shard.dialogues, shard.dialogues)

    def _attempts(self, shard: Shard) -> Path:
        return self._job.folder / f".attempts-{shard.number:05d}"

    def _count_attempt(self, shard: Shard) -> int:
        """Number of times that this shard was begun, this one included."""
        file = self._attempts(shard)
        with open(file, "a") as opened:
            opened.write("x")
        return file.stat().st_size

    def _table_info(self) -> PredictionsInfo:
        from erc_llm.recipes.predict import describe_table

        job, predictor = self._job, self._predictor
        corpus = Corpus(job.corpus_name, "own", predictor.labels, {"all": ()})
        info = describe_table(predictor, corpus, "all")
        return replace(info, corpus_sha256=job.corpus_sha256, train_sha256=None)
