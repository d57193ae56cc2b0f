"""Probes: token ids of prompts and answers with the log-likelihoods that the exporting run gave them.

They are stored with an export, so that whoever loads it can check that it computes the same. Their text is that of the
sample corpus, so an export contains no text of the corpus that the run was trained on.

Input: token trees and their scores. Output: `Probe` records, a file of them, and how far other scores are from theirs.
Does not depend on: models, tokenizers, corpora.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from erc_llm.errors import RunError
from erc_llm.files import write_text
from erc_llm.metrics import Floats
from erc_llm.trees.tree import Question, TokenTree

PROBES = "probes.json"


@dataclass(frozen=True, slots=True)
class Probe:
    """One prompt with all its answers.

    Attributes:
        prompt: Token ids up to the answer.
        answers: (labels,) token ids of each label with its end tokens.
        log_likelihoods: (labels,) what the exporting run gave them, in nats.
    """

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    log_likelihoods: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Drift:
    """How far other scores are from those of the probes.

    Attributes:
        probes: Number of probes.
        largest: Largest absolute difference of a probability over the labels.
        mean: Mean over the probes of each one's largest difference.
        flips: Number of probes whose most probable label is another one.
    """

    probes: int
    largest: float
    mean: float
    flips: int

    @property
    def words(self) -> str:
        """Description for the user."""
        return (
            f"largest difference of a probability {self.largest:.4f} (mean {self.mean:.4f}), "
            f"{self.flips} of {self.probes} most probable labels differ"
        )


def probe_of(tree: TokenTree, question: Question, log_likelihoods: Sequence[float]) -> Probe:
    """The probe of one question: its root path, and its answers in label order."""
    prompt = tuple(tree.token_ids[tree.root_path(question.last)].tolist())
    answers = tuple(tuple(tree.token_ids[list(nodes)].tolist()) for nodes in question.answers)
    return Probe(prompt, answers, tuple(float(value) for value in log_likelihoods))


def drift(probes: Sequence[Probe], log_likelihoods: Floats) -> Drift:
    """Compare (probes, labels) log-likelihoods with those of the probes."""
    expected = _probabilities(np.array([probe.log_likelihoods for probe in probes]))
    found = _probabilities(log_likelihoods)
    difference = np.abs(found - expected).max(axis=1)
    flips = int((found.argmax(axis=1) != expected.argmax(axis=1)).sum())
    return Drift(len(probes), float(difference.max()), float(difference.mean()), flips)


def write_probes(folder: Path, probes: Sequence[Probe]) -> None:
    """Write the probes of an export.

    Raises:
        RunError: The file cannot be written.
    """
    write_text(folder / PROBES, json.dumps([asdict(probe) for probe in probes]) + "\n", RunError)


def read_probes(folder: Path) -> tuple[Probe, ...]:
    """The probes of an export.

    Raises:
        RunError: The file is missing or damaged.
    """
    path = folder / PROBES
    try:
        content = json.loads(path.read_text("utf-8"))
        return tuple(
            Probe(
                tuple(map(int, probe["prompt"])),
                tuple(tuple(map(int, answer)) for answer in probe["answers"]),
                tuple(map(float, probe["log_likelihoods"])),
            )
            for probe in content
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: missing or damaged ({error}); export the run again") from error


def _probabilities(scores: Floats) -> Floats:
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    normalised: Floats = shifted / shifted.sum(axis=1, keepdims=True)
    return normalised
