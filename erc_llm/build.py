"""Builds the model, the prompter and the profiler from a configuration, and checks that they fit together.

Missing notes on speakers are written on first use: by a local model always, by a server only if the caller allows it.

Input: a `RunConfig` or a section of it, and earlier conversations. Output: a `LoadedModel`, `Prompter` or `Profiler`.
Does not depend on: run directories, training, predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from erc_llm.config import ProfileConfig, RunConfig
from erc_llm.corpus.dialogues import Corpus, Dialogue, Utterance
from erc_llm.corpus.history import History
from erc_llm.corpus.labels import LabelSet
from erc_llm.corpus.splits import episode_of, leave_out, selection_split
from erc_llm.decoding.label_generator import LABEL_FOLLOWS
from erc_llm.decoding.scoring import verify_tree_attention
from erc_llm.errors import ConfigError, PromptError
from erc_llm.models.cache import cache_dir
from erc_llm.models.devices import dtype_name
from erc_llm.models.loading import LoadedModel, load_base_model
from erc_llm.profiles.invented_names import InventedNames
from erc_llm.profiles.lines import LinesWriter, Similarity, lexical_similarity
from erc_llm.profiles.notes import (
    Generate,
    Notes,
    NotesSource,
    NotesWriter,
    batch_key,
    kept_answers,
    open_notes,
    write_notes,
)
from erc_llm.profiles.profiler import Profiler, ProfileWriter
from erc_llm.profiles.statistics import StatisticsWriter
from erc_llm.prompting.prompter import Prompter, PromptOptions
from erc_llm.prompting.templates import load_prompt
from erc_llm.retrieval.in_prompt import open_retriever
from erc_llm.runs.journal import Journal
from erc_llm.runs.manifest import Manifest
from erc_llm.trees.attention import ATTENTION

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Earlier conversations; `none`: there are none, every speaker is new; None: not given.
Past = Corpus | Literal["none"] | None

NOTES_TEMPLATE = "summary"
_TOKENS_PER_WORD = 2  # English has about 1.4; notes end at their last whole sentence within the words


def build_profiler(
    config: ProfileConfig,
    past: Corpus,
    *,
    seed: int = 13,
    ask_server: bool = False,
    allow_remote: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Profiler:
    """The profiler that a configuration describes, on a corpus; its writer must not be `none`.

    Args:
        config: The configuration of the profiles.
        past: The conversations that profiles are written from.
        seed: Seed of the run; draws the other persons of the `shuffled` control.
        ask_server: Whether missing notes may be requested from `profile.endpoint`.
        allow_remote: Whether that may be another machine.
        on_progress: Called with the number of notes written and their total number.

    Raises:
        ConfigError: A server's notes are missing and may not be requested, or the notes file is of another source.
        ModelError: The model that writes notes is missing, or the server gave no usable response.
    """
    history = History(past)
    writer: ProfileWriter
    if config.writer == "llm":
        writer = NotesWriter(_notes(config, past, history, ask_server, allow_remote, on_progress), history)
    elif config.writer == "lines":
        writer = LinesWriter(config.lines, _similarity(config.encoder, past))
    else:
        writer = StatisticsWriter()
    return Profiler(history, writer, config.half_life, config.control, seed)


def _similarity(encoder: str | None, past: Corpus) -> Similarity:
    """Similarity by shared words, or by an encoder, which embeds the whole corpus at once in full batches."""
    if encoder is None:
        return lexical_similarity
    from erc_llm.models.encoders import SentenceEncoder

    loaded = SentenceEncoder(encoder)
    if texts := [u.text for d in past.dialogues() for u in d.utterances]:
        loaded.embed(texts)
    return loaded.similarity


def _notes(
    config: ProfileConfig,
    past: Corpus,
    history: History,
    ask_server: bool,
    allow_remote: bool,
    on_progress: Callable[[int, int], None] | None,
) -> Notes:
    template = load_prompt(NOTES_TEMPLATE, ("system", "user"))
    source = NotesSource(past.sha256, _writer_of(config), template.sha256, config.words)
    path = Path(config.notes) if config.notes else cache_dir() / "notes" / f"{source.sha256[:16]}.jsonl"
    cache = open_notes(path, source)
    # A local batch is kept as a whole. Responses of a server are expensive, so each is kept as soon as it arrives.
    local = config.endpoint is None
    answer = _local(config) if local else _server(config, cache, ask_server, allow_remote)
    return write_notes(
        history, answer, cache, template, words=config.words, keep_batches=local, on_progress=on_progress
    )


def _writer_of(config: ProfileConfig) -> str:
    """Name of the model that writes notes, with its server's address or its hash."""
    from erc_llm.models.endpoint import check_address
    from erc_llm.models.loading import base_model_sha256

    if config.endpoint:
        check_address(config.endpoint)  # before the address is written to a file
        return f"{config.model} at {config.endpoint}"
    return f"{config.model} {base_model_sha256(config.model)}"


