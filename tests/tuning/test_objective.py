"""The closed-set objective: cross-entropy over all labels, by hand from one plain prompt per label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model_state_dict
from rich.console import Console
from safetensors.torch import load_file

from erc_llm.config import RunConfig, SamplingConfig
from erc_llm.corpus.labels import EMORYNLP, LabelSet
from erc_llm.errors import InternalError
from erc_llm.prompting.prompter import Prompter
from erc_llm.prompting.templates import load_prompt
from erc_llm.recipes.train import target_sampler, train
from erc_llm.trees.forest import pack, rows_of
from erc_llm.trees.tree import TokenTree
from erc_llm.tuning.objective import require_gold, target_losses, target_weights, total_log_likelihood
from erc_llm.tuning.scene_trees import scene_sizes, training_trees
from erc_llm.tuning.trainer import fit
from tests.tiny_models import TinyModel, chatml_tokenizer
from tests.tiny_runs import tiny_config, write_corpus
from tests.trees.random_trees import random_tree
from tests.tuning.fits import (
    GRADIENT_TOLERANCE,
    LOSS_TOLERANCE,
    SCENES,
    Watcher,
    fit_settings,
    largest_difference,
    three_steps,
    tiny_adapter,
)

CLOSED = RunConfig.model_validate({"training": {"objective": "closed_set"}})
SAMPLING = SamplingConfig(scheme="square_root", allow_absent=True)


def _prompter(labels: LabelSet = EMORYNLP) -> Prompter:
    return Prompter(chatml_tokenizer(), load_prompt("instruct"), labels)


def _asked(sampling: SamplingConfig = SAMPLING, epochs: int = 2) -> list[Any]:
    sampler = target_sampler(sampling, SCENES, EMORYNLP, 13)
    return [sampler.asked(epoch) for epoch in range(epochs)]


def _by_hand(model: Any, trees: Sequence[TokenTree], golds: dict[tuple[int, int], str]) -> tuple[torch.Tensor, float]:
    """Weighted sum of -log of the gold label's share among all labels, and the sum of weights.

    One plain causal forward over each label's root path; `golds` names the label of target `k` of tree `i`.
    """
    total, weight = torch.zeros(()), 0.0
    for i, tree in enumerate(trees):
        for question in tree.questions:
            likelihoods = []
            for answer in question.answers:
                ids = torch.from_numpy(tree.token_ids[tree.root_path(answer[-1])])
                steps = model(input_ids=ids[None]).logits[0].float().log_softmax(-1)[-len(answer) - 1 : -1]
                likelihoods.append(steps.gather(1, ids[-len(answer) :, None]).sum())
            shares = torch.stack(likelihoods).softmax(0)
            assert len(shares) == len(EMORYNLP)
            total = total - question.weight * shares[EMORYNLP.index(golds[i, question.target])].log()
            weight += question.weight
    return total, weight


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize(("sampling", "normalised"), [
    (SamplingConfig(), True),
    (SAMPLING, True),
    (SamplingConfig(loss_weights="inverse_frequency", allow_absent=True), True),
    (SamplingConfig(loss_weights="inverse_frequency", allow_absent=True), False),
], ids=["all", "drawn", "weighted", "unnormalised"])  # fmt: skip
def test_a_step_is_the_cross_entropy_over_all_labels(
    sampling: SamplingConfig, normalised: bool, parts: int, tiny_llama: TinyModel, tmp_path: Path
) -> None:
    """Loss and LoRA gradients of the first step, whatever it is split into."""
    trees_of = training_trees(CLOSED, SCENES, _prompter(), None, _asked(sampling))
    schedule, watcher, model = three_steps(parts), Watcher(), tiny_adapter(tiny_llama)
    plan = fit_settings(accumulation=parts, objective="closed_set", normalised=normalised)
    fit(model, tiny_llama.tokenizer, schedule, trees_of, plan, tmp_path, [watcher])
    scenes = [scene for batch in three_steps().steps[0] for scene in batch.scenes]
    built = [(scene, tree) for scene in scenes for tree in trees_of(scene, 0)]
    trees = [tree for _, tree in built]
    golds = {
        (i, q.target): str(SCENES[scene].utterances[q.target].label)
        for i, (scene, tree) in enumerate(built)
        for q in tree.questions
    }
    by_hand = tiny_adapter(tiny_llama)
    total, weights = _by_hand(by_hand, trees, golds)
    expected = total / (weights if normalised else len(golds))
    assert watcher.losses[0] == pytest.approx(expected.item(), abs=2 * LOSS_TOLERANCE)
    expected.backward()
    gradients = {n: p.grad for n, p in by_hand.named_parameters() if p.grad is not None}
    assert largest_difference(watcher.gradients[0], gradients) < GRADIENT_TOLERANCE


def test_it_is_another_training_than_that_on_labels(tiny_llama: TinyModel, tmp_path: Path) -> None:
    adapters = []
    for objective in ("label", "closed_set"):
        config = RunConfig.model_validate({"training": {"objective": objective}})
        model = tiny_adapter(tiny_llama)
        trees_of = training_trees(config, SCENES, _prompter(), None)
        fit(
            model,
            tiny_llama.tokenizer,
            three_steps(),
            trees_of,
            fit_settings(objective=objective),
            tmp_path / objective,
            [],
        )
        adapters.append({k: v.clone() for k, v in get_peft_model_state_dict(model).items()})
    assert largest_difference(*adapters) > 1e-3


# Trees.


def test_drawn_questions_carry_all_labels_their_gold_and_their_weight() -> None:
    asked = _asked()
    trees_of = training_trees(CLOSED, SCENES, _prompter(), None, asked)
    for number, scene in enumerate(SCENES):
        found = {q.target: q for tree in trees_of(number, 1) for q in tree.questions}
        assert {k: q.weight for k, q in found.items()} == asked[1][number]
        for k, question in found.items():
            assert question.labels == tuple(range(7))
            assert question.gold == EMORYNLP.index(str(scene.utterances[k].label))


def test_a_gold_label_changes_nothing_that_is_read() -> None:
    """The whole tree stays as it is, answers too: only the record of what is right differs."""
    others = [
        replace(
            scene, utterances=tuple(replace(u, label="Sad" if u.label != "Sad" else "Mad") for u in scene.utterances)
        )
        for scene in SCENES
    ]
    before, after = (training_trees(CLOSED, scenes, _prompter(), None) for scenes in (SCENES, others))
    for number in range(len(SCENES)):
        for one, other in zip(before(number, 0), after(number, 0), strict=True):
            assert one.token_ids.tolist() == other.token_ids.tolist()
            assert one.parent.tolist() == other.parent.tolist()
            golds = [(a.gold, b.gold) for a, b in zip(one.questions, other.questions, strict=True)]
            assert all(a != b for a, b in golds)


def test_sizes_count_the_branches_of_all_labels() -> None:
    asked, prompter = _asked(), _prompter()
    sizes = scene_sizes(training_trees(CLOSED, SCENES, prompter, None), asked)
    trees_of = training_trees(CLOSED, SCENES, prompter, None, asked)
    label = scene_sizes(training_trees(RunConfig(), SCENES, prompter, None), asked)
    for epoch in range(2):
        assert sizes[epoch] == [sum(map(rows_of, trees_of(scene, epoch))) for scene in range(len(SCENES))]
        assert all(a > b for a, b in zip(sizes[epoch], label[epoch], strict=True) if b)


# The loss by itself.


def test_losses_of_a_forest_with_any_number_of_answers() -> None:
    trees = [with_gold(random_tree(seed, labels=labels), seed) for seed, labels in ((1, 3), (2, 5), (3, 1))]
    forest = pack(trees)
    generator = torch.Generator().manual_seed(0)
    likelihoods = -2000 * torch.rand(forest.answers, generator=generator)
    questions = [question for tree in trees for question in tree.questions]
    sizes = [len(question.answers) for question in questions]
    for loss, size in (("label", None), ("closed_set", sizes)):
        found = target_losses(likelihoods, forest, loss)  # type: ignore[arg-type]
        for question, own, value in zip(questions, likelihoods.split(sizes), found, strict=True):
            gold = own[question.labels.index(question.gold)]
            expected = -gold if size is None or len(own) == 1 else own.logsumexp(0) - gold
            assert float(value) == pytest.approx(float(expected), rel=1e-5, abs=1e-3)
    assert target_weights(forest).tolist() == [question.weight for question in questions]
    assert torch.isfinite(total_log_likelihood(likelihoods, forest)).all()


def with_gold(tree: TokenTree, seed: int) -> TokenTree:
    questions = tuple(replace(q, gold=q.labels[(seed + q.target) % len(q.labels)]) for q in tree.questions)
    return replace(tree, questions=questions)


def test_a_question_without_its_gold_answer_is_our_mistake() -> None:
    require_gold(pack([with_gold(random_tree(1), 1)]))
    with pytest.raises(InternalError, match="no gold answer"):
        require_gold(pack([with_gold(random_tree(1), 1), random_tree(2)]))


# Whole trainings.


def test_a_run_may_combine_it_with_draws_shuffled_labels_and_accumulation(
    tiny_llama: TinyModel, tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "corpus", train=12)
    sections: dict[str, Any] = {
        "sampling": SAMPLING.model_dump(),
        "prompt": {"shuffle_labels": True},
        "training": {"objective": "closed_set", "accumulation": 2, "tokens_per_step": 1500, "evaluations": 1},
    }
    runs = [
        train(tiny_config(tiny_llama, corpus, tmp_path / name, **sections), console=Console(quiet=True))
        for name in ("one", "two")
    ]
    one, two = (load_file(run.adapter / "adapter_model.safetensors") for run in runs)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert runs[0].config.training.objective == "closed_set"
