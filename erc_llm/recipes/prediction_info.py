"""Metadata of a predictions table: the corpus, prompt and run from which it comes.

Input: a configuration, a run, a prompter, a corpus. Output: `PredictionsInfo`.
Does not depend on: models, decoding.
"""

from __future__ import annotations

from erc_llm.config import RunConfig
from erc_llm.corpus import Corpus
from erc_llm.metrics import INVALID_POLICY
from erc_llm.predictions import Correction, PredictionsInfo
from erc_llm.predictions.info import LEAK, OF_TRAIN
from erc_llm.prompting.prompter import Prompter
from erc_llm.recipes.data import label_distribution
from erc_llm.recipes.export_files import public_model
from erc_llm.runs.directory import Run
from erc_llm.runs.provenance import versions


def table_info(config: RunConfig, run: Run | None, prompter: Prompter, corpus: Corpus, split: str) -> PredictionsInfo:
    """Metadata of corpus, prompt and run, for every kind of model; `system` is the configuration's name."""
    manifest = run.manifest if run else None
    distribution = manifest.train_shares if manifest else None
    if distribution is None and "train" in corpus.splits:
        distribution = label_distribution(corpus.split("train"), prompter.labels)
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
        started_from=manifest.started_from if manifest else None,
        training_precision=run.precision if run else None,
        invalid_policy=INVALID_POLICY,
        selection=held_out(run),
        profile=profile_source(config),
        retrieval=retrieval_source(config, corpus.train_sha256),
        train_shares=distribution,
        training_prior=manifest.training_prior if manifest else None,
        created_with=versions(),
    )


def held_out(run: Run | None) -> str:
    """The split that choices of training were made on; the folds of an average chose theirs on parts of train."""
    if run is not None and run.manifest.folds is not None:
        return "train"
    return "selection" if run is not None and run.config.holds_out_selection else "none"


def chosen_on(run: Run | None, correction: Correction) -> str | None:
    """The split on which a calibration or rule of the run was found; None if the correction has neither."""
    if run is None or not correction.calibrated:
        return None
    return "selection" if run.manifest.folds is None else "train"


def retrieval_source(config: RunConfig, train_sha256: str) -> str:
    """The source of the lines in the prompt: the similarity of quoted lines of speakers, and the index over train."""
    profile, retrieval = config.profile, config.retrieval
    parts = [profile.encoder or "lexical"] if profile.writer == "lines" else []
    if retrieval.use != "none":
        where = f"{retrieval.neighbours} by {public_model(retrieval.encoder)} in the {retrieval.place}"
        leak = "" if retrieval.leak == "none" else f", {LEAK} {retrieval.leak}"
        parts.append(f"{retrieval.use}: {where}, {OF_TRAIN} {train_sha256[:12]}{leak}")
    return "; ".join(parts) or "none"


def public_retrieval(source: str) -> str:
    """A source of lines without the folder of an encoder; what names the index over train has none."""
    parts = source.split("; ")
    return "; ".join(part if OF_TRAIN in part else str(public_model(part)) for part in parts)


def profile_source(config: RunConfig) -> str:
    """The source of the speaker evidence in the prompt, in a few words."""
    profile = config.profile
    words = [] if profile.writer == "none" else [f"{profile.writer} in the {profile.placement}"]
    if words and profile.control != "none":
        words.append(profile.control)
    if config.state.source != "none":
        words.append(f"state {config.state.source}")
    if config.prompt.names == "invented":
        words.append("invented names")
    return ", ".join(words) or "none"
