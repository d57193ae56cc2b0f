"""Rows of several tables lined up, and every reason why they cannot be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from erc_llm.errors import PredictionsError
from erc_llm.evaluation.matching import match
from erc_llm.predictions import Predictions
from tests.evaluation.compared_tables import INFO, LABELS, changed, named, rows, table


def test_rows_and_labels_in_any_order_are_lined_up() -> None:
    a, b = table(), table(0.4, "other", draw=2)
    order = np.random.default_rng(3).permutation(len(b)).tolist()
    turned = [row[::-1] for row in b.columns()["probabilities"]]
    mirrored = Predictions.from_columns(replace(b.info, labels=LABELS[::-1]), b.columns() | {"probabilities": turned})
    plain, shuffled = match(named(a, b)), match(named(a, rows(mirrored, order)))
    np.testing.assert_array_equal(plain.answers(1), shuffled.answers(1))
    np.testing.assert_array_equal(plain.probabilities(1), shuffled.probabilities(1))
    np.testing.assert_array_equal(plain.gold, a.gold_index)
    assert plain.notes == ()


def test_other_corpora_are_refused_and_compared_on_what_they_share() -> None:
    a = table()
    other = replace(
        rows(table(0.4, "other", draw=2), list(range(9, 200))),
        info=replace(INFO, system="other", corpus_version="aligned", healed=True, corpus_sha256="ef" * 32),
    )
    with pytest.raises(PredictionsError) as error:
        match(named(a, other))
    assert str(error.value) == (
        "0.parquet and 1.parquet are about different corpora: 'series' (version own, hash abababababab) and 'series' "
        "(version aligned, gap-healed, hash efefefefefef); predict one corpus with both, or compare what they have in "
        "common with --on intersection"
    )
    found = match(named(a, other), "intersection")
    assert len(found.gold) == 191
    assert [found.first.keys[i] for i in found.rows[0]] == list(other.keys)
    assert found.notes[0] == (
        "Compared on the intersection: 191 utterances that all tables have; left out 49 of 0.parquet."
    )
    assert "different corpora" in found.notes[1]


def test_an_intersection_of_equal_tables_says_so() -> None:
    a = table()
    assert match(named(a, a)).notes == ()
    (note,) = match(named(a, a), "intersection").notes
    assert note == "Compared on the intersection, which leaves out nothing: all have the 240 utterances."


def test_three_tables_share_what_all_of_them_have() -> None:
    a = table()
    found = match(named(a, rows(a, list(range(100))), rows(a, list(range(50, 150)))), "intersection")
    np.testing.assert_array_equal(found.rows[0], np.arange(50, 100))
    np.testing.assert_array_equal(found.rows[2], np.arange(50))


def test_other_splits_are_refused_even_on_the_intersection() -> None:
    a, b = table(), table(split="test")
    for on in ("all", "intersection"):
        with pytest.raises(PredictionsError, match="about different splits, 'dev' and 'test'; predict one split"):
            match(named(a, b), on)


def test_missing_and_extra_rows_are_refused() -> None:
    a = table()
    for one, other, counts, key in (
        (a, rows(a, list(range(238))), "2 only in the first, 0 only in the second", "('d39', '4')"),
        (rows(a, list(range(5, 240))), a, "0 only in the first, 5 only in the second", "('d0', '0')"),
    ):
        with pytest.raises(PredictionsError) as error:
            match(named(one, other))
        assert str(error.value) == (
            f"0.parquet and 1.parquet are about different targets: {counts}, such as {key}; predict the same split of "
            "the same corpus with both"
        )


def test_nothing_in_common_is_refused() -> None:
    a = table()
    with pytest.raises(PredictionsError, match="have no target in common"):
        match(named(rows(a, [0, 1]), rows(a, [2, 3])), "intersection")


def test_other_gold_labels_are_refused_on_the_intersection_too() -> None:
    a = table()
    assert a.gold is not None
    said = "Mad" if a.gold[0] != "Mad" else "Sad"
    other = changed(a, gold=[said, *a.gold[1:]])
    for on in ("all", "intersection"):
        with pytest.raises(PredictionsError) as error:
            match(named(a, other), on)
        assert str(error.value) == (
            f"0.parquet and 1.parquet have other gold labels in 1 rows, first ('d0', '0'): {a.gold[0]} and {said}; one "
            "of them is about another corpus, or damaged"
        )
    with pytest.raises(PredictionsError, match="parquet has no gold labels, the other has; predict on the labelled"):
        match(named(a, changed(a, gold=None)))


def test_another_label_set_is_refused() -> None:
    a = table()
    info = replace(INFO, labels=(*LABELS, "Scared"))
    other = Predictions.from_columns(info, a.columns() | {"probabilities": None})
    with pytest.raises(
        PredictionsError, match="label sets: Joyful, Mad, Neutral, Sad and Joyful, Mad, Neutral, Sad, Sc"
    ):
        match(named(a, other))


def test_rows_without_gold_are_left_out_and_counted() -> None:
    a = table()
    assert a.gold is not None
    partly = changed(a, gold=[None, None, *a.gold[2:]])
    found = match(named(partly, partly))
    assert (found.without_gold, len(found.gold)) == (2, 238)
    nobody = changed(a, gold=None)
    with pytest.raises(PredictionsError, match="no row has a gold label, so there is nothing to compare"):
        match(named(nobody, nobody))


def test_a_column_is_taken_from_the_first_table_that_has_it() -> None:
    a, b = changed(table(), text=None), table()
    found = match(named(a, rows(b, list(range(240))[::-1])))
    with_text = found.with_column("text")
    assert with_text is not None
    texts, where = with_text
    assert texts.text is not None
    assert [texts.text[i] for i in where[:2]] == ["line 0", "line 1"]
    assert found.with_column("raw_answer") is None
