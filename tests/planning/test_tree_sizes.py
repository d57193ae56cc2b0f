"""Sizes of trees without a model, against the forests that the prompter and the packing make."""

from __future__ import annotations

from pathlib import Path

import pytest

from erc_llm.build import build_prompter
from erc_llm.config import load_config
from erc_llm.corpus import EMORYNLP, read_sample
from erc_llm.models.loading import load_tokenizer
from erc_llm.planning.token_counts import token_counter
from erc_llm.planning.tree_sizes import SceneMeter, TreeOptions
from erc_llm.prompting.prompter import spoken_labels
from erc_llm.prompting.templates import load_prompt
from erc_llm.trees.forest import pack, read_nodes
from erc_llm.tuning.scene_trees import training_trees
from tests.tiny_models import TinyModel


@pytest.mark.parametrize("context", ["past", "full"])
@pytest.mark.parametrize(("answers", "all_answers"), [("gold", False), ("gold_all", True)])
@pytest.mark.parametrize("budget", [2048, 256])
def test_with_the_tokenizer_they_are_the_forests_own(
    tiny_llama2_base: TinyModel, context: str, answers: str, all_answers: bool, budget: int
) -> None:
    overrides = ["prompt.template=plain", f"prompt.context={context}", f"prompt.trunk_budget={budget}"]
    config = load_config("sample", [*overrides, "profile.writer=none"])
    prompter = build_prompter(config, EMORYNLP, load_tokenizer(str(tiny_llama2_base.folder)), past="none")
    options = TreeOptions(EMORYNLP.names, context=context, trunk_budget=budget, all_answers=all_answers)
    counter = token_counter(Path(tiny_llama2_base.folder) / "tokenizer.json", 1)
    meter = SceneMeter(load_prompt("plain"), options, counter)
    for scene in read_sample().split("train")[:6]:
        trees = prompter.trees(scene, answers)  # type: ignore[arg-type]
        forest = pack(trees)
        size = meter.size(scene)
        assert size.targets == len(scene.targets)
        assert size.rows == pytest.approx(forest.rows, rel=0.06, abs=2)  # answers that begin alike share their tokens
        assert size.logit_rows == pytest.approx(len(forest.logit_rows), rel=0.30 if all_answers else 0.0)
        masks = sum((t.stop - t.start - t.trunk) * (t.stop - t.start) for t in forest.layouts)
        assert size.mask == pytest.approx(masks, rel=0.15)


@pytest.mark.parametrize(
    "switch", ["prompt.lookahead=2", "prompt.trunk_lines=4", "prompt.answer=coarse_then_label", "words"]
)
def test_switches_of_prompt_and_training_are_counted(tiny_llama2_base: TinyModel, switch: str) -> None:
    overrides = ["training.auxiliary.words=0.5" if switch == "words" else switch, "profile.writer=none"]
    config = load_config("sample", ["prompt.template=plain", *overrides])
    prompter = build_prompter(config, EMORYNLP, load_tokenizer(str(tiny_llama2_base.folder)), past="none")
    counter = token_counter(Path(tiny_llama2_base.folder) / "tokenizer.json", 1)
    options = TreeOptions(
        EMORYNLP.names,
        spoken=spoken_labels(EMORYNLP, config.prompt.answer),
        lookahead=config.prompt.lookahead,
        trunk_lines=config.prompt.trunk_lines,
        words=switch == "words",
    )
    meter = SceneMeter(load_prompt("plain"), options, counter)
    scenes = read_sample().split("train")[:6]
    trees_of = training_trees(config, scenes, prompter, None)
    for number, scene in enumerate(scenes):
        trees = trees_of(number, 0)
        forest, size = pack(trees), meter.size(scene)
        assert size.rows == pytest.approx(forest.rows, rel=0.01)
        assert size.logit_rows == pytest.approx(len(forest.logit_rows), rel=0.03)
        attended = sum(len(tree.root_path(node)) for tree in trees for node in read_nodes(tree))
        assert size.attended == pytest.approx(attended, rel=0.01)


def test_one_prompt_per_utterance_is_the_root_paths(tiny_llama2_base: TinyModel) -> None:
    config = load_config("sample", ["profile.writer=none"])
    prompter = build_prompter(config, EMORYNLP, load_tokenizer(str(tiny_llama2_base.folder)), past="none")
    counter = token_counter(Path(tiny_llama2_base.folder) / "tokenizer.json", 1)
    meter = SceneMeter(load_prompt("plain"), TreeOptions(EMORYNLP.names), counter)
    scene = read_sample().split("train")[0]
    tree = prompter.trees(scene, "gold")[0]
    paths = sum(len(tree.root_path(question.answers[0][-1])) - 1 for question in tree.questions)
    assert meter.size(scene).prompt_tokens == pytest.approx(paths, rel=0.01)


def test_the_estimate_is_near_a_real_tokenizer_and_says_so() -> None:
    counter = token_counter(None, 32_000)
    assert counter.count("Monica: There's nothing to tell!\n") == 12  # Llama-2's own: 11
    assert counter.count_words(" joyful") == 1
    assert "estimated at 2.9 characters a token" in counter.description
    assert "3.1 characters" in token_counter(None, 128_256).description


def test_profiles_and_states_make_trees_larger() -> None:
    scene = read_sample().split("train")[0]
    counter = token_counter(None, 32_000)

    def rows(**options: object) -> int:
        meter = SceneMeter(load_prompt("plain"), TreeOptions(EMORYNLP.names, **options), counter)  # type: ignore[arg-type]
        return meter.size(scene).rows

    speakers = {speaker for utterance in scene.utterances for speaker in utterance.speakers}
    assert rows(profile=60) == rows() + 60 * len(speakers)
    assert rows(profile=60, profile_in_question=True) > rows(profile=60)
    assert rows(state=True) == rows() + 14 * len(scene.targets)
    assert rows(retrieved=26) == rows() + 26 * len(scene.targets)
    assert rows(retrieved=26, retrieved_in_trunk=True) == rows() + 26