def _local(config: ProfileConfig) -> Generate:
    """A function that generates notes by a local model, which is loaded when the first batch is missing."""
    from erc_llm.models.loading import load_base_model

    loaded: list[LoadedModel] = []

    def answer(prompts: Sequence[tuple[str, str]]) -> list[str]:
        from erc_llm.decoding.generation import continue_texts

        if not loaded:
            loaded.append(load_base_model(config.model, attention="sdpa"))
        texts = [f"{system}\n\n{user}" for system, user in prompts]
        return continue_texts(loaded[0], texts, config.words * _TOKENS_PER_WORD)

    return answer


def _server(config: ProfileConfig, cache: Journal, ask: bool, allow_remote: bool) -> Generate:
    """A function that requests notes from a server when they are missing; each response is kept by itself."""
    from erc_llm.models.endpoint import Endpoint

    def answer(prompts: Sequence[tuple[str, str]]) -> list[str]:
        keys = [batch_key([prompt]) for prompt in prompts]
        missing = [i for i, key in enumerate(keys) if not kept_answers(cache, key)]
        if missing and not ask:
            raise ConfigError(
                "profile.endpoint: notes of this corpus are missing; `erc-llm profile CORPUS --out FILE` asks for them"
            )
        if missing:
            assert config.endpoint is not None
            server = Endpoint(config.endpoint, config.model, allow_remote=allow_remote)
            asked = [prompts[i] for i in missing]
            server.answer(asked, config.words * _TOKENS_PER_WORD, lambda k, text: cache.add(keys[missing[k]], [text]))
        return [(kept_answers(cache, key) or [""])[0] for key in keys]

    return answer


_LEAST_BUDGET = 64  # the least value of prompt.trunk_budget
# In nats. Packed and plain forward passes sum in different orders; these are several times the observed differences.
_TOLERANCE = {"float32": 1e-2, "bfloat16": 1.0, "float16": 0.5}


def training_view(corpus: Corpus, config: RunConfig) -> Corpus:
    """The corpus as training with this configuration sees it: without the fold left out, the selection split cut.

    No selection is cut if training holds nothing out (`training.evaluations=0`), if the corpus has its own selection
    split, or if train has fewer than two episodes. So profiles use the same labels in prediction as in training.
    """
    corpus = training_fold(corpus, config)
    episodes = {episode_of(dialogue) for dialogue in corpus.splits.get("train", ())}
    if not config.holds_out_selection or "selection" in corpus.splits or len(episodes) < 2:
        return corpus
    return selection_split(corpus, config.corpus.selection_fraction, config.corpus.selection_seed)


def training_fold(corpus: Corpus, config: RunConfig) -> Corpus:
    """The corpus without the fold that training left out; whole if train has fewer episodes than there were folds."""
    fold = config.corpus.fold
    episodes = {episode_of(dialogue) for dialogue in corpus.splits.get("train", ())}
    if fold is None or len(episodes) < fold.folds:
        return corpus
    return leave_out(corpus, fold.number, fold.folds, fold.seed)


