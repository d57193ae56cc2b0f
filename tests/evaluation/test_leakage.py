"""The leakage manifest: every facet stated, and what differs marked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from erc_llm.baselines.baseline_config import load_baseline
from erc_llm.evaluation.leakage import ManifestRow, leakage_manifest, past_reaches_other_splits, selection_saw_split
from tests.evaluation.compared_tables import INFO


def facets(**others: Any) -> dict[str, ManifestRow]:
    return {facet.name: facet for facet in leakage_manifest([INFO, replace(INFO, system="other", **others)])}


def test_all_that_was_asked_for_is_stated() -> None:
    found = facets()
    assert {name: facet.values[0] for name, facet in found.items()} == {
        "context": "past",
        "profile or memory": "none",
        "retrieval": "none",
        "other splits in the past": "no",
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
        ("profile or memory", {"profile": "memory within the dialogue"}, "memory within the dialogue"),
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


@pytest.mark.parametrize(
    ("profile", "retrieval", "value", "mark"),
    [
        ("lines in the trunk", "lexical", "yes, without labels", "UNLIKE"),
        ("lines in the question, shuffled, state predicted", "all-minilm-l6-v2", "yes, without labels", "UNLIKE"),
        ("statistics in the trunk, stale", "none", "yes, without labels", "UNLIKE"),
        ("llm in the trunk, invented names", "none", "yes, without labels", "UNLIKE"),
        ("memory across dialogues", "none", "yes, without labels", "UNLIKE"),
        ("memory within the dialogue", "none", "no", ""),
        ("state predicted, invented names", "none", "no", ""),
        ("none", "lexical", "not stated", "NOT STATED"),
        ("what friends know", "none", "not stated", "NOT STATED"),
        ("none", "demonstrations: 2 by words in the question, of train 0123456789ab", "no", ""),
        (
            "none",
            "lexical; distribution: 32 by words in the question, of train 0123456789ab",
            "not stated",
            "NOT STATED",
        ),
    ],
)
def test_a_past_that_may_hold_scenes_of_other_splits_is_stated(
    profile: str, retrieval: str, value: str, mark: str
) -> None:
    facet = facets(profile=profile, retrieval=retrieval)["other splits in the past"]
    assert (facet.values, facet.marks) == (("no", value), ("", mark))


def test_a_control_with_a_leak_is_marked_even_if_all_tables_are_of_it() -> None:
    source = "demonstrations: 2 by words in the question, of train 0123456789ab"
    for leak, mark in (("", ""), (", LEAK gold_label", "LEAK")):
        found = leakage_manifest([replace(INFO, retrieval=source + leak)] * 2)
        assert next(facet for facet in found if facet.name == "retrieval").marks == (mark, mark)


def test_the_same_past_from_other_splits_makes_no_table_unlike() -> None:
    facet = leakage_manifest([replace(INFO, profile="lines in the trunk"), replace(INFO, profile="llm in the trunk")])
    row = next(found for found in facet if found.name == "other splits in the past")
    assert row.values == ("yes, without labels",) * 2
    assert row.alike


@pytest.mark.parametrize(("overrides", "reads"), [((), True), (("kind=compm",), False), (("kind=encoder",), False)])
def test_what_a_baseline_remembers_is_understood(overrides: tuple[str, ...], reads: bool) -> None:
    source = load_baseline("emonet", overrides).memory_source
    assert past_reaches_other_splits(replace(INFO, profile=source)) is reads


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
