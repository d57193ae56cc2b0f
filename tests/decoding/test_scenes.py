"""Whole scenes to label scores, in one pass or two; and the live session that does the same line by line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from erc_llm.build import build_model
from erc_llm.corpus.dialogues import Corpus
from erc_llm.corpus.labels import EMORYNLP, LabelSet
from erc_llm.decoding.scenes import mean_score, score_scenes, state_of
from erc_llm.decoding.scoring import LabelScores, score_trees
from erc_llm.predictor import Predictor
from erc_llm.prompting.prompter import scoring_orders
from erc_llm.runs.opened import Opened
from tests.prompting.scenes import scene
from tests.test_predictor import LINES, TOLERANCE, assert_same, config_of, say_all
from tests.tiny_models import TinyModel

SCENES = [scene(*(LINES[k:] * 2)) for k in range(3)]
TOLD = {"source": "predicted"}


def predictor_of(tiny: TinyModel, past: Corpus | None = None, **sections: Any) -> Predictor:
    config = config_of(tiny, **sections)
    return Predictor(Opened(config), build_model(config), past)


def test_two_passes_by_hand(tiny_llama: TinyModel) -> None:
    predictor = predictor_of(tiny_llama, state=TOLD)
    model, prompter = predictor.loaded.model, predictor.prompter
    found = predictor.scores(SCENES)
    for dialogue, scores in zip(SCENES, found, strict=True):
        (first,) = score_trees(model, prompter.trees(dialogue, "all"))
        state = state_of(dialogue, first, EMORYNLP.names)
        (second,) = score_trees(model, prompter.trees(dialogue, "all", state=state))
        for one, other in zip(scores, second, strict=True):
            assert one.log_likelihoods == pytest.approx(other.log_likelihoods, abs=TOLERANCE, rel=0)
        told = max(abs(a.log_likelihoods - b.log_likelihoods).max() for a, b in zip(first, second, strict=True))
        assert told > 10 * TOLERANCE, "the second pass reads what the first one answered"


def test_the_first_line_is_told_nothing(tiny_llama: TinyModel) -> None:
    predictor = predictor_of(tiny_llama, state=TOLD)
    one, two = (score_scenes(predictor.loaded.model, predictor.prompter, SCENES, passes=n) for n in (1, 2))
    for a, b in zip(one, two, strict=True):
        assert a[0].log_likelihoods == pytest.approx(b[0].log_likelihoods, abs=TOLERANCE, rel=0)


@pytest.mark.parametrize("trunk_budget", [2048, 96])
@pytest.mark.parametrize("placement", ["trunk", "question"])
def test_a_live_session_with_profiles_and_state_equals_batch(
    tiny_llama: TinyModel, trunk_budget: int, placement: str
) -> None:
    scenes = (replace(scene(*lines), id=f"past{k}") for k, lines in enumerate((LINES[:3], LINES[1:])))
    past = Corpus("past", "own", EMORYNLP, {"train": tuple(scenes)})
    predictor = predictor_of(
        tiny_llama,
        past,
        prompt={"template": "plain", "trunk_budget": trunk_budget},
        profile={"writer": "lines", "placement": placement, "budget": 24},
        state=TOLD,
    )
    dialogue = scene(*[(who, f"{text} {k}") for k, (who, text) in enumerate(LINES * 2)])
    assert any("profile" in {s.kind for s in t.spans} for t in predictor.prompter.trees(dialogue, "all"))
    assert_same(say_all(predictor, dialogue), predictor.predict(dialogue))


def test_progress_ends_with_the_number_of_scenes(tiny_llama: TinyModel, tmp_path: Path) -> None:
    predictor = predictor_of(tiny_llama, state=TOLD)
    told: list[int] = []
    predictor.scores(SCENES, told.append)
    assert told == sorted(told)
    assert told[-1] == len(SCENES)


# Several orders of the labels.

APART = [replace(dialogue, id=f"scene {k}") for k, dialogue in enumerate(SCENES)]


def averaging(tiny: TinyModel, orders: int = 3, **sections: Any) -> Predictor:
    return predictor_of(tiny, scoring={"label_orders": orders}, **sections)


def test_scores_are_the_mean_of_the_probabilities_under_each_order(tiny_llama: TinyModel) -> None:
    predictor = averaging(tiny_llama)
    prompter, model = predictor.prompter, predictor.loaded.model
    for dialogue, found in zip(APART, predictor.scores(APART), strict=True):
        orders = scoring_orders(EMORYNLP, 3, predictor.config.seed, dialogue.id)
        singly = [score_trees(model, prompter.trees(dialogue, "all", label_order=order))[0] for order in orders]
        for same, score in zip(zip(*singly, strict=True), found, strict=True):
            mean = np.mean([np.exp(s.log_likelihoods) for s in same], axis=0)
            assert score.log_likelihoods == pytest.approx(np.log(mean), abs=TOLERANCE, rel=0)
            assert score.probabilities == pytest.approx(mean / mean.sum(), abs=1e-6)
            assert score.label_mass == pytest.approx(mean.sum(), rel=1e-4)
            spread = max(abs(s.log_likelihoods - same[0].log_likelihoods).max() for s in same)
            assert spread > 10 * TOLERANCE, "the order is nothing to this model, so the test shows nothing"


def test_the_orders_of_a_scene_depend_on_nothing_beside_it(tiny_llama: TinyModel) -> None:
    predictor = averaging(tiny_llama)
    alone = [predictor.scores([dialogue])[0] for dialogue in APART]
    for one, other in zip(alone[::-1], predictor.scores(APART[::-1]), strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.log_likelihoods == pytest.approx(b.log_likelihoods, abs=TOLERANCE, rel=0)


def test_one_order_is_the_prompt_as_it_always_was(tiny_llama: TinyModel) -> None:
    one, before = (p.scores(APART) for p in (averaging(tiny_llama, 1), predictor_of(tiny_llama)))
    for a, b in zip(one, before, strict=True):
        assert [s.log_likelihoods.tolist() for s in a] == [s.log_likelihoods.tolist() for s in b]
    assert scoring_orders(EMORYNLP, 1, 13, "any") == (EMORYNLP.names,)


def test_orders_are_the_canonical_one_and_others_drawn_by_seed_and_scene() -> None:
    orders = scoring_orders(EMORYNLP, 5, 13, "scene")
    assert orders[0] == EMORYNLP.names
    assert len(set(orders)) == 5
    assert all(sorted(order) == sorted(EMORYNLP.names) for order in orders)
    assert orders == scoring_orders(EMORYNLP, 5, 13, "scene")
    assert orders[:3] == scoring_orders(EMORYNLP, 3, 13, "scene"), "more orders keep those there were"
    assert orders[1:] != scoring_orders(EMORYNLP, 5, 14, "scene")[1:]
    assert orders[1:] != scoring_orders(EMORYNLP, 5, 13, "other")[1:]


def test_two_labels_have_two_orders_and_may_be_asked_for_more() -> None:
    orders = scoring_orders(LabelSet(("calm", "cross")), 6, 13, "scene")
    assert len(orders) == 6
    assert set(orders[:2]) == {("calm", "cross"), ("cross", "calm")}


@pytest.mark.parametrize("trunk_budget", [2048, 96])
@pytest.mark.parametrize("state", ["none", "predicted"])
def test_a_live_session_averages_as_batch_does(tiny_llama: TinyModel, trunk_budget: int, state: str) -> None:
    predictor = averaging(tiny_llama, prompt={"trunk_budget": trunk_budget}, state={"source": state})
    dialogue = replace(scene(*(LINES * 2)), id="tonight")
    session = predictor.live("tonight")
    live = [session.say(u.speakers, u.text) for u in dialogue.utterances]
    assert_same(live, predictor.predict(dialogue))
    other = predictor.live("tomorrow").say(dialogue.utterances[0].speakers, dialogue.utterances[0].text)
    moved = max(abs(other.log_likelihoods[k] - live[0].log_likelihoods[k]) for k in EMORYNLP.names)
    assert moved > 10 * TOLERANCE, "another dialogue has other orders"


def test_a_second_pass_is_told_what_the_mean_of_the_first_one_says(tiny_llama: TinyModel) -> None:
    predictor = averaging(tiny_llama, state=TOLD)
    first = score_scenes(predictor.loaded.model, predictor.prompter, APART[:1], label_orders=3, seed=13)[0]
    state = state_of(APART[0], first, EMORYNLP.names)
    orders = scoring_orders(EMORYNLP, 3, 13, APART[0].id)
    trees = [predictor.prompter.trees(APART[0], "all", label_order=order, state=state) for order in orders]
    singly = [score_trees(predictor.loaded.model, tree)[0] for tree in trees]
    for same, score in zip(zip(*singly, strict=True), predictor.scores(APART[:1])[0], strict=True):
        assert score.log_likelihoods == pytest.approx(mean_score(same).log_likelihoods, abs=TOLERANCE, rel=0)


def test_hopeless_labels_are_averaged_without_underflow() -> None:
    far = [LabelScores(0, np.array([-2000.0, -3000.0])), LabelScores(0, np.array([-2001.0, -1e300]))]
    mean = mean_score(far)
    assert mean.log_likelihoods == pytest.approx([-2000 + np.log((1 + np.exp(-1)) / 2), -3000 - np.log(2)])
    assert mean.probabilities.sum() == pytest.approx(1)