def build_prompter(
    config: RunConfig,
    labels: LabelSet,
    tokenizer: PreTrainedTokenizerBase,
    template: Path | None = None,
    past: Past = None,
    on_notes: Callable[[int, int], None] | None = None,
    profiler: Profiler | None = None,
    made: Manifest | None = None,
) -> Prompter:
    """The prompter that a configuration describes.

    Args:
        config: The configuration.
        labels: The label set.
        tokenizer: The base model's.
        template: A run's copy of the template, which takes precedence over the configuration's.
        past: Conversations from which speaker profiles are written, after `training_view`; `none` if every speaker is
            new. Also the source of names that `prompt.names=invented` replaces, and of lines that are retrieved.
        on_notes: Called with the number of notes on speakers written and their total number.
        profiler: Writes the profiles, if the caller has one on the same conversations already.
        made: Manifest of the run in use, to whose train and encoder retrieval is held; None in training.

    Raises:
        ConfigError: The prompt needs a past (profiles, names to replace, lines to retrieve) and none is given.
        RunError: Lines are to be retrieved, and the past has another train than the run.
        PromptError: The template does not show the state that the configuration sets.
    """
    known = _known_past(config, labels, past)
    profile = config.profile
    options = PromptOptions(
        context=config.prompt.context,
        names=config.prompt.names,
        trunk_budget=config.prompt.trunk_budget,
        placement=profile.placement,
        profile_budget=profile.budget,
        lookahead=config.prompt.lookahead,
        trunk_lines=config.prompt.trunk_lines,
        answer=config.prompt.answer,
        forecast=config.scoring.forecast,
        retrieved_place=config.retrieval.place,
        demonstrations=config.retrieval.neighbours if config.retrieval.use == "demonstrations" else 0,
    )
    sentences = None
    if profile.writer != "none":
        profiler = profiler or build_profiler(profile, known, seed=config.seed, on_progress=on_notes)
        sentences = profiler.sentences
    renamed = InventedNames(known, config.corpus.aliases) if config.prompt.names == "invented" else None
    prompt = load_prompt(config.prompt.template if template is None else str(template))
    retrieve = None if config.retrieval.use == "none" else open_retriever(config.retrieval, known, made)
    prompter = Prompter(tokenizer, prompt, labels, options, sentences, renamed, retrieve)
    if config.state.source != "none" and prompter.question_ids(1, "Ada", "") == prompter.question_ids(
        1, "Ada", "", "Ada was sad"
    ):
        raise PromptError(f"prompt '{prompter.template.name}': its question does not show `state`; add it to the block")
    return prompter


def _known_past(config: RunConfig, labels: LabelSet, past: Past) -> Corpus:
    """The conversations that prompts are written from.

    Raises:
        ConfigError: Prompts need some and none are given; without this check every speaker would silently be new.
    """
    how = "`erc-llm predict RUN CORPUS`, or `erc_llm.load(run, past=erc_llm.read_corpus(FOLDER))`"
    if isinstance(past, Corpus):
        return training_view(past, config)
    if config.prompt.names == "invented":
        raise ConfigError(
            f"prompt.names=invented: the names to replace are those of a corpus, and none is given; give one: {how}"
        )
    if past is None and config.profile.writer != "none":
        raise ConfigError(
            f"profile.writer={config.profile.writer}: prompts state what is known of each speaker from earlier "
            f"conversations, and no corpus is given; give one: {how}; `none` in its place if nobody was seen before"
        )
    return Corpus("nothing", "own", labels, {})


def check_fit(prompter: Prompter, loaded: LoadedModel, written: int = 0, state: bool = True) -> None:
    """Refuse a model that does not fit the longest prompts, with this many tokens of free text after them.

    The corpus is not known here. The longest prompt is assumed to have a line that all of `_CROWD` speak together, each
    with a profile of the whole budget.

    Args:
        prompter: Builds the prompts.
        loaded: The model.
        written: Most tokens of free text after a question.
        state: Whether questions state the predictions for earlier lines.

    Raises:
        ConfigError: The trunk budget, with everything around the lines, exceeds the positions of the model.
        ModelError: The model does not support token trees: a packed forward pass differs from a plain one.
    """
    positions = getattr(loaded.model.config, "max_position_embeddings", None)
    if positions is not None:
        check_positions(prompter, int(positions), loaded.name, written, state)
    probe = Dialogue("probe", (Utterance("1", ("Ada",), "Hello."), Utterance("2", ("Ben",), "Oh, it is you.")))
    tolerance = _TOLERANCE.get(dtype_name(loaded.dtype), 1.0)
    verify_tree_attention(loaded.model, prompter.trees(probe, "all")[0], tolerance)


# The longest name in EmoryNLP, as many times as the most people who speak one of its lines together.
_CROWD = ("The Cigarette Smoking Guy",) * 4


