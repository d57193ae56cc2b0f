"""Open the corpus a configuration names, and predict a split of it. Commands, training and the demo stand on it.

In: a configuration or a predictor. Out: a `Corpus`, or a predictions table. Knows all the parts but training.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from erc_llm.config import CorpusConfig, RunConfig, load_config
from erc_llm.corpus import EMORYNLP, Corpus, Dialogue, LabelSet, read_corpus, read_sample, selection_split
from erc_llm.corpus.speakers import GENERIC_NAMES
from erc_llm.errors import ConfigError
from erc_llm.metrics import INVALID_POLICY
from erc_llm.predictions import Answer, Predictions, PredictionsInfo, correct
from erc_llm.runs.directory import Run
from erc_llm.runs.provenance import versions

if TYPE_CHECKING:
    from erc_llm.decoding.answers import Answered
    from erc_llm.decoding.scoring import LabelScores
    from erc_llm.predictor import Predictor
    from erc_llm.prompting.prompter import Prompter
    from erc_llm.tuning.sampling import Targets

SAMPLE = "sample"


def open_corpus(config: CorpusConfig, labels: LabelSet, *, cut_selection: bool = True) -> Corpus:
    """Read the corpus a configuration names; cut its selection split out of train unless told not to."""
    generic = GENERIC_NAMES if config.generic is None else config.generic
    if config.path == SAMPLE:
        if labels != EMORYNLP:
            raise ConfigError("corpus.labels: the sample corpus has EmoryNLP's labels; give corpus.path, or no labels")
        corpus = read_sample(aliases=config.aliases, generic=generic)
    else:
        corpus = read_corpus(
            config.path, labels=labels, heal_from=config.heal_from, aliases=config.aliases, generic=generic
        )
    if cut_selection and "train" in corpus.splits and "selection" not in corpus.splits:
        corpus = selection_split(corpus, config.selection_fraction, config.selection_seed)
    return corpus


def hide_selection(corpus: Corpus, config: CorpusConfig) -> Corpus:
    """Cut the selection split out of train, as training does, where train has episodes enough.

    Profiles then know no more labels than they knew in training.
    """
    scenes = corpus.splits.get("train", ())
    if "selection" in corpus.splits or len({d.episode_id or d.id for d in scenes}) < 2:
        return corpus
    return selection_split(corpus, config.selection_fraction, config.selection_seed)


def say_oddities(corpus: Corpus, console: Console, most: int = 5) -> None:
    """Tell people what was odd about the corpus they gave, the first few sentences of it."""
    for sentence in corpus.oddities[:most]:
        console.print(f"note: {sentence}", style="yellow", markup=False, highlight=False)
    if len(corpus.oddities) > most:
        console.print(f"note: and {len(corpus.oddities) - most} more; `erc-llm data` shows all", style="yellow")


def train_shares(scenes: Sequence[Dialogue], labels: LabelSet) -> tuple[float, ...]:
    """Share of each label among the labelled targets, in label order; they sum to 1."""
    counts = labelled_targets(scenes, labels).counts
    return tuple((counts / counts.sum()).tolist())


def labelled_targets(scenes: Sequence[Dialogue], labels: LabelSet) -> Targets:
    """Every labelled target of the scenes, in order."""
    from erc_llm.tuning.sampling import Targets

    rows = [
        (number, k, labels.index(label))
        for number, dialogue in enumerate(scenes)
        for k in dialogue.targets
        if (label := dialogue.utterances[k].label) is not None
    ]
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return Targets(columns[0], columns[1], columns[2], len(scenes), len(labels))


def predict(
    predictor: Predictor,
    corpus: Corpus,
    split: str,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> Predictions:
    """The predictions table of one split; scores are corrected as the predictor corrects."""
    dialogues = corpus.split(split)
    names = predictor.labels.names
    if predictor.config.scoring.decode == "score":
        scores = predictor.scores(dialogues, on_progress)
        found = [[(s.target, scored_answer(s, names)) for s in scene] for scene in scores]
    else:
        written = predictor.written(dialogues, on_progress)
        found = [[(w.target, _written_answer(w, names)) for w in scene] for scene in written]
    answers = {
        (d.id, d.utterances[target].id): answer
        for d, scene in zip(dialogues, found, strict=True)
        for target, answer in scene
    }
    info = _info(predictor, corpus, split)
    raw = Predictions.from_corpus(info, dialogues, answers, corpus.dialogues(), corpus.generic)
    return correct(raw, predictor.correction) if predictor.config.scoring.decode == "score" else raw


def _written_answer(written: Answered, names: Sequence[str]) -> Answer:
    predicted = None if written.label is None else names[written.label]
    return Answer(predicted, invalid=predicted is None, raw_answer=written.text)


def scored_answer(scores: LabelScores, names: Sequence[str]) -> Answer:
    """A row for a target that has scores: the most probable label, and the distribution."""
    return Answer(
        predicted=names[int(scores.log_likelihoods.argmax())],
        log_likelihoods=scores.log_likelihoods.tolist(),
        probabilities=scores.probabilities.tolist(),
        label_mass=min(scores.label_mass, 1.0),
    )


def _info(predictor: Predictor, corpus: Corpus, split: str) -> PredictionsInfo:
    config, run = predictor.config, predictor.run
    decoding = config.scoring.decoding
    system = config.name if run else f"{config.model.base} zero-shot"
    info = table_info(config, run, predictor.prompter, corpus, split)
    correction = predictor.correction
    calibrated = correction.scaling is not None or correction.decision_weights is not None
    return replace(
        info,
        system=f"{system}, {decoding}" if decoding else system,
        selection="selection" if calibrated else info.selection,
        decoding=decoding,
        base_model=predictor.loaded.description,
        base_model_sha256=predictor.loaded.weights_sha256,
    )


def table_info(config: RunConfig, run: Run | None, prompter: Prompter, corpus: Corpus, split: str) -> PredictionsInfo:
    """What a table says of corpus, prompt and run, whoever answered; of the system only the configuration's name."""
    manifest = run.manifest if run else None
    shares = manifest.train_shares if manifest else None
    if shares is None and "train" in corpus.splits:
        shares = train_shares(corpus.split("train"), prompter.labels)
    return PredictionsInfo(
        system=config.name,
        labels=prompter.labels.names,
        corpus_sha256=corpus.sha256,
        corpus_name=corpus.name,
        corpus_version=corpus.version,
        split=split,
        healed=corpus.healed,
        run_id=manifest.run_id if manifest else None,
        seed=config.seed,
        context=config.prompt.context,
        template_sha256=prompter.template.sha256,
        config_sha256=config.sha256,
        recipe_sha256=config.recipe_sha256,
        train_sha256=corpus.train_sha256,
        trained_on_version=manifest.corpus_version if manifest else None,
        trained_on_sha256=manifest.train_sha256 if manifest else None,
        invalid_policy=INVALID_POLICY,
        selection="selection" if run and run.config.training.evaluations else "none",
        profile=_profile_source(config),
        retrieval=(config.profile.encoder or "lexical") if config.profile.writer == "lines" else "none",
        train_shares=shares,
        training_prior=manifest.training_prior if manifest else None,
        created_with=versions(),
    )


