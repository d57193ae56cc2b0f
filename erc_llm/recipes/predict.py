"""Open the corpus a configuration names, and predict a split of it. Commands, training and the demo stand on it.

In: a configuration or a predictor. Out: a `Corpus`, or a predictions table. Knows all the parts but training.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from erc_llm.config import RunConfig, load_config
from erc_llm.corpus import Corpus
from erc_llm.metrics import INVALID_POLICY
from erc_llm.predictions import Prediction, Predictions, PredictionsInfo, correct
from erc_llm.recipes.data import hide_selection, label_distribution, open_corpus, print_warnings
from erc_llm.runs.directory import Run
from erc_llm.runs.provenance import versions

if TYPE_CHECKING:
    from erc_llm.decoding.label_generator import GeneratedLabel
    from erc_llm.decoding.scoring import LabelScores
    from erc_llm.predictor import Predictor
    from erc_llm.prompting.prompter import Prompter


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


def _written_answer(written: GeneratedLabel, names: Sequence[str]) -> Prediction:
    predicted = None if written.label is None else names[written.label]
    return Prediction(predicted, invalid=predicted is None, raw_answer=written.text)


def scored_answer(scores: LabelScores, names: Sequence[str]) -> Prediction:
    """A row for a target that has scores: the most probable label, and the distribution."""
    return Prediction(
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
        shares = label_distribution(corpus.split("train"), prompter.labels)
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
    print_warnings(read, console)
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