def longest_path(prompter: Prompter, written: int = 0, state: bool = True) -> dict[str, int]:
    """Number of tokens of each part of a token tree's longest path, by name. Arguments as for `check_fit`."""
    options = prompter.options
    profiles = len(_CROWD) * options.profile_budget if prompter.shows_profiles else 0
    in_question = profiles if options.placement == "question" else 0
    behind_text = prompter.frame.encoder.markup(f"{LABEL_FOLLOWS}\n") if written else ()
    return {
        # A window is full up to its budget, or it is a single line with the profiles before it.
        "lines": max(options.trunk_budget, prompter.longest_line + profiles - in_question),
        "instruction": len(prompter.head_ids(prompter.labels.names)),
        "retrieved lines": prompter.longest_retrieved,
        "profiles": in_question,
        "question": _longest_question(prompter, state),
        "free text": written + len(behind_text),
        "answer": max(map(len, prompter.answer_ids)),
    }


def check_positions(prompter: Prompter, positions: int, model: str, written: int = 0, state: bool = True) -> None:
    """Refuse a model with too few positions for the longest prompts.

    Args:
        prompter: Builds the prompts.
        positions: Number of positions of the model (`max_position_embeddings`).
        model: Its name, for messages.
        written: Most tokens of free text after a question.
        state: Whether questions state the predictions for earlier lines.

    Raises:
        ConfigError: The trunk budget, with everything around the lines, exceeds them.
    """
    parts = longest_path(prompter, written, state)
    lines, around = parts["lines"], sum(parts.values()) - parts["lines"]
    if lines + around <= positions:
        return
    remedies = [f"use at most {positions - around}"] if positions - around >= _LEAST_BUDGET else []
    if parts["profiles"]:
        remedies.append("lower profile.budget, set profile.placement=trunk")
    elif lines > prompter.options.trunk_budget:
        remedies = ["lower profile.budget"]
    if parts["retrieved lines"]:
        remedies.append("lower retrieval.k")
    if written:
        remedies.append("lower scoring.reason_tokens or scoring.answer_tokens")
    remedies = remedies or ["use a shorter prompt template or a model of more positions"]
    shown = ", ".join(f"{part} {tokens}" for part, tokens in parts.items() if tokens and part != "lines")
    raise ConfigError(
        f"prompt.trunk_budget: {lines} tokens of lines and {around} around them exceed the {positions} positions of "
        f"{model} ({shown}); {', or '.join(remedies)}"
    )


def _longest_question(prompter: Prompter, state: bool) -> int:
    """Most tokens of a question and the header after it, without profiles."""
    name = ", ".join(_CROWD[:-1]) + f" and {_CROWD[-1]}"
    label = max(prompter.labels.names, key=lambda label: len(prompter.frame.encoder.data(label.lower())))
    stated = ", ".join([f"{name} was {label.lower()}"] * 2) if state else ""

    def tokens(text: str) -> int:
        return sum(len(ids) for _, ids in prompter.question_ids(999, name, text, stated))

    repeats_text = tokens("Oh!") != tokens("")
    return tokens("") + (prompter.longest_line if repeats_text else 0)


def build_merged_model(config: RunConfig, folder: Path, gguf: str | None = None) -> LoadedModel:
    """A merged model in place of the base model that a configuration names; it is not quantised again.

    Args:
        config: The configuration; device and precision are taken from it.
        folder: Folder of the merged model.
        gguf: Name of its GGUF file; None for safetensors.
    """
    model = config.model
    place = str(folder.resolve())  # a relative name could be an alias
    return load_base_model(place, precision=model.precision, device=model.device, attention=ATTENTION, gguf=gguf)


def build_model(config: RunConfig, attention: str = ATTENTION, hashed: bool = True) -> LoadedModel:
    """The base model that a configuration names, by default with the attention of token trees.

    Args:
        config: The configuration.
        attention: `attn_implementation` of transformers.
        hashed: Whether the hash of its weights is needed.
    """
    model = config.model
    return load_base_model(
        model.base,
        precision=model.precision,
        quantisation=None if model.quantisation == "none" else model.quantisation,
        device=model.device,
        attention=attention,
        hashed=hashed,
    )
