"""Labels of conversations: the same whole, line by line, and after caches were dropped; and how many are kept."""

from __future__ import annotations

from typing import Any

import pytest

from erc_llm.predictor import LabelledUtterance, Predictor
from erc_llm.runs.opened import Opened
from erc_llm.ui.conversations import Conversations, Labels, Lines, dialogue_of
from tests.test_predictor import LINES, TOLERANCE, assert_same, chatml_predictor, config_of
from tests.tiny_models import TinyModel

SPOKEN: Lines = tuple(((who,), f"{text} {k}") for k, (who, text) in enumerate(LINES * 3))


@pytest.fixture(scope="module")
def predictor(tiny_llama: TinyModel) -> Predictor:
    return chatml_predictor(tiny_llama)  # its windows hold only a few lines


def known(labels: Labels) -> list[LabelledUtterance]:
    return [label for label in labels if label is not None]


def test_line_by_line_gives_the_labels_of_the_whole(predictor: Predictor) -> None:
    conversations = Conversations()
    whole = predictor.predict(dialogue_of(SPOKEN))
    for count in range(1, len(SPOKEN) + 1):
        assert_same(known(conversations.labels(0, predictor, SPOKEN[:count])), whole[:count])


def test_a_line_after_a_pasted_conversation_is_read_on_a_cache(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversations = Conversations()
    pasted = known(conversations.labels(0, predictor, SPOKEN[:-2]))
    whole = predictor.predict(dialogue_of(SPOKEN))
    monkeypatch.setattr(Predictor, "predict", lambda *_: pytest.fail("the whole conversation was scored again"))
    for count in (len(SPOKEN) - 1, len(SPOKEN)):
        assert_same(known(conversations.labels(0, predictor, SPOKEN[:count])), whole[:count])
    assert_same(pasted, whole[:-2])
    assert conversations.cached_bytes > 0


def test_dropped_caches_change_no_label(predictor: Predictor) -> None:
    conversations = Conversations(cache_bytes=1)
    whole = predictor.predict(dialogue_of(SPOKEN))
    for count in range(1, len(SPOKEN) + 1):
        assert_same(known(conversations.labels(0, predictor, SPOKEN[:count])), whole[:count])
        assert conversations.cached_bytes == 0


def test_conversations_are_apart_and_few_are_kept(predictor: Predictor) -> None:
    conversations = Conversations(most=2)
    others = [tuple(((f"Speaker {n}",), text) for _, text in SPOKEN[:4]) for n in range(4)]
    expected = [predictor.predict(dialogue_of(lines)) for lines in others]
    for count in range(1, 5):
        for lines, labels in zip(others, expected, strict=True):
            assert_same(known(conversations.labels(0, predictor, lines[:count])), labels[:count])
    assert len(conversations._kept) == 2


def test_systems_that_label_the_same_lines_in_turn_are_kept_apart(tiny_llama: TinyModel, predictor: Predictor) -> None:
    other = Predictor(Opened(config_of(tiny_llama, prompt={"template": "instruct", "names": "full"})), predictor.loaded)
    conversations = Conversations()
    for count in range(1, 6):
        for number, asked in ((1, other), (0, predictor)):
            labels = known(conversations.labels(number, asked, SPOKEN[:count]))
            assert_same(labels, asked.predict(dialogue_of(SPOKEN[:count])))
    one, two = (asked.predict(dialogue_of(SPOKEN[:5]))[-1].log_likelihoods for asked in (predictor, other))
    assert max(abs(one[name] - two[name]) for name in one) > 10 * TOLERANCE


def test_an_empty_line_has_no_label_and_is_context(predictor: Predictor) -> None:
    lines: Lines = ((("Ann",), "Hello."), (("Bob",), " "), (("Ann",), "Are you there?"))
    conversations = Conversations()
    for count in (1, 2, 3):
        labels = conversations.labels(0, predictor, lines[:count])
    assert [label is None for label in labels] == [False, True, False]
    assert_same(known(labels), predictor.predict(dialogue_of(lines)))


@pytest.mark.parametrize("prompt", [{"context": "full"}, {"lookahead": 1, "template": "quoting"}])
def test_a_model_that_reads_later_lines_labels_all_of_them_again(
    tiny_llama: TinyModel, predictor: Predictor, prompt: dict[str, Any]
) -> None:
    reading = Predictor(Opened(config_of(tiny_llama, prompt={"template": "instruct"} | prompt)), predictor.loaded)
    conversations = Conversations()
    for count in (1, 2, 3):
        labels = conversations.labels(0, reading, SPOKEN[:count])
        assert_same(known(labels), reading.predict(dialogue_of(SPOKEN[:count])))
    first = reading.predict(dialogue_of(SPOKEN[:1]))[0].log_likelihoods
    changed = known(labels)[0].log_likelihoods
    assert max(abs(first[name] - changed[name]) for name in first) > TOLERANCE


def test_lines_that_state_predictions_are_labelled_alike(tiny_llama: TinyModel, predictor: Predictor) -> None:
    config = config_of(tiny_llama, prompt={"template": "instruct"}, state={"source": "predicted"})
    stating = Predictor(Opened(config), predictor.loaded)
    assert stating.uses_state
    conversations = Conversations()
    conversations.labels(0, stating, SPOKEN[:5])
    assert_same(known(conversations.labels(0, stating, SPOKEN[:6])), stating.predict(dialogue_of(SPOKEN[:6])))
