"""Which errors are the most confident, and the lines around them."""

from __future__ import annotations

import numpy as np

from erc_llm.evaluation.confident_errors import ERRORS, LINES_AFTER, LINES_BEFORE, WITH_SCENE, confident_errors
from tests.evaluation.compared_tables import LABELS, SIZE, changed, table


def test_errors_fall_in_probability_and_none_is_more_confident() -> None:
    given = table()
    errors = confident_errors(given)
    assert errors is not None
    assert len(errors) == ERRORS
    shown = [error.line.probability or 0 for error in errors]
    assert shown == sorted(shown, reverse=True)
    assert not any(error.line.right for error in errors)
    assert given.probabilities is not None
    wrong = given.gold_index != given.predicted_index
    largest = np.sort(given.probabilities.max(axis=1)[wrong])[::-1]
    assert shown == largest[:ERRORS].tolist()
    first = errors[0].line
    row = given.keys.index((errors[0].dialogue_id, errors[0].utterance_id))
    assert first.of_gold == given.probabilities[row, given.gold_index[row]]
    assert (first.gold, first.answer) == (LABELS[given.gold_index[row]], LABELS[given.predicted_index[row]])


def test_the_first_errors_have_their_scene_in_its_order() -> None:
    given = table()
    backwards = np.arange(len(given))[::-1].tolist()
    columns = {name: [values[i] for i in backwards] for name, values in given.columns().items()}
    errors = confident_errors(changed(given, **columns))
    assert errors is not None
    assert [bool(error.scene) for error in errors] == [rank < WITH_SCENE for rank in range(ERRORS)]
    for error in errors[:WITH_SCENE]:
        numbers = [line.number or 0 for line in error.scene]
        assert numbers == sorted(numbers)
        assert error.line in error.scene
        at = error.scene.index(error.line)
        assert at <= LINES_BEFORE
        assert len(error.scene) - at - 1 <= LINES_AFTER
        assert len(error.scene) <= SIZE


def test_the_probability_of_a_decided_answer_is_that_of_its_label() -> None:
    given = table()
    decided = changed(given, predicted=["Sad"] * len(given))
    errors = confident_errors(decided)
    assert errors is not None
    assert decided.probabilities is not None
    wrong = decided.gold_index != LABELS.index("Sad")
    assert errors[0].line.probability == decided.probabilities[wrong, LABELS.index("Sad")].max()


def test_without_probabilities_there_is_no_order_and_without_errors_no_error() -> None:
    given = table()
    assert confident_errors(changed(given, probabilities=None)) is None
    assert confident_errors(changed(given, predicted=given.gold)) == ()


def test_invalid_answers_and_rows_without_gold_are_no_confident_errors() -> None:
    given = table()
    wrong = given.gold_index != given.predicted_index
    assert confident_errors(changed(given, invalid=wrong.tolist())) == ()
    gold = [None if bad else label for bad, label in zip(wrong, given.gold or (), strict=True)]
    assert confident_errors(changed(given, gold=gold, previous_gold_same_speaker=None)) == ()


def test_without_text_and_places_the_lines_have_none() -> None:
    errors = confident_errors(changed(table(), text=None, position=None, speakers=None))
    assert errors is not None
    assert {(line.text, line.number, line.speaker) for error in errors for line in error.scene} == {(None, None, "")}