def _profile_source(config: RunConfig) -> str:
    """Where the prompt's evidence on speakers comes from, in a few words."""
    profile = config.profile
    words = [] if profile.writer == "none" else [f"{profile.writer} in the {profile.placement}"]
    if words and profile.control != "none":
        words.append(profile.control)
    if config.state.source != "none":
        words.append(f"state {config.state.source}")
    if config.prompt.names == "invented":
        words.append("invented names")
    return ", ".join(words) or "none"


def open_to_predict(
    config: RunConfig, path: str | None, heal_from: str | None, split: str | None, console: Console
) -> Corpus:
    """The corpus whose `split` is to be predicted (None: no split of it), as speaker profiles may know it.

    Args:
        config: Of the run, or of a base model.
        path: A corpus in place of the configuration's.
        heal_from: The original files, to restore its lines.
        split: Checked to be there.
        console: Where to tell what is odd.
    """
    section = config.corpus
    if path is not None:
        section = section.model_copy(update={"path": path, "heal_from": heal_from})
    read = open_corpus(section, config.label_set(), cut_selection=split == "selection")
    if config.profile.writer != "none":
        read = hide_selection(read, section)
    say_oddities(read, console)
    if split is not None:
        read.split(split)
    return read


def predict_on_console(predictor: Predictor, corpus: Corpus, split: str, console: Console) -> Predictions:
    """`predict`, with a bar of progress in a terminal."""
    from rich.progress import Progress

    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(f"scoring {split}", total=len(corpus.split(split)))
        return predict(predictor, corpus, split, on_progress=lambda n: progress.update(task, completed=n))


def find_source(source: str) -> RunConfig | Path:
    """A run directory as it is; anything else as a configuration of a base model."""
    path = Path(source)
    if path.is_dir() or (os.sep in source and not path.suffix):
        return path
    return load_config(source)
