"""References without a model, and differences between tables on the same targets."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from erc_llm.errors import PredictionsError
from erc_llm.evaluation.references import (
    constant_reference,
    difference,
    prior_random_reference,
    reference_by_name,
)
from erc_llm.evaluation.report import evaluate
from erc_llm.predictions import Predictions, PredictionsInfo

LABELS = ("Joyful", "Mad", "Neutral", "Sad")
SHARES = (0.2, 0.1, 0.6, 0.1)
INFO = PredictionsInfo(
    system="tuned",
    labels=LABELS,
    corpus_sha256="ab" * 32,
    corpus_name="series",
    corpus_version="aligned",
    split="dev",
    context="past",
    run_id="run-1",
    base_model="tiny",
    train_shares=SHARES,
)


def table(right: float = 0.6, system: str = "tuned", dialogues: int = 40, seed: int = 101) -> Predictions:
    """Answers of which a share `right` is the gold label; the gold labels do not depend on `seed`."""
    n, rng = dialogues * 6, np.random.default_rng(seed)
    gold = np.random.default_rng(77).choice(4, size=n, p=SHARES)
    predicted = np.where(rng.random(n) < right, gold, rng.integers(4, size=n))
    columns = {
        "dialogue_id": [f"d{i // 6}" for i in range(n)],
        "utterance_id": [str(i) for i in range(n)],
        "gold": [LABELS[i] for i in gold],
        "predicted": [LABELS[i] for i in predicted],
        "invalid": [False] * n,
        "raw_answer": ["words"] * n,
        "label_mass": [0.5] * n,
    }
    return Predictions.from_columns(replace(INFO, system=system), columns)


def changed(given: Predictions, **others: Any) -> Predictions:
    return Predictions.from_columns(given.info, given.columns() | others)


@pytest.mark.parametrize("spelling", ["Neutral", "neutral", " NEUTRAL "])
def test_a_constant_reference_answers_every_row_with_its_label(spelling: str) -> None:
    given = table()
    reference = constant_reference(given, spelling)
    assert reference.keys == given.keys
    assert reference.gold == given.gold
    assert set(reference.predicted) == {"Neutral"}
    assert reference.info.system == "all-Neutral"
    assert evaluate(reference, draws=20).headline.accuracy.value == pytest.approx(np.mean(given.gold_index == 2))


def test_a_reference_claims_nothing_of_the_model() -> None:
    for reference in (constant_reference(table(), "Sad"), prior_random_reference(table())):
        info = reference.info
        assert (info.run_id, info.base_model, info.context) == (None, None, None)
        assert (info.corpus_sha256, info.split) == (INFO.corpus_sha256, "dev")
        assert {"raw_answer", "label_mass", "log_likelihoods"} <= set(reference.missing)


def test_an_invalid_answer_does_not_spoil_the_reference() -> None:
    spoiled = changed(table(), invalid=[True] * 240, predicted=[None] * 240)
    assert (constant_reference(spoiled, "Sad").predicted_index == 3).all()


def test_a_constant_reference_needs_a_known_label() -> None:
    with pytest.raises(PredictionsError, match="'Bored' is not among the labels Joyful, Mad"):
        constant_reference(table(), "Bored")


def test_prior_random_draws_by_the_shares_of_train() -> None:
    given = table(dialogues=2000)
    reference = prior_random_reference(given, seed=5)
    found = np.bincount(reference.predicted_index, minlength=4) / len(given)
    np.testing.assert_allclose(found, SHARES, atol=0.015)
    assert reference.probabilities is not None
    np.testing.assert_allclose(reference.probabilities[17], SHARES)
    assert abs(np.mean(reference.predicted_index == given.gold_index) - np.square(SHARES).sum()) < 0.015


def test_prior_random_repeats_with_its_seed_and_takes_counts() -> None:
    given = table()
    first = prior_random_reference(given, seed=5).predicted
    assert first == prior_random_reference(given, [200, 100, 600, 100], seed=5).predicted
    assert first != prior_random_reference(given, seed=6).predicted


@pytest.mark.parametrize("shares", [(0.5, 0.5), (1, -1, 0, 1), (0, 0, 0, 0), (float("nan"), 1, 1, 1)])
def test_shares_that_are_none_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(PredictionsError, match="expected 4 numbers"):
        prior_random_reference(table(), shares)


def test_prior_random_needs_the_shares_of_train() -> None:
    unknown = replace(table(), info=replace(INFO, train_shares=None))
    with pytest.raises(PredictionsError, match="does not know the label shares of train"):
        prior_random_reference(unknown)


def test_references_have_names() -> None:
    neutral, random = (reference_by_name(table(), name) for name in ("all-neutral", "Prior-Random"))
    assert neutral is not None
    assert random is not None
    assert (neutral.info.system, random.info.system) == ("all-Neutral", "prior-random")
    assert reference_by_name(table(), "runs/zero-shot.parquet") is None
    assert reference_by_name(table(), "all-bored") is None


def test_a_tuned_model_is_shown_to_be_better() -> None:
    tuned = table(0.6)
    zero_shot = table(0.2, system="zero-shot", seed=7)
    for other in (zero_shot, constant_reference(tuned, "Neutral"), prior_random_reference(tuned)):
        found = difference(tuned, other, draws=500)
        assert found.estimate.low is not None
        assert found.estimate.low > 0
        assert found.verdict == "better"
        assert difference(other, tuned, draws=500).verdict == "worse"
        assert (found.targets, found.dialogues) == (240, 40)
        assert found.estimate.value == pytest.approx(
            evaluate(tuned, draws=20).headline.weighted_f1.value - evaluate(other, draws=20).headline.weighted_f1.value
        )


def test_equally_good_systems_are_not_shown_to_differ() -> None:
    found = difference(table(0.6), table(0.6, seed=8), draws=500)
    assert found.verdict == "not shown"


def test_rows_and_labels_may_stand_in_another_order() -> None:
    a, b = table(0.6), table(0.2, seed=7)
    order = np.random.default_rng(3).permutation(len(b))
    columns = {name: [values[i] for i in order] for name, values in b.columns().items()}
    shuffled = Predictions.from_columns(replace(INFO, labels=LABELS[::-1], train_shares=None), columns)
    assert difference(a, shuffled, draws=100).estimate == difference(a, b, draws=100).estimate


def test_invalid_answers_of_either_table_count_as_wrong() -> None:
    a = table(1.0)
    spoiled = changed(a, invalid=[i % 2 == 0 for i in range(240)])
    found = difference(a, spoiled, draws=100)
    assert found.weighted_f1_a == 1.0
    assert found.verdict == "better"


def test_tables_about_other_targets_are_refused() -> None:
    with pytest.raises(PredictionsError, match="0 only in the first, 6 only in the second"):
        difference(table(dialogues=40), table(dialogues=41))


def test_tables_with_other_gold_labels_are_refused() -> None:
    a = table()
    assert a.gold is not None
    other = changed(a, gold=["Mad" if a.gold[0] != "Mad" else "Sad", *a.gold[1:]])
    with pytest.raises(PredictionsError, match=r"other gold labels in 1 rows, first \('d0', '0'\)"):
        difference(a, other)
    with pytest.raises(PredictionsError, match="has no gold labels, the other has"):
        difference(a, changed(a, gold=None))


def test_tables_with_other_labels_are_refused() -> None:
    a = table()
    other = replace(a, info=replace(INFO, labels=(*LABELS, "Scared"), train_shares=None))
    with pytest.raises(PredictionsError, match="different label sets"):
        difference(a, other)


def test_no_gold_at_all_is_an_error() -> None:
    a = changed(table(), gold=None)
    with pytest.raises(PredictionsError, match="no row has a gold label"):
        difference(a, a)


def test_one_dialogue_gives_a_difference_without_an_interval() -> None:
    found = difference(table(0.9, dialogues=1), table(0.0, dialogues=1, seed=3))
    assert found.estimate.low is None
    assert found.verdict == "not shown"


def test_another_corpus_hash_is_noted() -> None:
    a = table()
    b = replace(a, info=replace(INFO, corpus_sha256="cd" * 32))
    found = difference(a, b, draws=50)
    assert "different corpora" in found.notes[0]


def test_a_difference_is_json() -> None:
    values = json.loads(json.dumps(difference(table(), table(0.2, seed=7), draws=50).as_dict()))
    assert values["verdict"] == "better"
    assert values["estimate"].keys() == {"value", "low", "high"}


# Agreement of two decodings.


def test_agreement_counts_flips_whatever_is_right() -> None:
    from sklearn.metrics import cohen_kappa_score

    a, b = table(0.6), table(0.5, system="generated", seed=9)
    found = difference(a, b, draws=50)
    flips = sum(one != other for one, other in zip(a.predicted, b.predicted, strict=True))
    assert 0 < flips == found.flips
    assert found.agreement == pytest.approx(1 - flips / 240)
    assert found.kappa == pytest.approx(cohen_kappa_score(list(a.predicted), list(b.predicted)))
    values = json.loads(json.dumps(found.as_dict()))
    assert (values["flips"], values["agreement"], values["kappa"]) == (flips, found.agreement, found.kappa)


def test_the_same_answers_agree_entirely_in_any_order_of_rows() -> None:
    a = table()
    columns = {name: values[::-1] for name, values in a.columns().items()}
    found = difference(a, Predictions.from_columns(replace(INFO, labels=LABELS[::-1], train_shares=None), columns))
    assert (found.flips, found.agreement, found.kappa) == (0, 1.0, 1.0)


def test_an_invalid_answer_is_an_answer_of_its_own() -> None:
    a = table()
    one, two = ([i < n for i in range(240)] for n in (20, 30))
    found = difference(changed(a, invalid=one), changed(a, invalid=two), draws=50)
    assert found.flips == 10, "invalid in both is the same, invalid in one is not"


def test_agreement_with_a_constant_is_that_of_chance_and_of_two_constants_has_no_kappa() -> None:
    a = table()
    neutral = constant_reference(a, "Neutral")
    assert difference(a, neutral, draws=50).kappa == pytest.approx(0)
    same = difference(neutral, neutral, draws=50)
    assert (same.flips, same.kappa) == (0, None)
