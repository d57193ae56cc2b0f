"""End-to-end training of a baseline: trains it, and writes its run directory and predictions tables.

Input: the configuration, the corpus with its selection split cut. Output: a `TrainedBaseline`.
Does not depend on: how inputs, model, loop and tables work; it composes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from erc_llm.baselines.baseline_config import BaselineConfig
from erc_llm.baselines.build import LoadedBaseline, build
from erc_llm.baselines.emonet import class_weights, context_limits
from erc_llm.baselines.inference import probabilities
from erc_llm.baselines.inputs import Example, InputWriter, corpus_numbers
from erc_llm.baselines.loop import Fitting, LoopSettings
from erc_llm.baselines.speaker_numbers import read_speakers, write_speakers
from erc_llm.baselines.weights import CHECKPOINT, WEIGHTS, keep_epoch, load_weights
from erc_llm.calibration.choose import correction_from
from erc_llm.calibration.record import F1Decide
from erc_llm.corpus import Corpus, Dialogue, labelled_scenes
from erc_llm.corpus.dialogues import SELECTION
from erc_llm.errors import CorpusError, RunError
from erc_llm.files import write_text
from erc_llm.metrics import INVALID_POLICY
from erc_llm.models.devices import dtype_name
from erc_llm.predictions import (
    Correction,
    Prediction,
    Predictions,
    PredictionsInfo,
    correct,
    read_predictions,
    strip_text,
    write_predictions,
)
from erc_llm.predictions.mean import log_probabilities
from erc_llm.runs.directory import CONFIG, check_same, claim
from erc_llm.runs.manifest import FINISHED, TRAINING, Manifest, write_manifest
from erc_llm.runs.progress import SILENT, Progress
from erc_llm.runs.provenance import commit, versions


@dataclass(frozen=True, eq=False)
class TrainedBaseline:
    """A finished run that can predict.

    Attributes:
        folder: The run directory.
        config: The run's configuration.
        manifest: The run's manifest.
        corpus: The corpus that it was trained on.
        loaded: The trained model.
        writer: Builds the model's inputs.
    """

    folder: Path
    config: BaselineConfig
    manifest: Manifest
    corpus: Corpus
    loaded: LoadedBaseline
    writer: InputWriter

    def predict(self, split: str, progress: Progress = SILENT) -> Predictions:
        """The predictions table of one split of its corpus.

        Args:
            split: Name of the split.
            progress: Where to draw a bar.

        Raises:
            CorpusError: The corpus has no such split.
        """
        dialogues = self.corpus.split(split)
        examples = self.writer.examples(dialogues)
        names = self.corpus.labels.names
        with progress.bar(f"reading {split}", len(examples), transient=True) as bar:
            found = probabilities(self.loaded, examples, on_progress=bar.update)
        logs = log_probabilities(found)
        predictions = [
            Prediction(names[int(row.argmax())], log_likelihoods=log.tolist(), probabilities=row.tolist())
            for row, log in zip(found, logs, strict=True)
        ]
        info = table_info(self.config, self.manifest, self.corpus, split)
        return Predictions.from_corpus(info, dialogues, predictions, self.corpus.dialogues(), self.corpus.generic)

    def correction(self, decide: F1Decide | None) -> Correction:
        """The correction that its predictions of the selection split give; empty for None: its answers as trained.

        Raises:
            PredictionsError: The selection split has fewer than five labelled dialogues.
        """
        if decide is None:
            return Correction()
        return correction_from(read_predictions(self.folder / f"{SELECTION}.parquet"), decide)

    def write(
        self, split: str, *, decide: F1Decide | None = None, with_text: bool = True, progress: Progress = SILENT
    ) -> Path:
        """Write the table of a split into the run directory, as SPLIT.parquet; return its path.

        Args:
            split: Name of the split.
            decide: As for `correction`.
            with_text: Keep the utterances' text.
            progress: Where to draw a bar.
        """
        path = self.folder / f"{split}.parquet"
        table = correct(self.predict(split, progress), self.correction(decide))
        write_predictions(table if with_text else table.without_text(), path)
        return path


def train_baseline(
    config: BaselineConfig,
    corpus: Corpus,
    *,
    resume: bool = False,
    with_text: bool = True,
    progress: Progress = SILENT,
) -> TrainedBaseline:
    """Train a baseline and write its run directory; a finished run is loaded instead.

    Args:
        config: The baseline's configuration.
        corpus: The corpus, with its selection split cut.
        resume: Continue an unfinished run of the same configuration.
        with_text: Keep the utterances' text in `selection.parquet`; else it is removed from all tables of the run.
        progress: Where to show the run.

    Raises:
        RunError: The run directory is in use, or holds a run of another configuration, corpus or encoder.
        CorpusError: There is no labelled target to train on, or to choose the epoch by.
    """
    folder = Path(config.output) / config.name
    stored = claim(folder, config, resume)
    began = None if stored is None else stored.manifest
    scenes = labelled_scenes(corpus, config.training.max_scenes, config.seed)
    loaded = build(config, len(corpus.labels))
    numbers = _speaker_numbers(config, corpus, folder, began is not None)
    writer = InputWriter(corpus, loaded.tokenizer, context_limits(config), numbers)
    counts = label_counts(scenes, corpus.labels.names)
    weights = class_weights(counts, config.switches.weighted_loss)
    manifest = _manifest(config, corpus, counts, weights, loaded)
    if stored is not None:
        check_same(stored, manifest)
    if began is not None and began.finished:
        progress.line(f"{folder} is finished already")
        load_weights(loaded.model, folder / WEIGHTS)
    else:
        write_text(folder / CONFIG, config.as_yaml(), RunError)
        if began is None and numbers:
            write_speakers(folder, numbers)
        write_manifest(folder, manifest)
        with progress.busy("reading the corpus"):
            examples, selection = (_labelled(writer.examples(part)) for part in (scenes, corpus.split(SELECTION)))
        _describe(config, loaded, len(scenes), examples, selection, progress)
        Fitting(loaded, examples, selection, loop_settings(config, weights), folder, progress).run(resume)
    finished = began if began is not None and began.finished else replace(manifest, status=FINISHED)
    trained = TrainedBaseline(folder, config, finished, corpus, loaded, writer)
    if began is None or not began.finished:
        trained.write(SELECTION, with_text=with_text, progress=progress)
        write_manifest(folder, finished)
        (folder / CHECKPOINT).unlink(missing_ok=True)
        keep_epoch(folder, None)
    if not with_text:
        strip_text(folder)
    return trained


def _speaker_numbers(config: BaselineConfig, corpus: Corpus, folder: Path, began: bool) -> dict[str, int]:
    """Numbers over the whole corpus, first those that the run began with; empty if numbers are by dialogue."""
    if not config.switches.global_identity:
        return {}
    return corpus_numbers(corpus, read_speakers(folder) if began else None)


def label_counts(scenes: Sequence[Dialogue], names: Sequence[str]) -> list[int]:
    """Number of targets of each label, in the order of `names`."""
    found = Counter(d.utterances[k].label for d in scenes for k in d.targets)
    return [found[name] for name in names]


def _labelled(examples: Sequence[Example]) -> list[Example]:
    found = [example for example in examples if example.label is not None]
    if not found:
        raise CorpusError("no labelled utterance in the selection split, by which the best epoch is chosen")
    return found


def _describe(
    config: BaselineConfig,
    loaded: LoadedBaseline,
    scenes: int,
    examples: Sequence[Example],
    selection: Sequence[Example],
    progress: Progress,
) -> None:
    progress.line(f"{config.kind} on {loaded.description}, in {dtype_name(loaded.dtype)} ({loaded.precision_reason})")
    progress.line(f"{len(examples)} training targets in {scenes} scenes, {len(selection)} for selection")


def loop_settings(config: BaselineConfig, weights: tuple[float, ...]) -> LoopSettings:
    """The numbers of a configuration's training run; `weights` are (labels,)."""
    training = config.training
    return LoopSettings(
        epochs=training.epochs,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        new_learning_rate=training.new_learning_rate or training.learning_rate,
        lr_schedule=training.schedule,
        warmup=training.warmup,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        weights=weights,
        seed=config.seed,
        checkpoint_seconds=60 * training.checkpoint_minutes,
        log_every=training.log_every,
    )


