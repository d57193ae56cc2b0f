"""Input checks of `validate`: reads the files that a configuration names, and goes on where one of them is wrong.

Input: a configuration. Output: the corpus and confusion counts as far as they can be read, and findings.
Does not depend on: models, prompts' contents.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erc_llm.config import CorpusConfig, RunConfig
from erc_llm.corpus import Corpus, Dialogue, LabelSet, labelled_scenes
from erc_llm.corpus.datasets_folder import HUB
from erc_llm.errors import ConfigError, CorpusError, ModelError, PromptError
from erc_llm.planning.checks_corpus import check_labels, report_unknown, unknown_labels, without_labels
from erc_llm.planning.disk_space import check_writable
from erc_llm.planning.findings import Finding, collected
from erc_llm.prompting.templates import load_prompt
from erc_llm.recipes.data import SAMPLE, open_corpus, without_overlaps
from erc_llm.recipes.run_inputs import check_auxiliary, check_leak, read_confusion, start_run
from erc_llm.retrieval.vectors import WORDS
from erc_llm.runs.progress import SILENT

_FORMATS = (
    "correct the file, or set corpus.path to a corpus (docs/own-corpus.md has the formats; `erc-llm data FOLDER`)"
)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a configuration's files hold.

    Attributes:
        corpus: The corpus with its selection split cut, as far as that is possible; None if it cannot be read.
        scenes: The scenes to train on; empty if there are none.
        confusion: Counts that corrupt the state in questions, or by which labels are smoothed; None if neither is set,
            or if they cannot be read.
    """

    corpus: Corpus | None
    scenes: tuple[Dialogue, ...] = ()
    confusion: tuple[tuple[int, ...], ...] | None = None


def read_inputs(config: RunConfig, findings: list[Finding]) -> Inputs:
    """Read corpus, confusion table and notes; mistakes are added to the findings."""
    corpus = _read_corpus(config, findings)
    with collected(findings, "prompt.template", "name a packaged template, or correct the .jinja file"):
        load_prompt(config.prompt.template)
    findings += _check_profile(config, corpus)
    if corpus is None:
        return Inputs(None)
    if corpus.warnings:
        found = f"warnings about the data: {len(corpus.warnings)}, the first: {corpus.warnings[0]}"
        findings.append(Finding("note", "corpus.path", found, f"`erc-llm data {config.corpus.path}` shows all"))
    scenes: tuple[Dialogue, ...] = ()
    if "train" in corpus.splits:
        apart = corpus
        with collected(findings, "corpus.avoid", "set it to corpus files or folders that are there"):
            apart, _ = without_overlaps(corpus, config.corpus.avoid, SILENT)
        with suppress(CorpusError):  # `check_labels` reports a train split without labels
            scenes = labelled_scenes(apart, config.training.max_scenes, config.seed)
        with collected(findings, "training.auxiliary", "leave it out, or add what it needs"):
            check_auxiliary(config, scenes)
    with collected(findings, "retrieval.leak", "leave it out, or cross-fit it"):
        check_leak(config)
    with collected(findings, "lora.start", "name a finished run of the same base model and adapter shape"):
        start_run(config.lora)
    findings += check_labels(corpus, scenes, _balancing(config), config.holds_out_selection)
    confusion = None
    remedy = "give a table of this corpus: `erc-llm predict RUN --split selection`, or a crossfit.parquet"
    with collected(findings, "state.confusion", remedy):
        confusion = read_confusion(config, corpus)
    return Inputs(corpus, scenes, confusion)


def _balancing(config: RunConfig) -> str | None:
    """The field and value that need every class in train; None if none does."""
    sampling = config.sampling
    for field in ("scheme", "loss_weights"):
        if (scheme := getattr(sampling, field)) != "none" and not sampling.allow_absent:
            return f"sampling.{field}={scheme}"
    return None


def _read_corpus(config: RunConfig, findings: list[Finding]) -> Corpus | None:
    """The corpus; without its healing, unknown labels or selection split, if these are what is wrong."""
    section = config.corpus
    if section.heal_from is not None and not Path(section.heal_from).exists():
        found = f"{section.heal_from}: no such file or folder; lines that `aligned` lacks cannot be restored"
        remedy = "set it to the folder of the original EmoryNLP files, or leave it out"
        findings.append(Finding("error", "corpus.heal_from", found, remedy))
        section = section.model_copy(update={"heal_from": None})
    try:
        return open_corpus(section, config.label_set(), cut_selection=config.holds_out_selection)
    except (CorpusError, ConfigError) as error:
        return _read_what_is_right(section, config, error, findings)


