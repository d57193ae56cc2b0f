"""A training, whole: a `RunConfig` becomes a run directory with an adapter in it.

In: the configuration. Out: the finished `Run`. Composes corpus, prompts, model, sampler, schedule and trainer; knows
nothing of how any of them works.
"""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from erc_llm.config import RunConfig, SamplingConfig
from erc_llm.corpus import Corpus, Dialogue, LabelSet
from erc_llm.errors import CorpusError, RunError
from erc_llm.files import write_text
from erc_llm.models.devices import process_count, process_rank
from erc_llm.predictions import Correction
from erc_llm.recipes.data import label_distribution, labelled_targets, open_corpus, print_warnings
from erc_llm.recipes.run_inputs import check_finished, read_confusion
from erc_llm.runs.directory import ADAPTER, TEMPLATE, Run, check_same, claim, read_run
from erc_llm.runs.manifest import FINISHED, TRAINING, Manifest, write_manifest
from erc_llm.runs.provenance import commit, versions

if TYPE_CHECKING:
    from erc_llm.prompting.prompter import Prompter
    from erc_llm.trees.tree import TokenTree
    from erc_llm.tuning.order import StepOrder
    from erc_llm.tuning.sampling import Asked, Sampler, Targets


def train(config: RunConfig, *, resume: bool = False, console: Console | None = None) -> Run:
    """Train an adapter and write its run directory.

    Args:
        config: The run.
        resume: Go on with an unfinished run of the same configuration.
        console: Where progress is shown.

    Raises:
        RunError: The run directory is taken, or holds a run of another configuration.
        CorpusError: There is nothing to train on.
    """
    from erc_llm.build import build_model, build_prompter, check_fit
    from erc_llm.calibration.choose import prior_shift
    from erc_llm.tuning.selection import check_selection

    console = console or Console()
    folder = Path(config.output) / config.name
    if claim(folder, config, resume):
        finished = read_run(folder)
        check_finished(finished, config)
        console.print(f"{folder} is finished already", markup=False, soft_wrap=True)
        return finished
    labels = config.label_set()
    corpus = open_corpus(config.corpus, labels, cut_selection=config.training.evaluations > 0)
    print_warnings(corpus, console)
    scenes = training_scenes(corpus, config.training.max_scenes, config.seed)
    sampler = target_sampler(config.sampling, scenes, labels, config.seed)
    say_absent(sampler.targets, labels, console)
    if config.training.evaluations:
        check_selection(corpus)
    confusion = read_confusion(config.state, corpus)
    loaded = build_model(config)
    prompter = build_prompter(config, labels, loaded.tokenizer, past=corpus, on_notes=notes_progress(console))
    check_fit(prompter, loaded, state=config.state.source != "none")
    manifest = _manifest(config, corpus, labels, scenes, sampler, prompter.template.sha256, loaded, confusion)
    model = _with_adapter(config, loaded)
    if process_rank() == 0:
        check_same(folder, manifest)
        write_text(folder / "config.yaml", config.as_yaml(), RunError)
        write_text(folder / TEMPLATE, prompter.template.source, RunError)
        write_manifest(folder, manifest)
    precision = str(loaded.dtype).removeprefix("torch.")
    console.print(f"{loaded.description}, in {precision} ({loaded.precision_reason})")
    held_out = len(corpus.splits.get("selection", ()))
    console.print(f"{len(scenes)} training scenes, {held_out} for selection")
    correction = Correction(prior_shift(manifest, "auto"))
    _fit(config, folder, corpus, scenes, sampler, prompter, loaded, model, confusion, correction, console, resume)
    if process_rank() == 0:
        write_manifest(folder, replace(manifest, status=FINISHED))
        for left in (folder / "checkpoints", *folder.glob(f".{ADAPTER}-*")):
            shutil.rmtree(left, ignore_errors=True)
    return read_run(folder)


def notes_progress(console: Console, parts: int = 20) -> Callable[[int, int], None]:
    """Says now and then how many notes on speakers are written; a language model takes its time."""
    told = [0]

    def tell(done: int, total: int) -> None:
        part = done * parts // total
        if part > told[0]:
            told[0] = part
            console.print(f"notes on speakers: {done} of {total}", highlight=False)

    return tell


