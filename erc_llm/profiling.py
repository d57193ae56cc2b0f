"""From a configuration and a corpus to the profiler that prompts use; the only place where profiles meet a model.

In: a `ProfileConfig`, the conversations of the past. Out: a `Profiler`. Notes of a language model are written here on
first use: by a local model whenever they are missing, by a server only where the caller says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from erc_llm.config import ProfileConfig
from erc_llm.corpus.dialogues import Corpus
from erc_llm.corpus.history import History
from erc_llm.errors import ConfigError
from erc_llm.models.wheels import cache_dir
from erc_llm.profiles.lines import LinesWriter, Similarity, lexical_similarity
from erc_llm.profiles.notes import Answer, Notes, NotesCache, NotesWriter, Source, batch_key, write_notes
from erc_llm.profiles.profiler import Profiler, ProfileWriter
from erc_llm.profiles.statistics import StatisticsWriter
from erc_llm.prompting.templates import load_prompt

NOTES_TEMPLATE = "summary"
_TOKENS_PER_WORD = 2  # English takes about 1.4; what is cut off has no whole sentence


def make_profiler(
    config: ProfileConfig,
    past: Corpus,
    *,
    seed: int = 13,
    ask_server: bool = False,
    allow_remote: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Profiler:
    """The profiler a configuration describes, on a corpus; its writer must not be `none`.

    Args:
        config: What is written, and how.
        past: The conversations it is written from.
        seed: The run's; draws the other persons of the `shuffled` control.
        ask_server: Whether missing notes may be asked of `profile.endpoint`.
        allow_remote: Whether that may be another machine.
        on_progress: Gets how many notes are written, and how many there will be.

    Raises:
        ConfigError: Notes of a server are missing and it may not be asked, or the notes file is of another source.
        ModelError: The model that writes is missing, or the server gave no usable answer.
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
    """By shared words, or by an encoder that reads the whole corpus once, in well-filled batches."""
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
    source = Source(past.sha256, _writer_of(config), template.sha256, config.words)
    path = Path(config.notes) if config.notes else cache_dir() / "notes" / f"{source.sha256[:16]}.jsonl"
    cache = NotesCache(path, source)
    # A local batch is answered whole; what a server answers costs, and is kept as soon as it is there.
    local = config.endpoint is None
    answer = _local(config) if local else _server(config, cache, ask_server, allow_remote)
    return write_notes(
        history, answer, cache, template, words=config.words, keep_batches=local, on_progress=on_progress
    )


def _writer_of(config: ProfileConfig) -> str:
    """The model's name, with its server's address or its hash."""
    from erc_llm.models.endpoint import check_address
    from erc_llm.models.loading import base_model_sha256

    if config.endpoint:
        check_address(config.endpoint)  # before it is written anywhere
        return f"{config.model} at {config.endpoint}"
    return f"{config.model} {base_model_sha256(config.model)}"


def _local(config: ProfileConfig) -> Answer:
    """A local model, loaded when the first batch is missing."""
    from erc_llm.models.loading import LoadedModel, load_base_model

    loaded: list[LoadedModel] = []

    def answer(prompts: Sequence[tuple[str, str]]) -> list[str]:
        from erc_llm.decoding.generation import continue_texts

        if not loaded:
            loaded.append(load_base_model(config.model, attention="sdpa"))
        texts = [f"{system}\n\n{user}" for system, user in prompts]
        return continue_texts(loaded[0], texts, config.words * _TOKENS_PER_WORD)

    return answer


def _server(config: ProfileConfig, cache: NotesCache, ask: bool, allow_remote: bool) -> Answer:
    """A model behind a server, reached when the first answer is missing; each is kept by itself."""
    from erc_llm.models.endpoint import Endpoint

    def answer(prompts: Sequence[tuple[str, str]]) -> list[str]:
        keys = [batch_key([prompt]) for prompt in prompts]
        missing = [i for i, key in enumerate(keys) if not cache.get(key)]
        if missing and not ask:
            raise ConfigError(
                "profile.endpoint: notes of this corpus are missing; `erc-llm profile CORPUS --out FILE` asks for them"
            )
        if missing:
            assert config.endpoint is not None
            server = Endpoint(config.endpoint, config.model, allow_remote=allow_remote)
            asked = [prompts[i] for i in missing]
            server.answer(asked, config.words * _TOKENS_PER_WORD, lambda k, text: cache.add(keys[missing[k]], [text]))
        return [(cache.get(key) or [""])[0] for key in keys]

    return answer