def _read_what_is_right(
    section: CorpusConfig, config: RunConfig, error: Exception, findings: list[Finding]
) -> Corpus | None:
    """The corpus without the labels that it does not know, else without a selection split; None if neither helps."""
    unknown: dict[str, str] = {}
    labels = config.label_set()
    if section.path != SAMPLE and not section.path.startswith(HUB):
        with suppress(CorpusError):  # `error` says it already
            unknown = unknown_labels(section.path, labels)
    findings.append(report_unknown(unknown, labels) if unknown else _unreadable(error))
    accepted = {name.casefold(): name for name in unknown if name}.values()
    extended = LabelSet((*labels.names, *accepted), dict(labels.spellings), labels.neutral)
    whole = section.model_copy(update={"fold": None})
    for part, cut in [(section, True), (whole, False)] if config.holds_out_selection else [(whole, False)]:
        try:
            return without_labels(open_corpus(part, extended, cut_selection=cut), unknown, labels)
        except (CorpusError, ConfigError) as further:
            if str(further) != str(error):
                findings.append(_unreadable(further))
    return None


def _unreadable(error: Exception) -> Finding:
    return Finding("error", "corpus.path", str(error), _FORMATS)


def _check_profile(config: RunConfig, corpus: Corpus | None) -> Iterator[Finding]:
    """Findings about the encoder and the notes that profiles are written with."""
    profile = config.profile
    if profile.writer == "lines" and profile.encoder is not None:
        from erc_llm.models.loading import resolve_encoder

        try:
            resolve_encoder(profile.encoder)
        except ModelError as error:
            yield Finding("error", "profile.encoder", str(error), "leave it out, or set it to all-minilm-l6-v2")
    retrieval = config.retrieval
    if retrieval.use != "none" and retrieval.encoder != WORDS:
        from erc_llm.models.loading import resolve_encoder

        try:
            resolve_encoder(retrieval.encoder)
        except ModelError as error:
            yield Finding("error", "retrieval.encoder", str(error), "set it to words, or to all-minilm-l6-v2")
    if profile.writer == "llm":
        found = "profiles by a language model are not part of the prompts checked here; each has at most "
        yield Finding("note", "profile.writer", f"{found}{profile.budget} tokens")
        yield from _check_notes(config, corpus)


def _check_notes(config: RunConfig, corpus: Corpus | None) -> Iterator[Finding]:
    """Findings about the file that stores the notes on speakers."""
    from erc_llm.build import NOTES_TEMPLATE, training_view

    profile = config.profile
    if profile.notes is None:
        return
    path, ask = Path(profile.notes), f"`erc-llm profile {config.corpus.path} --out FILE` writes them"
    if not path.is_file():
        if profile.endpoint is not None:
            found = f"{path}: no such file, and training does not ask a server for notes"
            yield Finding("error", "profile.notes", found, ask)
        elif refused := check_writable(path.parent, "profile.notes", "set it to a file that you may write"):
            yield refused
        return
    head, template = _head(path), load_notes_template(NOTES_TEMPLATE)
    expected: dict[str, Any] = {"words": profile.words, "template_sha256": template}
    if corpus is not None:
        expected["corpus_sha256"] = training_view(corpus, config).sha256
    if other := [name for name, value in expected.items() if head.get(name) != value]:
        found = f"{path}: its notes were written with another {', '.join(other)}"
        yield Finding("error", "profile.notes", found, f"name another file; {ask}")


def load_notes_template(name: str) -> str | None:
    """Hash of the packaged prompt that asks for notes; None if it cannot be read."""
    try:
        return load_prompt(name, ("system", "user")).sha256
    except PromptError:
        return None


def _head(path: Path) -> dict[str, Any]:
    """The first line of a file of notes, which names its source; empty if there is none."""
    try:
        with path.open(encoding="utf-8") as file:
            found = json.loads(file.readline())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
