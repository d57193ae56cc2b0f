"""Planning a training run: reads what is at hand, and computes memory, time and disk before anything is downloaded.

Input: a `RunConfig`, a card or an amount of memory. Output: a `PlannedRun`.
Does not depend on: torch (but to ask for this machine's GPU), transformers, loaded models; nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from erc_llm.config import RetrievalConfig, RunConfig
from erc_llm.corpus import EMORYNLP, Corpus, Dialogue, LabelSet, labelled_scenes
from erc_llm.corpus.datasets_folder import HUB
from erc_llm.errors import ConfigError, ModelError
from erc_llm.models.devices import gpu_memory, process_count
from erc_llm.planning.bases import Base, find_base
from erc_llm.planning.cards import CARDS, GIB, Card
from erc_llm.planning.compute import seconds
from erc_llm.planning.fitting import Fit, fit_of
from erc_llm.planning.plan import Plan, Scenes, Setup, make_plan, usable_bytes
from erc_llm.planning.token_counts import TokenCounter, token_counter
from erc_llm.planning.tree_sizes import (
    RETRIEVED_AROUND,
    RETRIEVED_LINE,
    RETRIEVED_SHARES,
    SceneMeter,
    TreeOptions,
)
from erc_llm.prompting.prompter import spoken_labels
from erc_llm.prompting.templates import load_prompt
from erc_llm.recipes.data import SAMPLE, open_corpus


@dataclass(frozen=True, slots=True)
class CardTime:
    """Time of an epoch on one card.

    Attributes:
        card: The card.
        tree_seconds: As one token tree per scene.
        prompt_seconds: As one prompt per utterance.
        fits: Whether the plan fits the card.
        utilisation: Part of the card's rate that is assumed.
    """

    card: Card
    tree_seconds: float
    prompt_seconds: float
    fits: bool
    utilisation: float


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A plan with where its numbers come from.

    Attributes:
        config: The configuration.
        base: The base model, not loaded.
        plan: Memory, tokens, operations and disk.
        counter: How tokens were counted.
        corpus: Name of the corpus whose scenes were measured.
        corpus_found: Whether that is the configuration's; else it is the sample's, whose tree shapes stand in.
        card: The card that was asked for; None for none or a plain amount of memory.
        fit: How the plan relates to its memory; None if neither was given.
        times: Time of an epoch on the listed cards.
        notes: Sentences on what a reader should know.
    """

    config: RunConfig
    base: Base
    plan: Plan
    counter: TokenCounter
    corpus: str
    corpus_found: bool
    card: Card | None
    fit: Fit | None
    times: tuple[CardTime, ...]
    notes: tuple[str, ...]


def plan_run(
    config: RunConfig,
    *,
    card: Card | None = None,
    memory: int | None = None,
    utilisation: float | None = None,
    corpus: Corpus | None = None,
    processes: int = 1,
) -> PlannedRun:
    """Plan a run.

    Args:
        config: Its configuration.
        card: The card that it is planned for.
        memory: The memory that it is planned for, in bytes, if no card is given.
        utilisation: Part of a card's rate that is reached (0 to 1); None for each card's own assumption.
        corpus: Its corpus with the selection split cut, if it has been read already.
        processes: Processes of a launcher, each with a card.

    Raises:
        ModelError: The base model's shape is not to be had, or is not one that can be planned.
        CorpusError: The corpus cannot be used.
    """
    base = find_base(config.model.base)
    counter = token_counter(base.tokenizer, base.architecture.vocabulary)
    corpus, found = _corpus(config) if corpus is None else (corpus, True)
    scenes = _scenes(config, corpus, counter)
    setup = Setup.of(config, base.architecture, processes)
    plan = make_plan(setup, scenes)
    available = card.memory if card else memory
    fit = None if available is None else fit_of(setup, plan.peaks, scenes, available)
    return PlannedRun(
        config=config,
        base=base,
        plan=plan,
        counter=counter,
        corpus=corpus.name,
        corpus_found=found,
        card=card,
        fit=fit,
        times=tuple(_time(listed, plan, utilisation) for listed in CARDS),
        notes=tuple(_notes(config, base, found, card)),
    )


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A plan that does not fit this machine's GPU.

    Attributes:
        found: What the run needs, and what there is.
        remedy: The nearest settings with which it fits.
    """

    found: str
    remedy: str


def plan_on_gpu(config: RunConfig, corpus: Corpus) -> PlannedRun | None:
    """The plan of a run on the GPUs of its processes; None without one, or for a base model that cannot be planned.

    Args:
        config: The configuration.
        corpus: Its corpus with the selection split cut.

    Raises:
        CorpusError: The corpus has nothing to train on.
        ConfigError: `lora.target_modules` names no layer of the base model.
    """
    try:
        memory = gpu_memory(config.model.device)
        if memory is None:
            return None
        return plan_run(config, memory=memory, corpus=corpus, processes=process_count())
    except ModelError:  # loading says what is wrong with it; other architectures cannot be planned
        return None


def shortfall(planned: PlannedRun) -> Shortfall | None:
    """Why a plan does not fit its memory; None if it fits."""
    fit = planned.fit
    if fit is None or fit.fits:
        return None
    found = (
        f"the plan needs {planned.plan.peaks.largest / GIB:.1f} GiB of GPU memory, and {fit.usable / GIB:.1f} GiB can "
        f"be used (of {fit.memory / GIB:.1f} GiB)"
    )
    if not fit.changes:
        return Shortfall(found, "no settings of this base model fit: choose a smaller one, or model.device=cpu")
    return Shortfall(found, f"it fits with {' '.join(map(str, fit.changes))}; `erc-llm plan` shows all parts")


def _corpus(config: RunConfig) -> tuple[Corpus, bool]:
    """The configuration's corpus with its selection split cut, or the sample in its place if its path is not there."""
    labels = config.label_set()
    section = config.corpus
    if section.path == SAMPLE or section.path.startswith(HUB) or Path(section.path).exists():
        if section.heal_from is not None and not Path(section.heal_from).exists():
            raise ConfigError(f"corpus.heal_from: {section.heal_from} is not there; leave it out, or give its folder")
        return open_corpus(section, labels, cut_selection=config.holds_out_selection), True
    own = section.model_copy(update={"path": SAMPLE, "heal_from": None, "labels": None, "fold": None})
    return open_corpus(own, EMORYNLP, cut_selection=config.holds_out_selection), False


