"""End-to-end fine-tuning: trains an adapter from a `RunConfig` and writes its run directory.

Input: the configuration. Output: the finished `Run`.
Does not depend on: how corpora, prompts, models and the optimisation work; it composes them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from erc_llm.config import RunConfig, SamplingConfig
from erc_llm.corpus import Corpus, Dialogue, LabelSet, labelled_scenes
from erc_llm.errors import ConfigError, CorpusError, RunError
from erc_llm.files import write_text
from erc_llm.models.devices import check_launcher, dtype_name, process_rank
from erc_llm.opened_model import check_base_model
from erc_llm.predictions import Correction
from erc_llm.prompting.auxiliary import TASKS
from erc_llm.prompting.templates import load_auxiliary
from erc_llm.recipes.console import ConsoleProgress
from erc_llm.recipes.data import labelled_targets, open_corpus, print_warnings, without_overlaps
from erc_llm.recipes.plan import plan_on_gpu, shortfall
from erc_llm.recipes.run_inputs import check_auxiliary, check_finished, check_leak, described, read_confusion, start_run
from erc_llm.recipes.run_report import write_run_report
from erc_llm.recipes.training_run import Training, Watch
from erc_llm.runs.directory import ADAPTER, CHECKPOINTS, CONFIG, REPORT, TEMPLATE, Run, check_same, claim
from erc_llm.runs.manifest import FINISHED, TRAINING, Manifest, write_manifest
from erc_llm.runs.progress import Progress
from erc_llm.runs.provenance import commit, versions

if TYPE_CHECKING:
    from peft import PeftModel

    from erc_llm.models.loading import LoadedModel
    from erc_llm.tuning.sampling import Sampler, Targets


def train(
    config: RunConfig,
    *,
    resume: bool = False,
    console: Console | None = None,
    force: bool = False,
    watch: Watch | None = None,
) -> Run:
    """Train an adapter and write its run directory.

    Args:
        config: The configuration of the run.
        resume: Continue an unfinished run of the same configuration.
        console: Where to show progress.
        force: Train even if the plan does not fit this machine's GPU.
        watch: Called with the step and the metrics whenever the selection split was scored; True ends training.

    Raises:
        RunError: The run directory is in use, or holds a run of another configuration.
        CorpusError: There is no labelled target to train on.
        ConfigError: A launcher splits the model over processes, the adapter would be on the output layer, or the
            plan does not fit the GPU.
        UserError: The GPU has too little memory.
    """
    from erc_llm.build import build_model, build_prompter, check_fit
    from erc_llm.calibration.choose import prior_shift
    from erc_llm.retrieval.in_prompt import retrieval_of
    from erc_llm.tuning.selection import check_selection

    check_launcher()
    # Every process of a launcher runs this, but only the main one prints.
    console = (console or Console()) if process_rank() == 0 else Console(quiet=True)
    progress = ConsoleProgress(console)
    folder = Path(config.output) / config.name
    began = claim(folder, config, resume)
    if began is not None and began.manifest.finished:
        check_finished(began, config)
        progress.line(f"{folder} is finished already")
        if process_rank() == 0 and not (folder / REPORT).is_file():  # killed just before
            _tidy_and_report(folder, config.name, progress)
        return began
    labels = config.label_set()
    corpus = open_corpus(config.corpus, labels, cut_selection=config.holds_out_selection)
    planned = plan_on_gpu(config, corpus)
    if planned is not None and not force and (short := shortfall(planned)):
        raise ConfigError(f"{short.found}; {short.remedy}. `erc-llm train --force` trains nevertheless")
    print_warnings(corpus, console)
    apart, avoided = without_overlaps(corpus, config.corpus.avoid, progress)
    scenes = labelled_scenes(apart, config.training.max_scenes, config.seed)
    check_auxiliary(config, scenes)
    check_leak(config)
    start = start_run(config.lora)
    sampler = target_sampler(config.sampling, scenes, labels, config.seed)
    warn_of_absent(sampler.targets, labels, progress)
    if config.holds_out_selection:
        check_selection(corpus)
    confusion = read_confusion(config, corpus)
    loaded = build_model(config, hashed=process_rank() == 0)  # the others write no manifest
    if start is not None and process_rank() == 0:
        check_base_model(start, config, loaded)
    prompter = build_prompter(config, labels, loaded.tokenizer, past=corpus, on_notes=notes_progress(progress))
    check_fit(prompter, loaded, state=config.state.source != "none")
    manifest = _manifest(config, corpus, labels, sampler, prompter.template.sha256, loaded, confusion)
    auxiliary = config.training.auxiliary
    manifest = replace(
        manifest,
        avoided=avoided,
        started_from=None if start is None else described(start),
        auxiliary_sha256=load_auxiliary().sha256 if any(getattr(auxiliary, task) for task in TASKS) else None,
        retrieval=retrieval_of(config.retrieval),
    )
    if began is not None and process_rank() == 0:
        check_same(began, manifest)
    training = Training(
        config=config,
        folder=folder,
        corpus=corpus,
        scenes=scenes,
        sampler=sampler,
        prompter=prompter,
        loaded=loaded,
        model=_with_adapter(config, loaded, start),
        confusion=confusion,
        correction=Correction(prior_shift(manifest, "auto")),
        progress=progress,
        planned_bytes=None if planned is None else planned.plan.peaks.training.total,
        watch=watch,
    )
    training.describe()
    steps = training.order()  # it refuses steps that cannot continue a checkpoint, before anything is overwritten
    if process_rank() == 0:
        write_text(folder / CONFIG, config.as_yaml(), RunError)
        write_text(folder / TEMPLATE, prompter.template.source, RunError)
        write_manifest(folder, manifest)
    training.run(steps, resume)
    finished = replace(manifest, status=FINISHED)
    if process_rank() == 0:
        write_manifest(folder, finished)
        _tidy_and_report(folder, config.name, progress)
    return Run(folder, config, finished)


def _tidy_and_report(folder: Path, name: str, progress: Progress) -> None:
    """Remove what only an unfinished run needs, and write the report."""
    for left in (folder / CHECKPOINTS, *folder.glob(f".{ADAPTER}-*")):
        shutil.rmtree(left, ignore_errors=True)
    write_run_report(folder, name, progress)


def notes_progress(progress: Progress, parts: int = 20) -> Callable[[int, int], None]:
    """A function that prints how many notes on speakers are written, at most `parts` times."""
    printed = [0]

    def show(done: int, total: int) -> None:
        part = done * parts // total
        if part > printed[0]:
            printed[0] = part
            progress.line(f"notes on speakers: {done} of {total}")

    return show


def _with_adapter(config: RunConfig, loaded: LoadedModel, start: Run | None) -> PeftModel:
    from erc_llm.models.adapters import attach_lora, start_from
    from erc_llm.models.lora_targets import adapted_head

    lora = config.lora
    model = attach_lora(
        loaded.model,
        rank=lora.rank,
        alpha=lora.alpha,
        dropout=lora.dropout,
        target_modules=lora.target_modules,
        seed=config.seed,
    )
    if (head := adapted_head(model)) is not None:  # under a name that the check of the configuration cannot know
        raise ConfigError(f"lora.target_modules: '{head}' is the output layer, which gets no adapter; leave it out")
    if start is not None:
        start_from(model, start.adapter)
    return model


def target_sampler(config: SamplingConfig, scenes: Sequence[Dialogue], labels: LabelSet, seed: int) -> Sampler:
    """The sampler that draws the labelled targets of the training scenes, or weights their losses.

    Raises:
        CorpusError: Classes are to be balanced, and one of them has no target.
    """
    from erc_llm.tuning.sampling import Sampler, class_weights

    targets = labelled_targets(scenes, labels)
    field = "loss_weights" if config.scheme == "none" else "scheme"
    scheme = config.loss_weights if config.scheme == "none" else config.scheme
    if scheme != "none" and targets.absent and not config.allow_absent:
        names = ", ".join(labels.names[label] for label in targets.absent)
        raise CorpusError(
            f"sampling.{field}={scheme}: no target of the {len(scenes)} training scenes is labelled {names}; label "
            "some, leave it out of corpus.labels, raise training.max_scenes, or set sampling.allow_absent=true"
        )
    weights = class_weights(targets.counts, scheme, config.beta)
    return Sampler(targets, weights, config.scheme != "none", seed)


def warn_of_absent(targets: Targets, labels: LabelSet, progress: Progress) -> None:
    """Print the labels that no training target has; nothing is learned about them."""
    if targets.absent:
        names = ", ".join(labels.names[label] for label in targets.absent)
        progress.line(f"note: no training target is labelled {names}", warning=True)


def _manifest(
    config: RunConfig,
    corpus: Corpus,
    labels: LabelSet,
    sampler: Sampler,
    template: str,
    loaded: LoadedModel,
    confusion: tuple[tuple[int, ...], ...] | None,
) -> Manifest:
    return Manifest(
        kind="adapter",
        run_id=f"{config.name}-{config.sha256[:8]}",
        status=TRAINING,
        seed=config.seed,
        context=config.prompt.context,
        labels=labels.names,
        neutral=labels.neutral,
        train_shares=sampler.targets.shares,
        training_prior=sampler.prior,
        config_sha256=config.sha256,
        corpus_name=corpus.name,
        corpus_version=corpus.version,
        corpus_sha256=corpus.sha256,
        healed=corpus.healed,
        template_sha256=template,
        base_model=loaded.description,
        base_model_sha256=loaded.weights_sha256,
        versions=versions(),
        commit=commit(),
        confusion=confusion,
        train_sha256=corpus.train_sha256,
        precision=dtype_name(loaded.dtype),
        tried=config.tried,
    )