def _manifest(
    config: BaselineConfig, corpus: Corpus, counts: Sequence[int], weights: Sequence[float], loaded: LoadedBaseline
) -> Manifest:
    mass = np.array(counts) * np.array(weights)
    return Manifest(
        kind=config.kind,
        run_id=f"{config.name}-{config.sha256[:8]}",
        status=TRAINING,
        seed=config.seed,
        context="past",
        labels=corpus.labels.names,
        neutral=corpus.labels.neutral,
        train_shares=tuple((np.array(counts) / sum(counts)).tolist()),
        training_prior=tuple((mass / mass.sum()).tolist()),
        config_sha256=config.sha256,
        corpus_name=corpus.name,
        corpus_version=corpus.version,
        corpus_sha256=corpus.sha256,
        healed=corpus.healed,
        base_model=loaded.description,
        base_model_sha256=loaded.base_sha256,
        versions=versions(),
        commit=commit(),
        train_sha256=corpus.train_sha256,
        precision=dtype_name(loaded.dtype),
        memory=config.memory_source,
        selected_by=SELECTION,
    )


def table_info(config: BaselineConfig, manifest: Manifest, corpus: Corpus, split: str) -> PredictionsInfo:
    """The metadata of a baseline's table; `profile` states the memory, as it states the profile of an LLM's run."""
    return PredictionsInfo(
        system=config.name,
        labels=corpus.labels.names,
        corpus_sha256=corpus.sha256,
        corpus_name=corpus.name,
        corpus_version=corpus.version,
        split=split,
        healed=corpus.healed,
        run_id=manifest.run_id,
        seed=config.seed,
        context="past",
        base_model=manifest.base_model,
        base_model_sha256=manifest.base_model_sha256,
        config_sha256=config.sha256,
        recipe_sha256=config.recipe_sha256,
        train_sha256=corpus.train_sha256,
        trained_on_version=manifest.corpus_version,
        trained_on_sha256=manifest.train_sha256,
        training_precision=manifest.precision or config.asked_precision,
        invalid_policy=INVALID_POLICY,
        selection=SELECTION,
        profile=config.memory_source,
        train_shares=manifest.train_shares,
        training_prior=manifest.training_prior,
        created_with=versions(),
    )