def _scenes(config: RunConfig, corpus: Corpus, counter: TokenCounter) -> Scenes:
    training = labelled_scenes(corpus, config.training.max_scenes, config.seed)
    scored: Sequence[Dialogue] = corpus.splits.get("selection") or tuple(corpus.dialogues())
    labels: LabelSet = corpus.labels
    meters = [
        SceneMeter(load_prompt(config.prompt.template), _options(config, labels, all_answers, training), counter)
        for all_answers, training in ((config.training.objective == "closed_set", True), (True, False))
    ]
    return Scenes(
        training=[meters[0].size(scene) for scene in training],
        scoring=[meters[1].size(scene, labelled=False) for scene in scored],
    )


def retrieved_tokens(config: RetrievalConfig) -> int:
    """Tokens of what is retrieved for one line; the lines are not known here, so each has a fixed size."""
    if config.use == "distribution":
        return RETRIEVED_SHARES
    return RETRIEVED_AROUND + config.neighbours * RETRIEVED_LINE if config.use == "demonstrations" else 0


def _options(config: RunConfig, labels: LabelSet, all_answers: bool, training: bool) -> TreeOptions:
    profile = config.profile
    return TreeOptions(
        labels=labels.names,
        spoken=spoken_labels(labels, config.prompt.answer),
        context=config.prompt.context,
        names="full" if config.prompt.names == "full" else "first",
        trunk_budget=config.prompt.trunk_budget,
        profile=0 if profile.writer == "none" else profile.budget,
        profile_in_question=profile.placement == "question",
        retrieved=retrieved_tokens(config.retrieval),
        retrieved_in_trunk=config.retrieval.place == "trunk",
        state=config.state.source != "none",
        all_answers=all_answers,
        lookahead=config.prompt.lookahead,
        trunk_lines=config.prompt.trunk_lines,
        words=training and config.training.auxiliary.words > 0,
    )


def _time(card: Card, plan: Plan, utilisation: float | None) -> CardTime:
    fits = plan.peaks.largest <= usable_bytes(card.memory)
    epoch = plan.epoch
    reached = card.utilisation if utilisation is None else utilisation
    trees, prompts = (seconds(flops, card, reached) for flops in (epoch.tree_flops, epoch.prompt_flops))
    return CardTime(card, trees, prompts, fits, reached)


def _notes(config: RunConfig, base: Base, corpus_found: bool, card: Card | None) -> Iterator[str]:
    """What a reader should know about a plan."""
    positions = base.architecture.positions
    if not corpus_found:
        yield (
            f"corpus.path: {config.corpus.path} is not there; the scenes of the embedded sample stand in for it, so "
            "tokens and time of an epoch are those of the sample"
        )
    if card is not None and not card.bf16 and config.model.precision == "bf16":
        yield f"model.precision: {card.name} does not multiply bf16; use model.precision=auto"
    elif card is not None and not card.bf16 and config.model.precision == "auto":
        yield f"{card.name} does not multiply bf16; planned with fp16, which takes the same memory"
    if positions is not None and config.prompt.trunk_budget >= positions:
        yield f"prompt.trunk_budget: {config.prompt.trunk_budget} tokens of lines do not fit {positions} positions"
    if config.profile.writer != "none":
        yield f"profiles are counted at their largest, {config.profile.budget} tokens each (profile.budget)"
    if config.retrieval.use != "none":
        yield f"what is retrieved for a line is counted at a fixed size, {retrieved_tokens(config.retrieval)} tokens"
    if config.corpus.avoid:
        yield "dialogues that corpus.avoid leaves out are counted; training reads fewer"
    auxiliary = config.training.auxiliary
    if auxiliary.next_emotion or auxiliary.speaker or auxiliary.polarity:
        yield "auxiliary questions are not counted; training reads more tokens than planned (training.auxiliary)"
    if config.training.r_drop:
        yield "training.r_drop reads every forest twice: tokens, time and activations are counted twice"
    if config.sampling.scheme != "none":
        yield "with sampling.scheme an epoch asks about fewer different utterances: tokens and time are upper bounds"
    if load_prompt(config.prompt.template).chat:
        yield "the chat template is counted at a fixed size: 16 tokens a scene and 6 a question"
