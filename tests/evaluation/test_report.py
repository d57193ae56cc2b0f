"""What `evaluate` finds in a table."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics as peer

from erc_llm.errors import PredictionsError
from erc_llm.evaluation.report import evaluate
from erc_llm.predictions import Predictions
from tests.evaluation.evaluated_tables import INFO, LABELS, table


def test_the_metrics_are_those_of_sklearn() -> None:
    given = table()
    found = evaluate(given, draws=200)
    assert found.headline.weighted_f1.value == pytest.approx(
        peer.f1_score(given.gold, given.predicted, average="weighted")
    )
    assert found.headline.macro_f1.value == pytest.approx(peer.f1_score(given.gold, given.predicted, average="macro"))
    assert found.headline.accuracy.value == pytest.approx(peer.accuracy_score(given.gold, given.predicted))
    expected = peer.confusion_matrix(given.gold, given.predicted, labels=LABELS)
    np.testing.assert_array_equal(np.array(found.confusion)[:, :-1], expected)
    assert (found.targets, found.dialogues, found.without_gold) == (240, 30, 0)
    assert found.label_mass == pytest.approx(0.75)
    assert found.negative_log_likelihood == pytest.approx(
        peer.log_loss(given.gold, given.probabilities, labels=list(LABELS))
    )
    assert found.calibration_error is not None
    assert found.calibration_error.value == pytest.approx(abs(found.headline.accuracy.value - 0.4))
    assert found.warnings == found.missing == ()


def test_every_headline_metric_has_an_interval_that_repeats() -> None:
    first, again = evaluate(table(), draws=300, seed=2), evaluate(table(), draws=300, seed=2)
    assert first.headline == again.headline
    for estimate in (first.headline.weighted_f1, first.headline.macro_f1, first.headline.accuracy):
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low < estimate.value < estimate.high


def test_rows_without_gold_are_left_out_and_counted() -> None:
    whole = table()
    assert whole.gold is not None
    part = Predictions.from_columns(INFO, whole.columns() | {"gold": [*whole.gold[:-8], *[None] * 8]})
    found, expected = evaluate(part, draws=100), evaluate(table(dialogues=29), draws=100)
    assert (found.targets, found.dialogues, found.without_gold) == (232, 29, 8)
    assert "8 rows have no gold label and are left out." in found.warnings
    assert found.targets == expected.targets
    assert found.headline.accuracy.value == pytest.approx(
        np.mean([g == p for g, p in zip(whole.gold[:-8], whole.predicted[:-8], strict=True)])
    )


@pytest.mark.parametrize("gold", [None, [None] * 16])
def test_no_gold_at_all_is_an_error(gold: list[None] | None) -> None:
    with pytest.raises(PredictionsError, match="no row has a gold label"):
        evaluate(table(dialogues=2, gold=gold))
    with pytest.raises(PredictionsError, match="no row has a gold label"):
        evaluate(Predictions.from_columns(INFO, {"dialogue_id": [], "utterance_id": [], "predicted": []}))


def test_a_bootstrap_needs_a_draw() -> None:
    with pytest.raises(PredictionsError, match="at least 1, found 0"):
        evaluate(table(), draws=0)


def test_invalid_answers_count_as_wrong() -> None:
    given = table()
    assert given.gold is not None
    right = Predictions.from_columns(INFO, given.columns() | {"predicted": list(given.gold)})
    spoiled = Predictions.from_columns(INFO, right.columns() | {"invalid": [i < 24 for i in range(240)]})
    found = evaluate(spoiled, draws=100)
    assert evaluate(right, draws=100).headline.weighted_f1.value == 1.0
    assert found.invalid_rate == pytest.approx(0.1)
    assert found.headline.accuracy.value == pytest.approx(0.9)
    assert sum(row[-1] for row in found.confusion) == 24


def test_one_dialogue_has_no_interval_and_says_so() -> None:
    found = evaluate(table(dialogues=1, size=40))
    assert found.headline.weighted_f1.low is None
    assert "one dialogue" in found.warnings[0]


def test_few_dialogues_are_warned_about() -> None:
    assert any(w.startswith("Only 7 dialogues") for w in evaluate(table(dialogues=7), draws=50).warnings)


@pytest.mark.parametrize("split", ["train", "selection"])
def test_a_split_that_was_fitted_or_chosen_on_is_warned_about(split: str) -> None:
    warnings = evaluate(table(info=replace(INFO, split=split)), draws=50).warnings
    assert any(f"'{split}'" in warning for warning in warnings)


def test_labels_never_seen_or_never_said_are_named() -> None:
    gold = ["Sad", "Neutral", "Sad", "Peaceful"] * 60
    warnings = " ".join(evaluate(table(gold=gold, predicted=["Neutral"] * 240), draws=50).warnings)
    assert "Never predicted: Peaceful, Sad." in warnings
    assert "macro F1: Joyful, Mad, Powerful, Scared." in warnings


def test_missing_columns_switch_off_what_needs_them_with_a_sentence() -> None:
    found = evaluate(table(probabilities=None, label_mass=None, invalid=None), draws=50)
    assert (found.negative_log_likelihood, found.calibration_error, found.label_mass) == (None, None, None)
    assert len(found.missing) == 3


def test_probabilities_of_some_rows_are_reported_as_such() -> None:
    some = [[0.4, *[0.1] * 6]] * 100 + [None] * 140
    found = evaluate(table(probabilities=some), draws=50)
    assert found.with_probabilities == 100


def test_as_dict_is_json() -> None:
    values = json.loads(json.dumps(evaluate(table(), draws=50).as_dict(), allow_nan=False))
    assert values["headline"]["weighted_f1"].keys() == {"value", "low", "high"}
    assert values["classes"][2]["label"] == "Neutral"
    assert values["info"]["corpus_version"] == "aligned"
