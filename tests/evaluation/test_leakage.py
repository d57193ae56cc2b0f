"""The leakage manifest: every facet stated, and what differs marked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from erc_llm.evaluation.leakage import ManifestRow, leakage_manifest, selection_saw_split
from tests.evaluation.compared_tables import INFO


def facets(**others: Any) -> dict[str, ManifestRow]:
    return {facet.name: facet for facet in leakage_manifest([INFO, replace(INFO, system="other", **others)])}


def test_all_that_was_asked_for_is_stated() -> None:
    found = facets()
    assert {name: facet.values[0] for name, facet in found.items()} == {
        "context": "past",
        "profile or memory": "none",
        "retrieval": "none",
        "trained on": "own, train dededededede",
        "decoding": "the most probable label",
        "abstains below": "never",
        "this split seen by choices": "no: chosen on 'selection'",
        "invalid answers": "an invalid answer counts as wrong",
        "Neutral in the metric": "included",
        "corpus version": "own",
        "corpus hash": "abababababab",
        "split": "dev",
        "corrected by": "nothing",
    }
    assert all(facet.alike for facet in found.values())


@pytest.mark.parametrize(
    ("name", "others", "value"),
    [
        ("context", {"context": "full"}, "full"),
        ("context", {"context": None}, "none: reads no dialogue"),
        ("profile or memory", {"profile": "lines in the trunk"}, "lines in the trunk"),
        ("retrieval", {"retrieval": "lexical"}, "lexical"),
        ("trained on", {"trained_on_version": "original"}, "original, train dededededede"),
        ("trained on", {"trained_on_sha256": "12" * 32}, "own, train 121212121212"),
        ("trained on", {"run_id": None}, "nothing: no run"),
        ("decoding", {"decoding": "free generation"}, "free generation"),
        ("abstains below", {"abstain_below": 0.5}, "0.5"),
        ("invalid answers", {"invalid_policy": "left out"}, "left out"),
        ("corpus version", {"healed": True}, "own, gap-healed"),
        ("corpus hash", {"corpus_sha256": "12" * 32}, "121212121212"),
        ("corrected by", {"prior": "corpus", "calibration": "run"}, "prior, calibration"),
    ],
)
def test_what_differs_is_marked_and_only_that(name: str, others: dict[str, Any], value: str) -> None:
    found = facets(**others)
    assert found[name] == ManifestRow(name, (found[name].values[0], value), ("", "UNLIKE"))
    assert [facet.name for facet in found.values() if not facet.alike] == [name]


def test_choices_made_on_the_split_are_a_leak_even_if_all_tables_share_it() -> None:
    found = leakage_manifest(
        [replace(INFO, selection="dev"), replace(INFO, selection="dev"), replace(INFO, selection=None)]
    )
    facet = next(f for f in found if f.name == "this split seen by choices")
    assert facet.values == ("yes", "yes", "not stated")
    assert facet.marks == ("LEAK", "LEAK", "NOT STATED")


def test_what_an_older_table_does_not_say_is_told_and_marked() -> None:
    old = facets(trained_on_sha256=None, invalid_policy=None, decoding="free generation")
    for name in ("trained on", "invalid answers"):
        assert (old[name].values[1], old[name].marks[1]) == ("not stated", "NOT STATED")
    assert facets(invalid_policy=None)["invalid answers"].alike, "the most probable label is never invalid"


def test_choosing_nothing_and_choosing_elsewhere_are_alike() -> None:
    facet = facets(selection="none")["this split seen by choices"]
    assert facet.values == ("no: chosen on 'selection'", "no: nothing was chosen")
    assert facet.alike


def test_what_a_model_was_fitted_on_was_seen() -> None:
    assert selection_saw_split(replace(INFO, split="train")) is True
    assert selection_saw_split(replace(INFO, split="train", run_id=None, selection="none")) is False
    assert selection_saw_split(replace(INFO, split="selection")) is True


def test_a_run_for_which_nothing_was_held_out_saw_the_selection_split() -> None:
    """With training.evaluations=0 it is fitted on these scenes too."""
    info = replace(INFO, split="selection", selection="none")
    assert selection_saw_split(info) is True
    assert selection_saw_split(replace(info, run_id=None)) is False
    assert selection_saw_split(replace(info, split="dev")) is False
    facet = next(f for f in leakage_manifest([info]) if f.name == "this split seen by choices")
    assert (facet.values, facet.marks) == (("yes",), ("LEAK",))


def test_a_label_set_without_neutral_says_so() -> None:
    other = replace(INFO, labels=("up", "down"))
    facet = next(f for f in leakage_manifest([INFO, other]) if f.name == "Neutral in the metric")
    assert facet.values == ("included", "no label of this name")