def _with_adapter(config: RunConfig, loaded: Any) -> Any:
    from erc_llm.models.adapters import attach_lora

    lora = config.lora
    return attach_lora(
        loaded.model,
        rank=lora.rank,
        alpha=lora.alpha,
        dropout=lora.dropout,
        target_modules=lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules),
        seed=config.seed,
    )


def training_scenes(corpus: Corpus, most: int | None, seed: int) -> tuple[Dialogue, ...]:
    """Train scenes that have labelled targets; `most` of them, drawn by seed, where a number is given.

    Raises:
        CorpusError: There are none.
    """
    scenes = [d for d in corpus.split("train") if any(d.utterances[k].label is not None for k in d.targets)]
    if not scenes:
        raise CorpusError(f"corpus '{corpus.name}': no labelled utterance in train, so there is nothing to train on")
    if most is not None and most < len(scenes):
        chosen = set(random.Random(f"scenes/{seed}").sample(range(len(scenes)), most))
        scenes = [d for i, d in enumerate(scenes) if i in chosen]
    return tuple(scenes)


def target_sampler(config: SamplingConfig, scenes: Sequence[Dialogue], labels: LabelSet, seed: int) -> Sampler:
    """How the labelled targets of the training scenes are drawn, or weighed in the loss.

    Raises:
        CorpusError: Classes are to be balanced, and one has no target.
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


def say_absent(targets: Targets, labels: LabelSet, console: Console) -> None:
    """Tell which labels no training target has: nothing will be learned of them."""
    if targets.absent:
        names = ", ".join(labels.names[label] for label in targets.absent)
        console.print(f"note: no training target is labelled {names}", style="yellow", markup=False, highlight=False)


def _manifest(
    config: RunConfig,
    corpus: Corpus,
    labels: LabelSet,
    scenes: Sequence[Dialogue],
    sampler: Sampler,
    template: str,
    loaded: Any,
    confusion: tuple[tuple[int, ...], ...] | None,
) -> Manifest:
    return Manifest(
        run_id=f"{config.name}-{config.sha256[:8]}",
        status=TRAINING,
        seed=config.seed,
        context=config.prompt.context,
        labels=labels.names,
        neutral=labels.neutral,
        train_shares=label_distribution(scenes, labels),
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
    )


def _fit(
    config: RunConfig,
    folder: Path,
    corpus: Corpus,
    scenes: Sequence[Dialogue],
    sampler: Sampler,
    prompter: Prompter,
    loaded: Any,
    model: Any,
    confusion: Sequence[Sequence[int]] | None,
    correction: Correction,
    console: Console,
    resume: bool,
) -> None:
    import torch

    from erc_llm.models.adapters import save_adapter
    from erc_llm.tuning.callbacks import CheckpointCallback, LogCallback, SelectionCallback
    from erc_llm.tuning.order import order_steps
    from erc_llm.tuning.selection import evaluation_steps, score_metrics
    from erc_llm.tuning.trainer import FitSettings, fit

    training = config.training
    asked = [sampler.asked(epoch) for epoch in range(math.ceil(training.epochs))]
    sizes = scene_sizes(training_trees(config, scenes, prompter, confusion), asked)
    fewest = min(sum(size > 0 for size in epoch) for epoch in sizes)
    accumulation = max(1, min(training.accumulation, fewest // process_count()))
    parts = accumulation * process_count()
    schedule = order_steps(
        sizes, epochs=training.epochs, tokens_per_step=training.tokens_per_step, parts=parts, seed=config.seed
    )
    tokens = [sum(sizes[batch.epoch][s] for batch in step for s in batch.scenes) for step in schedule.steps]
    say_overfull(schedule, tokens, training.tokens_per_step, parts, console)
    main = process_rank() == 0
    bf16 = loaded.dtype == torch.bfloat16

    def save(model: Any) -> None:
        save_adapter(model, folder / ADAPTER, loaded.reference)

    def evaluate(model: Any) -> dict[str, float]:
        passes: Literal[1, 2] = 1 if confusion is None else 2
        held_out, most = corpus.split("selection"), config.scoring.tokens_per_forest
        return score_metrics(model, prompter, held_out, most, passes, correction)

    steps = evaluation_steps(len(schedule.steps), training.evaluations)
    callbacks = [
        LogCallback(folder, tokens, training.epochs, main, console),
        SelectionCallback(folder, steps, evaluate, save, training.patience, main, console),
        CheckpointCallback(training.checkpoint_minutes),
    ]
    fit(
        model,
        loaded.tokenizer,
        schedule,
        training_trees(config, scenes, prompter, confusion, asked),
        FitSettings(
            learning_rate=training.learning_rate,
            schedule=training.schedule,
            warmup=training.warmup,
            weight_decay=training.weight_decay,
            max_grad_norm=training.max_grad_norm,
            accumulation=accumulation,
            gradient_checkpointing=training.gradient_checkpointing,
            bf16=bf16,
            use_cpu=loaded.device.type == "cpu",
            seed=config.seed,
            log_every=training.log_every,
            report_to=training.report_to,
            run_name=config.name,
            normalised=sampler.resampled or config.sampling.normalised,
            objective=training.objective,
        ),
        folder,
        callbacks,
        resume,
    )
    if not steps and main:
        save(model)


def say_overfull(schedule: StepOrder, tokens: Sequence[int], budget: int, parts: int, console: Console) -> None:
    """Tell where steps are larger than asked for, because each process and forest gets a scene of its own."""
    sizes = zip(tokens, schedule.steps, strict=True)
    overfull = sum(size > budget and sum(len(forest.scenes) for forest in step) > 1 for size, step in sizes)
    if overfull:
        console.print(
            f"note: {overfull} of {len(tokens)} steps have more than training.tokens_per_step={budget} tokens, as each "
            f"needs at least {parts} scenes, one per process and accumulated forest; results depend on how many",
            style="yellow",
            highlight=False,
        )


def training_trees(
    config: RunConfig,
    scenes: Sequence[Dialogue],
    prompter: Prompter,
    confusion: Sequence[Sequence[int]] | None,
    asked: Sequence[Asked] | None = None,
) -> Callable[[int, int], list[TokenTree]]:
    """What a scene looks like in an epoch, both by number.

    Args:
        config: The run.
        scenes: The training scenes.
        prompter: Builds the trees.
        confusion: Counts that corrupt what questions are told, as from `read_confusion`.
        asked: What each epoch asks about each scene, with which weight; by default all labelled targets with 1.
    """
    from erc_llm.prompting.prompter import Answers, shuffled_labels
    from erc_llm.prompting.state import corrupted_state, smoothed

    likely = None if confusion is None else smoothed(confusion)
    answers: Answers = "gold" if config.training.objective == "label" else "gold_all"

    def trees_of(scene: int, epoch: int) -> list[TokenTree]:
        dialogue = scenes[scene]
        order = state = None
        if config.prompt.shuffle_labels:
            order = shuffled_labels(prompter.labels, config.seed, epoch, dialogue.id)
        if likely is not None:
            state = corrupted_state(dialogue, prompter.labels, likely, config.state.dropout, config.seed, epoch)
        weights = None if asked is None else asked[epoch][scene]
        return prompter.trees(dialogue, answers, weights=weights, label_order=order, state=state)

    return trees_of


def scene_sizes(trees_of: Callable[[int, int], list[TokenTree]], asked: Sequence[Asked]) -> list[list[int]]:
    """(epochs, scenes) tokens a scene takes with what the epoch asks about it; 0 where it asks nothing.

    Measured once, on the first epoch's trees with all their questions: another order of the labels, or other emotions
    told, move it by a few tokens at most.
    """
    from erc_llm.trees.forest import rows_by_part

    parts = [[rows_by_part(tree) for tree in trees_of(scene, 0)] for scene in range(len(asked[0]))]
    return [
        [sum(tree.asking(targets) for tree in trees) for trees, targets in zip(parts, epoch, strict=True)]
        for epoch in asked
    ]
