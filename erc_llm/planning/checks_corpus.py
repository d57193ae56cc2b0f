"""Corpus checks: unknown label names, splits without labels, and labels that training never sees.

Input: a corpus path or a `Corpus`, a label set. Output: findings.
Does not depend on: prompts, models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from erc_llm.corpus import Corpus, Dialogue, LabelSet
from erc_llm.corpus.dialogues import SELECTION
from erc_llm.corpus.formats import recognise
from erc_llm.corpus.read_warnings import ReadWarnings
from erc_llm.corpus.readers import PARSERS
from erc_llm.corpus.sources import open_sources
from erc_llm.planning.findings import Finding


def unknown_labels(path: Path | str, labels: LabelSet) -> dict[str, str]:
    """Each label of a corpus's files that a label set does not accept, with its number and first place.

    Raises:
        CorpusError: The files cannot be read.
    """
    warned, counts, first = ReadWarnings(), Counter[str](), dict[str, str]()
    for source in open_sources(path, warned):
        for dialogue in PARSERS[recognise(source)](source, warned):
            for line in dialogue.utterances:
                if line.label is not None and labels.match(line.label) is None:
                    name = line.label.strip()
                    counts[name] += 1
                    first.setdefault(name, f"{source.path}:{line.line}" if line.line else str(source.path))
    return {name: f"{count} times, first at {first[name]}" for name, count in counts.items()}


def report_unknown(unknown: Mapping[str, str], labels: LabelSet) -> Finding:
    """The error for all unknown labels of a corpus together."""
    listed = "; ".join(f"'{name}' ({how_often})" for name, how_often in unknown.items())
    return Finding(
        "error",
        "corpus.labels",
        f"labels that are none of {', '.join(labels.names)}: {listed}",
        "correct them in the files, map them with corpus.labels.spellings, or define your own label set in "
        "corpus.labels.names (docs/own-corpus.md)",
    )


def without_labels(corpus: Corpus, unknown: Mapping[str, str], labels: LabelSet) -> Corpus:
    """The corpus with the label set `labels`, its lines with an unknown label as if they had none."""

    def known(dialogue: Dialogue) -> Dialogue:
        lines = tuple(replace(u, label=None) if u.label in unknown else u for u in dialogue.utterances)
        return replace(dialogue, utterances=lines)

    splits = {split: tuple(map(known, dialogues)) for split, dialogues in corpus.splits.items()}
    return replace(corpus, splits=splits, labels=labels)


def label_counts(dialogues: tuple[Dialogue, ...]) -> Counter[str]:
    """Number of targets of each label that occurs."""
    return Counter(label for d in dialogues for k in d.targets if (label := d.utterances[k].label) is not None)


def check_labels(
    corpus: Corpus, scenes: tuple[Dialogue, ...], balancing: str | None, holds_out: bool
) -> Iterator[Finding]:
    """Findings about the labels of each split.

    Args:
        corpus: The corpus, with its selection split cut.
        scenes: The scenes to train on.
        balancing: The field and value that balance classes, as `sampling.scheme=...`, if absent classes are an error
            for it; None if they are not.
        holds_out: Whether the selection split is scored in training.
    """
    if "train" not in corpus.splits:
        found = f"there is no train split, only {', '.join(corpus.splits)}"
        yield Finding(
            "error", "corpus.path", found, "name a file after its split, e.g. train.jsonl (docs/own-corpus.md)"
        )
    for split, dialogues in corpus.splits.items():
        if label_counts(dialogues):
            continue
        needed = split == "train" or (split == SELECTION and holds_out)
        remedy = {"train": "label utterances of train", SELECTION: "label some, or set training.evaluations=0"}.get(
            split, "label some to evaluate on it; predictions need no labels"
        )
        found = f"no utterance of the split {split} is labelled"
        yield Finding("error" if needed else "warning", "corpus.path", found, remedy)
    yield from _absent(corpus.labels, scenes, balancing)


def _absent(labels: LabelSet, scenes: tuple[Dialogue, ...], balancing: str | None) -> Iterator[Finding]:
    counts = label_counts(scenes)
    absent = [name for name in labels.names if not counts[name]]
    if not counts or not absent:
        return
    found = f"no target of the {len(scenes)} training scenes is labelled {', '.join(absent)}"
    remedy = "label some, leave it out of corpus.labels, or raise training.max_scenes"
    if balancing is None:
        yield Finding("warning", "corpus.labels", f"{found}; nothing is learned about it", remedy)
    else:
        yield Finding(
            "error", balancing, f"{found}, so it cannot be balanced", f"{remedy}; or sampling.allow_absent=true"
        )
