"""Whole scenes to label scores, in one pass or two; and the live session that does the same line by line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from erc_llm.corpus.dialogues import Corpus
from erc_llm.corpus.labels import EMORYNLP
from erc_llm.decoding.scenes import score_scenes, state_of
from erc_llm.decoding.scoring import score_trees
from erc_llm.predictor import Predictor, load_model
from tests.prompting.scenes import scene
from tests.test_predictor import LINES, TOLERANCE, assert_same, config_of, say_all
from tests.tiny_models import TinyModel

SCENES = [scene(*(LINES[k:] * 2)) for k in range(3)]
TOLD = {"source": "predicted"}


def predictor_of(tiny: TinyModel, past: Corpus | None = None, **sections: Any) -> Predictor:
    config = config_of(tiny, **sections)
    return Predictor(config, EMORYNLP, load_model(config), past=past)


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
